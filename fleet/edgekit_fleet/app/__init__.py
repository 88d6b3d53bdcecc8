"""The fleet manager put together, and the routes of its own.

Goes in: the options of ``edgekit-fleet serve``. Comes out: a ``compose.Fleet``, which starts and stops
every part, and its FastAPI application (``application``). Parts get what they use as typed arguments;
``services.Services`` lists all of them. The routes here are about devices, enrolment, tokens and health;
those about bundles, rollouts, measurements and the pages come from their packages.

    fleet = Fleet(Options(data=Path("fleet-data")))
    fleet.start()
    app = create_app(fleet.services)
"""
