"""The types and decisions that every part of edgekit shares: no I/O, no clock, no vendor library.

Goes in: bytes and plain data. Comes out: checked structures, and decisions made from them. ``spec`` has
bundles, hardware facts and predictions; ``select`` chooses a variant; ``wire`` has the messages between
device and fleet; ``egress`` what may leave a device; ``errors`` every error with its exit code.

>>> from edgekit.core.select import satisfies
>>> satisfies("2.10", ">=2.9")
True
"""
