"""The network description: shapes, meaning, and what it refuses."""

import numpy as np
import pytest

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.network import Layer, Network, fuse_activations

from .nets import conv, every_kind


def test_every_tensor_that_runs_has_the_shape_that_was_inferred():
    network = every_kind()
    values = network.run({"x": np.ones((1, 13, 17, 3), np.float32)})
    assert {name: value.shape for name, value in values.items()} == network.shapes()


def test_fusing_activations_changes_nothing_but_the_number_of_layers():
    network = every_kind()
    fused = fuse_activations(network)
    assert len(fused.layers) == len(network.layers) - 2
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 13, 17, 3)).astype(np.float32)}
    before, after = network.run(feeds), fused.run(feeds)
    for name in network.outputs:
        np.testing.assert_array_equal(before[name], after[name])


def test_an_activation_is_not_fused_where_something_else_reads_what_is_before_it():
    layers = (
        conv("a", "x", np.ones((2, 1, 1, 2))),
        Layer("relu", ("a",), "b"),
        Layer("add", ("a", "b"), "c"),
    )
    network = Network({"x": (1, 2, 2, 2)}, layers, ("c",))
    assert fuse_activations(network).layers == layers


def test_renaming_the_ends_gives_the_same_network_under_other_names():
    network = every_kind().renamed({"x": "image", "boxes": "found"})
    values = network.run({"image": np.ones((1, 13, 17, 3), np.float32)})
    assert values["found"].shape == (1, 83, 8)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Layer("relu", ("nothing",), "y"), "which no earlier layer writes"),
        (Layer("relu", ("x",), "x"), "two layers write"),
        (Layer("reshape", ("x",), "y", shape=(1, 7)), "cannot reshape"),
        (Layer("conv", ("x",), "y"), "has no weights"),
        (conv("y", "x", np.ones((2, 1, 1, 9))), "needs 9 input channels"),
    ],
)
def test_a_network_that_does_not_fit_together_is_refused(layer, said):
    with pytest.raises(ModelError, match=said):
        Network({"x": (1, 2, 2, 2)}, (layer,), ("y",)).shapes()
