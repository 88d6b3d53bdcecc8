"""Metrics that compare a candidate model with the float model on the evaluation set.

In: the outputs, and the decoded predictions if the metric needs them, of both models for every sample
(``table.Observed``), and the data with or without labels. Out: a ``Score`` with the value, the loss
against the float model, and its 95 % confidence interval.

>>> from edgekit_optimize.metrics.table import choose_metric, score
>>> metric = choose_metric("auto", "classify", dataset)  # doctest: +SKIP
>>> score(metric, reference, candidate, dataset).drop  # doctest: +SKIP
0.004
"""
