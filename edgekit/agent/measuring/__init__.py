"""Measurement jobs of the fleet: what do a bundle's variants cost on this very device?

Goes in: the arguments of the command ``measure``. Comes out: records of kind ``measurement``, the last of
them ``done`` or ``failed``. ``order`` checks a job and when it may run, ``runs`` fetches the bundle into a
folder of its own and starts ``job``, the child process that measures; no slot is touched.

>>> measuring = Measuring(state, reactor, clock, host, begin)  # doctest: +SKIP
>>> measuring.take(command.args)  # doctest: +SKIP
>>> reactor.every(1.0, measuring.tick)  # doctest: +SKIP
"""
