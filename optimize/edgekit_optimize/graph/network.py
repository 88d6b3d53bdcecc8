"""A feed-forward network as data, which can be executed in NumPy and written as a model file.

All tensors are channels-last, as in TensorFlow Lite: an image is (1, height, width, channels).
Golden samples and calibration ranges come from ``Network.run``, so they depend on no runtime library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import (
    WEIGHTED,
    Activation,
    Array,
    Kind,
    Layer,
    Shape,
    same_padding,
    spatial_padding,
)
from edgekit_optimize.graph.network_ops import compute, shape_of

__all__ = [
    "WEIGHTED",
    "Activation",
    "Array",
    "Kind",
    "Layer",
    "Network",
    "Shape",
    "fuse_activations",
    "same_padding",
    "spatial_padding",
]

_FUSABLE = WEIGHTED | {"add", "sub", "mul", "div"}


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in execution order, with the names of inputs and outputs and the input shapes."""

    inputs: dict[str, Shape]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor.

        Raises:
            ModelError: A layer reads a tensor that no earlier layer writes, or shapes do not match.
        """
        known = dict(self.inputs)
        for layer in self.layers:
            if layer.output in known:
                raise ModelError(f"two layers write {layer.output!r}")
            missing = [name for name in layer.inputs if name not in known]
            if missing:
                raise ModelError(
                    f"layer {layer.output!r} reads {missing[0]!r}, which no earlier layer writes"
                )
            known[layer.output] = shape_of(layer, [known[name] for name in layer.inputs])
        unwritten = [name for name in self.outputs if name not in known]
        if unwritten:
            raise ModelError(f"no layer writes output {unwritten[0]!r}")
        return known

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every tensor of the network, inputs included, in float32."""
        values = {name: np.asarray(feeds[name], np.float32) for name in self.inputs}
        for layer in self.layers:
            values[layer.output] = compute(layer, [values[name] for name in layer.inputs])
        return values

    def parameter_count(self) -> int:
        """Return the number of weights and biases."""
        return sum(a.size for layer in self.layers for a in (layer.weights, layer.bias) if a is not None)

    def renamed(self, names: Mapping[str, str]) -> Network:
        """Return the same network with tensors renamed, as ``{old: new}``."""
        return Network(
            {names.get(name, name): shape for name, shape in self.inputs.items()},
            tuple(
                replace(
                    layer,
                    inputs=tuple(names.get(name, name) for name in layer.inputs),
                    output=names.get(layer.output, layer.output),
                )
                for layer in self.layers
            ),
            tuple(names.get(name, name) for name in self.outputs),
        )


def fuse_activations(network: Network) -> Network:
    """Return the network with each ReLU fused into the layer before it, if nothing else reads that layer."""
    readers = Counter(name for layer in network.layers for name in layer.inputs)
    readers.update(network.outputs)
    layers: dict[str, Layer] = {}
    for layer in network.layers:
        before = layers.get(layer.inputs[0]) if layer.inputs else None
        if (
            layer.kind in ("relu", "relu6")
            and before is not None
            and before.kind in _FUSABLE
            and before.activation == "none"
            and readers[before.output] == 1
        ):
            del layers[before.output]
            kind: Activation = "relu" if layer.kind == "relu" else "relu6"
            also = (*before.also, before.output, *layer.also)
            layers[layer.output] = replace(before, output=layer.output, activation=kind, also=also)
        else:
            layers[layer.output] = layer
    return Network(network.inputs, tuple(layers.values()), network.outputs)
