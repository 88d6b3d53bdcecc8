"""Bringing a published version to many devices in waves, and back if it behaves badly.

Goes in: a ``plan.Spec`` (version, waves, guards), update records and metric reports of devices from the
store. Comes out: signed desired states on the downlink. ``decide`` is the pure decision, ``machine`` the
table of states, ``evidence`` the statistics of the guards; ``observe`` reads what devices sent,
``engine`` carries the decisions out, ``desired`` signs and publishes, ``service`` runs the thread.

    engine.create(make_spec({"model": "person-detect", "version": "3.2.0", "waves": ["1", "100%"]}))
    engine.tick()  # every second, and whenever a device sends an update record
"""
