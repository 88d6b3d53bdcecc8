"""From frames to events: sources, preprocessing, decoders, the loop, sinks.

In: a pipeline's TOML (``config``), a model's manifest and its loaded backend. Out: for each frame a
``Prediction`` (items with label, score, box ...), events when something appears, vanishes or changes, and
documents in the sinks; ``Loop.stats()`` is what ``edgekit run --json`` prints.

    predictor = Predictor(manifest, variant, backend, labels)
    prediction = predictor.predict(pixels)
    Loop("door", source, predictor, sinks).run(frames=100)

A new source, sink or decoder is one file and one row of ``SOURCES``, ``SINKS`` or ``DECODERS``.
"""
