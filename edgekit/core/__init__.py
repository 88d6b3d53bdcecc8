"""What every part of edgekit agrees on: pure types and decisions, no I/O, no clock, no vendor library.

Layers, lowest first: ``errors``, ``spec``, ``select`` | ``wire`` | ``sketch``, ``ports``.
"""
