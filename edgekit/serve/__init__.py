"""Serves models on this machine over the Open Inference Protocol v2.

In: ``Offer``s (a model's name, version and how to open it) and ``Limits``. Out: an ASGI application and
the server that runs it: inference as JSON, binary tensors or pictures, ``/metrics`` and ``/status``.

    server = Server(App(Models([Entry(offer, Limits())]), Access(), Limits(), "1.0"), Limits())
    server.run()  # answers on each connection that ``server.take`` is given

Modules, each of which imports only earlier ones: ``ports`` (what a model must do), ``tensors`` and
``images`` (bytes to arrays and back), ``oip`` (one request and its answer), ``lane`` (a thread and a
bounded queue for each model), ``models`` (the served models), ``hosting`` (messages with the process that
holds the address), ``siblings`` (the processes of other models), ``app`` (ASGI), ``server`` (uvicorn).
"""
