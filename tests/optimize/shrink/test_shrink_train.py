"""The two kinds of train function, and edgekit's own recipe."""

import random

import numpy as np
import pytest
import shrink_nets
import torch

from edgekit.core.errors import ConfigError, UsageError
from edgekit_optimize.shrink.objective import Objective
from edgekit_optimize.shrink.train import schedule, seeded, training


def run(entry, model, epochs=1, seed=3, rate=0.01, **objective):
    training(entry).run(model, Objective(**objective), epochs=epochs, seed=seed, rate=rate)
    return model


def fresh():
    torch.manual_seed(5)
    return shrink_nets.small()


def start():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that users' code draws from
    torch.manual_seed(1)


def draw():
    return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002 - as above


def test_the_two_kinds_are_distinguished_by_their_parameters():
    assert training("shrink_nets:batches").gives_batches
    assert not training("shrink_nets:train").gives_batches


@pytest.mark.parametrize("entry", ["shrink_nets:batches", "shrink_nets:train"])
def test_both_kinds_learn_and_the_same_seed_gives_the_same_weights(entry):
    before = shrink_nets.accuracy(fresh())
    one, same = (run(entry, fresh(), epochs=6).state_dict() for _ in range(2))
    other = run(entry, fresh(), epochs=6, seed=4)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other.state_dict()["0.weight"])
    assert not other.training
    assert shrink_nets.accuracy(other) > max(before, 0.4)


@pytest.mark.parametrize(
    ("entry", "error", "said"),
    [
        ("shrink_nets:wrong", ConfigError, r"it takes \(model, data\)"),
        ("shrink_nets:samples", ConfigError, r"it takes \(seed, count\)"),
        ("shrink_nets:nothing_such", ConfigError, "has no function"),
        ("no_such_module_here:train", ConfigError, "no module 'no_such_module_here'"),
        ("shrink_nets", UsageError, "module:function"),
    ],
)
def test_a_function_that_cannot_be_used_is_named_with_the_expected_parameters(entry, error, said):
    with pytest.raises(error, match=said):
        training(entry)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("shrink_nets:fails", "shrink_nets:fails fails"),
        ("shrink_nets:none", "no batches"),
        ("shrink_nets:bare", r"must be \(inputs, targets\)"),
        ("shrink_nets:idle", "never called loss"),
        ("shrink_nets:broken_after_three", "inputs of training step 4"),
    ],
)
def test_faults_of_data_and_functions_are_attributed_to_them(entry, said):
    with pytest.raises(ConfigError, match=said):
        run(entry, fresh())


def test_a_fault_in_the_users_code_is_shown_with_its_line():
    with pytest.raises(ConfigError) as raised:
        run("shrink_nets:fails", fresh())
    assert "KeyError: 'no epoch 3000'" in raised.value.reasons
    assert any("shrink_nets.py" in reason and "raise KeyError" in reason for reason in raised.value.reasons)


def test_a_training_that_diverges_is_stopped_with_the_remedy():
    with pytest.raises(ConfigError, match="at training step"):
        run("shrink_nets:wild", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 4)), rate=9.0)


def test_a_model_with_frozen_weights_alone_is_refused():
    with pytest.raises(ConfigError, match="no weights that can be trained"):
        run("shrink_nets:batches", fresh().requires_grad_(requires_grad=False))


def test_random_numbers_start_from_the_seed_and_go_on_as_before():
    start()
    undisturbed = draw()
    start()
    drawn = []
    for _ in range(2):
        with seeded(7):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert draw() == undisturbed
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_rate_warms_up_and_comes_down_to_nothing():
    rates = [schedule(share / 100) for share in range(101)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[0] < 0.1
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[15:] == sorted(rates[15:], reverse=True)


def test_progress_rises_to_one_and_reports_the_loss():
    reported = []
    training("shrink_nets:batches").run(
        fresh(),
        Objective(),
        epochs=2,
        seed=0,
        rate=0.01,
        progress=lambda share, text: reported.append((share, text)),
    )
    assert [share for share, _ in reported] == sorted(share for share, _ in reported)
    assert reported[-1][0] == 1.0
    assert "epoch 2 of 2, loss" in reported[-1][1]
