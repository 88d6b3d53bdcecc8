"""Several models in one pipeline: each on frames, or on crops of another one's items.

Imported only for a pipeline whose TOML has ``[[stage]]``. The first stage is the loop's own model: ``first``
says on which frames it runs, and on which tiles of them. What it found goes through the others, in the thread
that finishes frames; each waits for its model's lane, and the first model works on the next frame meanwhile::

    loop: first model -> finisher: tracker -> graph.Graph: later models -> redaction -> sinks

``tables`` has the keys of ``[[stage]]``, ``crops`` cuts and moves, ``calls`` runs a later stage's model.
"""
