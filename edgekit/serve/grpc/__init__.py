"""The Open Inference Protocol over gRPC: a process of its own before a server that speaks it over HTTP.

In: the URL or UNIX socket of ``edgekit serve`` or of the agent, and a port. Out: a gRPC server at that port::

    python -m edgekit.serve.grpc --target http://127.0.0.1:8000 --address 127.0.0.1:8001

It is a process of its own because gRPC brings 20 MB and threads, and cannot take connections that a front
hands over. Modules: ``messages`` (the protocol's messages, in a descriptor pool of their own),
``convert`` (messages to requests and back), ``gateway`` (gRPC).
"""
