"""Opens a model on this machine.

In: a bundle (folder, ``.ekb`` or bare model file) and explicit ``Choices``. Out: the variant that fits this
machine, opened in its runtime and checked, with the reason for every variant that was not chosen.
Everything that runs a model goes through here: ``run``, the agent, ``serve``, ``bench``, ``verify``,
``optimize`` and ``edgekit.load``.

    ready = open_ready("person-detect.ekb", Choices(threads=2))
    prediction = ready.predictor.predict(image)
    print(ready.why)
"""
