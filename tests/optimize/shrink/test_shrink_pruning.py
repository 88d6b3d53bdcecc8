"""Channels that are tied together go together; what cannot go stays, and is named."""

import copy

import pytest
import shrink_nets
import torch

from edgekit.core.errors import ModelError
from edgekit_optimize.shrink.channels import BLOCK
from edgekit_optimize.shrink.count import multiply_adds, multiply_adds_by_layer, outputs_of, parameters
from edgekit_optimize.shrink.pruning import Cutter

EXAMPLE = (torch.zeros(shrink_nets.SHAPE),)


def test_multiply_adds_are_counted_as_by_hand():
    model = shrink_nets.net()
    by_hand = {"0": 16 * 9 * 144, "3": 32 * 16 * 9 * 36, "8": 9 * 32 * 4}
    found = multiply_adds_by_layer(model, EXAMPLE)
    assert {name: found[name] for name in by_hand} == by_hand
    assert multiply_adds(model, EXAMPLE) == sum(by_hand.values())
    assert parameters(model) == 16 * 9 + 2 * 16 + 32 * 16 * 9 + 2 * 32 + 9 * 32 * 4 + 4


@pytest.mark.parametrize("build", [shrink_nets.net, shrink_nets.mixed])
def test_a_pruned_model_needs_no_more_than_was_asked_and_keeps_its_outputs(build):
    model = build().eval()
    before = multiply_adds(model, EXAMPLE)
    now = Cutter(model, EXAMPLE).cut_to(before // 2)
    assert now == multiply_adds(model, EXAMPLE) <= before // 2
    assert outputs_of(model, EXAMPLE).shape == (1, 4)
    counts = [layer.out_channels for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(count % BLOCK == 0 for count in counts)
    assert min(counts) >= BLOCK


def test_the_least_important_channels_are_removed_and_the_rest_computes_the_same():
    """Channels whose weights are zero everywhere change nothing when they go."""
    model = shrink_nets.net().eval()
    dead = [1, 4, 5, 9, 10, 12, 13, 15]
    with torch.no_grad():
        model[0].weight[dead] = 0
        model[1].weight[dead] = 0
        model[1].bias[dead] = 0
        model[3].weight[:, dead] = 0
        # importance is a matter of magnitude: the second layer's channels must not be cheaper
        model[3].weight *= 10
    before = copy.deepcopy(model)
    images, _ = shrink_nets.samples(1, 8)
    Cutter(model, EXAMPLE).cut_to(int(multiply_adds(model, EXAMPLE) * 0.6))
    assert model[0].out_channels == 8
    torch.testing.assert_close(model(images), before(images), rtol=1e-4, atol=1e-4)


def test_a_reshape_that_knows_its_channels_is_left_alone_and_named():
    torch.manual_seed(0)
    model = shrink_nets.Fixed().eval()
    cutter = Cutter(model, EXAMPLE)
    assert len(cutter.notes) == 1
    assert cutter.notes[0].startswith("second: left alone")
    with pytest.raises(ModelError, match="cannot be pruned below") as raised:
        cutter.cut_to(multiply_adds(model, EXAMPLE) // 4)
    assert raised.value.reasons == tuple(cutter.notes)
    assert model.second.out_channels == 16
    assert model.first.out_channels == 8


def test_channels_that_are_normalised_in_groups_are_left_alone_and_named():
    cutter = Cutter(shrink_nets.Grouped().eval(), EXAMPLE)
    assert any(note.startswith("body.0: grouped channels") for note in cutter.notes)
    cutter.cut_to(int(multiply_adds(cutter.model, EXAMPLE) * 0.7))
    assert cutter.model.body[0].out_channels == 16


def test_frozen_layers_are_traced_too():
    model = shrink_nets.net().eval().requires_grad_(requires_grad=False)
    before = multiply_adds(model, EXAMPLE)
    assert Cutter(model, EXAMPLE).cut_to(before // 2) <= before // 2


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (shrink_nets.small, "no channels of this model can be pruned"),
        (shrink_nets.Detached, "does not depend on its weights"),
    ],
)
def test_a_model_that_cannot_be_pruned_says_why(build, said):
    with pytest.raises(ModelError, match=said):
        Cutter(build().eval(), EXAMPLE)


def test_a_layer_that_fails_is_named():
    with pytest.raises(
        ModelError, match=r"layer '8' \(Linear\) fails on inputs of shape \[\[1, 1, 20, 20\]\]"
    ):
        outputs_of(shrink_nets.net().eval(), (torch.zeros(1, 1, 20, 20),))
