"""``edgekit optimize``: from one trained model to the fastest variant for every board within the gate.

In: a ``Request`` (model, data, boards, the accuracy that may be lost). Out: an ``Outcome`` (a bundle with
the chosen variants, ``report.html`` and ``report.json``). ``inputs`` reads the ``target_model`` and data,
``rules`` plans candidates, ``search`` makes and evaluates them with the ``candidate_runner``, ``choice``
picks one for each board, ``deliver`` writes the results. Work runs in child processes (``child_job``) and
is cached. Example::

    outcome = optimize(Request(model="model.onnx", data="pictures/", out=Path("model.ekb")))
"""
