"""Serves models on this machine over the Open Inference Protocol v2.

In: ``Offer``s (a model's name, version and how to open it) and ``Limits``. Out: an ASGI application and
the server that runs it: inference as JSON, binary tensors or pictures, ``/metrics`` and ``/status``.

    models = Models([Entry(offer, Limits())])
    run(App(models, Access(), Limits(), "1.0"), Address("127.0.0.1", 8000), Limits())

Modules, each of which imports only earlier ones: ``ports`` (what a model must do), ``tensors`` and
``images`` (bytes to arrays and back), ``oip`` (one request and its answer), ``lane`` (a thread and a
bounded queue for each model), ``models`` (the served models), ``app`` (ASGI), ``server`` (uvicorn).
"""
