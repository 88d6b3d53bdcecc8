"""The agent of a device: it keeps pipelines running, up to date and connected to the fleet.

Goes in: ``agent.toml`` and a state folder. Comes out: running pipelines, records in the outbox, and a
status on a local socket. ``supervisor`` is the small process that is always on; each pipeline runs in a
``worker`` process; ``measuring`` carries out the fleet's measurement jobs; ``config`` reads the files, and
``ipc`` has the messages between supervisor and worker. ``serving`` puts ``edgekit serve`` together: a
``front`` holds the address, each of its ``hosts`` is a process (``host``) with one model.

>>> config = load_agent_config(Path("agent.toml"))  # doctest: +SKIP
>>> Supervisor(config, environment()).run()  # doctest: +SKIP
"""
