"""Smaller networks by training: pruning, distillation and quantisation-aware training of torch modules.

The rest of the kit changes how a network is stored and run; this package changes the network itself, and
so needs a function of the user's that trains it or yields training batches (see ``train``). In: the names
of the user's functions (``module:function``). Out: ``model.onnx`` in a folder and its ``Shrunk`` record.
Example::

    shrunk = prune("my_net:build", "my_net:train", folder, ratio=0.5, epochs=3, seed=0)
"""
