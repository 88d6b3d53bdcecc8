"""Local serving of predictions over the Open Inference Protocol.

Layers, each of which knows only those before it: ``ports`` (what a model must do), ``tensors`` and
``images`` (bytes to arrays and back), ``oip`` (one inference request and its answer), ``lane`` (one
thread for each model, a bounded queue), ``models`` (what is served), ``app`` (ASGI), ``server``.
"""
