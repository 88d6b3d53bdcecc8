"""Train a ``Network`` in NumPy: enough for the zoo's own small models.

Supports the layers of those models (convolution, dense, mean, reshape, ReLU) and one optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.network import WEIGHTED, Array, Layer, Network, spatial_padding

Loss = Callable[[Array, NDArray[np.generic]], tuple[float, Array]]
"""Takes outputs and targets; returns the loss and its gradient with respect to the outputs."""


def initial(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return random weights (out, ..., in) that keep the variance of activations through a ReLU.

    Source: "Delving Deep into Rectifiers", He et al. 2015.
    """
    return rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape).astype(np.float32)


def cross_entropy(logits: Array, classes: NDArray[np.generic]) -> tuple[float, Array]:
    """Return the mean cross entropy of a softmax over the last axis, and its gradient."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    rows = np.arange(len(logits))
    loss = -float(np.log(shares[rows, classes] + 1e-12).mean())
    shares[rows, classes] -= 1.0
    return loss, (shares / len(logits)).astype(np.float32)


def squared_error(outputs: Array, targets: NDArray[np.generic]) -> tuple[float, Array]:
    """Return the mean squared error and its gradient."""
    difference = outputs - np.asarray(targets, np.float32)
    return float(np.mean(difference**2)), (2.0 / difference.size * difference).astype(np.float32)


class Trainer:
    """Adam on a network of one input and one output.

    Args:
        network: The initial network; its batch size of 1 does not matter here.
        loss: The loss to minimise.
        rate: Learning rate.
        decay: Weight decay: the share of every weight subtracted in each step, times ``rate``.

    Source: "Decoupled Weight Decay Regularization", Loshchilov and Hutter 2019.
    """

    def __init__(self, network: Network, loss: Loss, *, rate: float = 1e-3, decay: float = 1e-2) -> None:
        self._network, self._loss = network, loss
        self.rate, self._decay = rate, decay
        self._parameters: dict[str, tuple[Array, Array]] = {
            layer.output: (layer.parameters()[0].copy(), layer.parameters()[1].copy())
            for layer in network.layers
            if layer.kind in WEIGHTED
        }
        self._moments = {
            name: [np.zeros((2, *array.shape), np.float32) for array in pair]
            for name, pair in self._parameters.items()
        }
        self._steps = 0

    def network(self) -> Network:
        """Return the network with the current weights."""
        layers = tuple(self._current(layer) for layer in self._network.layers)
        return Network(self._network.inputs, layers, self._network.outputs)

    def step(self, inputs: Array, targets: NDArray[np.generic]) -> float:
        """Train on one batch, (count, ...), and return its loss."""
        values = forward(self.network(), inputs)
        output = self._network.outputs[0]
        loss, gradient = self._loss(values[output], targets)
        gradients = {output: gradient}
        self._steps += 1
        for layer in reversed(self.network().layers):
            flowing = gradients.pop(layer.output)
            if layer.activation != "none" or layer.kind == "relu":
                flowing = flowing * (values[layer.output] > 0)
            source = layer.inputs[0]
            back, own = _BACKWARD[layer.kind](layer, values[source], flowing)
            gradients[source] = gradients[source] + back if source in gradients else back
            if own is not None:
                self._learn(layer.output, own)
        return loss

    def _current(self, layer: Layer) -> Layer:
        if layer.output not in self._parameters:
            return layer
        weights, bias = self._parameters[layer.output]
        return replace(layer, weights=weights, bias=bias)

    def _learn(self, name: str, gradients: tuple[Array, Array]) -> None:
        first, second = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for array, moments, gradient in zip(
            self._parameters[name], self._moments[name], gradients, strict=True
        ):
            moments[0] += 0.1 * (gradient - moments[0])
            moments[1] += 0.001 * (gradient**2 - moments[1])
            kept = 1.0 - self.rate * self._decay if array.ndim > 1 else 1.0
            change = self.rate * (moments[0] / first) / (np.sqrt(moments[1] / second) + 1e-8)
            array[...] = array * kept - change


def forward(network: Network, inputs: Array) -> dict[str, Array]:
    """Return every tensor of a network for a batch (count, ...)."""
    values = {next(iter(network.inputs)): np.asarray(inputs, np.float32)}
    for layer in network.layers:
        if layer.kind == "reshape":
            values[layer.output] = values[layer.inputs[0]].reshape(len(inputs), *layer.shape[1:])
            continue
        sources = {name: values[name] for name in layer.inputs}
        single = Network({name: array.shape for name, array in sources.items()}, (layer,), (layer.output,))
        values[layer.output] = single.run(sources)[layer.output]
    return values


Back = tuple[Array, tuple[Array, Array] | None]


def _conv_back(layer: Layer, source: Array, flowing: Array) -> Back:
    weights, _ = layer.parameters()
    pad_h, pad_w = spatial_padding(layer, source.shape)
    padded = np.pad(source, ((0, 0), pad_h, pad_w, (0, 0)))
    back = np.zeros_like(padded)
    slopes = np.zeros_like(weights)
    flat = flowing.reshape(-1, flowing.shape[3])
    (stride_h, stride_w), (_, rows, columns, _) = layer.stride, flowing.shape
    for y in range(weights.shape[1]):
        for x in range(weights.shape[2]):
            window = (
                slice(None),
                slice(y, y + rows * stride_h, stride_h),
                slice(x, x + columns * stride_w, stride_w),
            )
            slopes[:, y, x] = flat.T @ padded[window].reshape(-1, source.shape[3])
            back[window] += (flat @ weights[:, y, x]).reshape(*flowing.shape[:3], -1)
    height, width = source.shape[1:3]
    inner = back[:, pad_h[0] : pad_h[0] + height, pad_w[0] : pad_w[0] + width]
    return inner, (slopes, flat.sum(axis=0))


def _dense_back(layer: Layer, source: Array, flowing: Array) -> Back:
    weights, _ = layer.parameters()
    return flowing @ weights, (flowing.T @ source, flowing.sum(axis=0))


def _mean_back(_layer: Layer, source: Array, flowing: Array) -> Back:
    share = flowing[:, np.newaxis, np.newaxis] / np.float32(source.shape[1] * source.shape[2])
    return np.broadcast_to(share, source.shape).astype(np.float32), None


def _unknown(layer: Layer, _source: Array, _flowing: Array) -> Back:
    raise ModelError(f"cannot train a {layer.kind!r} layer")


_BACKWARD: Mapping[str, Callable[[Layer, Array, Array], Back]] = {
    "conv": _conv_back,
    "dense": _dense_back,
    "mean": _mean_back,
    "reshape": lambda _layer, source, flowing: (flowing.reshape(source.shape), None),
    "relu": lambda _layer, _source, flowing: (flowing, None),
}
