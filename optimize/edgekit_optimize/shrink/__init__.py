"""Smaller networks by training: pruning, distillation and quantisation-aware training of torch modules.

The rest of the kit changes how a network is stored and run; this changes the network, and therefore
needs a function of the user's that trains it or gives batches to train it on (``train``).
"""
