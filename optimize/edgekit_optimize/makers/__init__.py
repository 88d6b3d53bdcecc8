"""Makers: each function converts a float model into the files of one candidate, with one runtime's tools.

In: the float model and its calibration samples (``Root``), the candidate's options (``Plan``), and the folder
to write to. Out: a ``Made`` with the file names, notes for the report, tool versions, and the share of
multiply-adds that runs on integers if known. A maker raises ``ModelError`` if the model cannot be converted.

>>> from edgekit_optimize.makers.onnxruntime import make_static
>>> make_static(root, plan, folder).files  # doctest: +SKIP
('model.onnx',)
"""
