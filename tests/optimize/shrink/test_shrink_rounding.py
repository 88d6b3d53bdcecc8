"""Training with roundings: the grid, the folding, and what it is good for."""

import numpy as np
import pytest
import shrink_nets
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.errors import ConfigError, ModelError
from edgekit_optimize.shrink.objective import Objective
from edgekit_optimize.shrink.rounding import Grid, fold, round_affine, round_symmetric, rounded
from edgekit_optimize.shrink.train import training

EXAMPLE = (torch.zeros(shrink_nets.SHAPE),)


@settings(deadline=None)
@given(st.integers(2, 8), st.sampled_from([0, 1, None]), st.integers(0, 99))
def test_rounded_weights_are_on_a_symmetric_grid_and_rounding_again_changes_nothing(bits, axis, seed):
    weights = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (3, 4, 5)).astype(np.float32))
    once = round_symmetric(weights, bits, axis)
    axes = tuple(number for number in range(3) if number != axis)
    steps = once / (weights.abs().amax(dim=axes, keepdim=True) / (2 ** (bits - 1) - 1))
    assert float((steps - steps.round()).abs().max()) < 1e-3
    torch.testing.assert_close(round_symmetric(once, bits, axis), once, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.floats(-10, 5), st.floats(0, 10))
def test_rounded_activations_keep_zero_and_stay_within_half_a_step(low, width):
    values = torch.linspace(min(low, 0), max(low + width, 0), 50)
    found = round_affine(values, low, low + width, 256)
    step = max(max(low + width, 0.0) - min(low, 0.0), 1e-6) / 255
    assert float((found - values).abs().max()) <= step * 0.51 + 1e-6
    assert float(round_affine(torch.zeros(1), low, low + width, 256)) == 0


def test_gradients_pass_a_rounding_but_not_the_end_of_a_range():
    values = torch.tensor([0.3, 2.0], requires_grad=True)
    round_affine(values, 0.0, 1.0, 256).sum().backward()
    assert values.grad.tolist() == [1.0, 0.0]
    weights = torch.randn(3, 3, requires_grad=True)
    round_symmetric(weights, 4, 0).sum().backward()
    assert weights.grad.eq(1).all()


@pytest.mark.parametrize("build", [shrink_nets.net, shrink_nets.mixed])
def test_folding_leaves_no_normalisation_and_the_same_function(build):
    model = build().eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 2)
    folded = fold(model, EXAMPLE)
    assert not [layer for layer in folded.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    images, _ = shrink_nets.samples(2, 4)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
    assert [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


def test_a_layer_that_is_read_before_its_normalisation_too_is_refused():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)

        def forward(self, image):
            found = self.layer(image)
            return found + self.norm(found)

    model = Twice().eval()
    model.norm.running_var.fill_(4.0)
    with pytest.raises(ModelError, match="folding"):
        fold(model, EXAMPLE)


def test_training_with_rounding_recovers_accuracy_lost_to_few_bits():
    model = shrink_nets.net().eval()
    grid = Grid(2, per_channel=False, activation_bits=8)
    plain, taught = fold(model, EXAMPLE), fold(model, EXAMPLE)
    with rounded(plain, grid):
        pass
    model.requires_grad_(requires_grad=False)
    with rounded(taught, grid):
        training("shrink_nets:batches").run(taught, Objective(teacher=model), epochs=6, seed=0, rate=5e-3)
    for layer in taught.modules():
        if hasattr(layer, "weight"):
            torch.testing.assert_close(round_symmetric(layer.weight, 2, None), layer.weight)
    reference, lost, won = (shrink_nets.accuracy(found) for found in (model, plain, taught))
    assert reference > 0.9
    assert won > lost + 0.1


def test_an_unsupported_grid_is_refused():
    for bits, activation_bits in ((1, 8), (9, 8), (8, 4)):
        with pytest.raises(ConfigError, match="weights of 2 to 8 bits"):
            Grid(bits, activation_bits=activation_bits)
    with pytest.raises(ModelError, match="nothing|no convolution"), rounded(torch.nn.ReLU(), Grid()):
        pass
