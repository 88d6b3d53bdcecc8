"""Training: gradients are right, and a small network learns."""

import numpy as np
import pytest

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.zoo.training import Trainer, cross_entropy, forward, initial, squared_error


def small(rng):
    layers = (
        Layer("reshape", ("x",), "row", shape=(1, 8, 1, 2)),
        Layer(
            "conv",
            ("row",),
            "c",
            weights=initial((4, 3, 1, 2), rng),
            bias=np.zeros(4, np.float32),
            stride=(2, 1),
            activation="relu",
        ),
        Layer("mean", ("c",), "m"),
        Layer("dense", ("m",), "y", weights=initial((3, 4), rng), bias=np.zeros(3, np.float32)),
    )
    return Network({"x": (1, 8, 2)}, layers, ("y",))


@pytest.mark.parametrize("name", ["c", "y"])
def test_a_gradient_is_the_slope_of_the_loss(name, monkeypatch):
    rng = np.random.default_rng(5)
    network, inputs = small(rng), rng.normal(size=(6, 8, 2)).astype(np.float32)
    classes = np.array([0, 1, 2, 0, 1, 2])
    trainer = Trainer(network, cross_entropy)
    seen = {}
    monkeypatch.setattr(trainer, "_learn", seen.setdefault)
    trainer.step(inputs, classes)
    layer = next(layer for layer in network.layers if layer.output == name)
    for index in np.ndindex(layer.weights.shape):
        kept, losses = layer.weights[index], []
        for step in (-1e-2, 1e-2):
            layer.weights[index] = kept + step
            losses.append(cross_entropy(forward(network, inputs)["y"], classes)[0])
        layer.weights[index] = kept
        assert seen[name][0][index] == pytest.approx((losses[1] - losses[0]) / 2e-2, abs=2e-3)


def test_training_makes_the_loss_small():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(90, 8, 2)).astype(np.float32)
    classes = np.arange(90) % 3
    inputs[:, :, 0] += classes[:, np.newaxis] * 2
    trainer = Trainer(small(rng), cross_entropy, rate=2e-2)
    losses = [trainer.step(inputs, classes) for _ in range(150)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_squared_error_of_equal_arrays_is_zero_and_flat():
    loss, slope = squared_error(np.ones((2, 3), np.float32), np.ones((2, 3)))
    assert loss == 0
    assert not slope.any()


def test_a_layer_without_a_gradient_is_an_error():
    with pytest.raises((ModelError, KeyError)):
        Trainer(Network({"x": (1, 4)}, (Layer("softmax", ("x",), "y"),), ("y",)), squared_error).step(
            np.ones((2, 4), np.float32), np.ones((2, 4))
        )
