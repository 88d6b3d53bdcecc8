"""The web UI: pages rendered on the server, kept live by server-sent events; they work without scripts.

Goes in: the fleet's parts (``site.UiParts``). Comes out: HTML at ``/``, ``/devices``, ``/bundles``,
``/rollouts`` and ``/login``, and ``/live``, which says what changed. ``guard`` refuses posts of other
sites and sets the security headers; ``signin`` turns an API token or a one-time link into a session;
``recent`` keeps each device's last minute in memory, so that lists need no scan of the metrics.

    pages.mount(app, UiParts(database=database, tokens=tokens, ...))
"""
