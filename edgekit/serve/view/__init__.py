"""The device's page: what its pipelines see, in a browser, without a framework and without a CDN.

In: a ``View`` for each pipeline, handed in by whoever runs them, and the token that a visitor needs. Out: an
ASGI application for ``/`` and what is below ``/page``: the newest frame with its items (latest frame wins,
encoded only while somebody watches), events as they come, thresholds that can be changed.

Modules, each of which imports only earlier ones: ``ports`` (what a pipeline must do), ``login`` (the token
and its cookie), ``feed`` (one encoding for all watchers), ``page`` (the routes), ``app`` (the page alone).
"""
