"""What is minimised, and what is refused."""

import numpy as np
import pytest
import shrink_nets
import torch

from edgekit.core.errors import ConfigError
from edgekit_optimize.shrink.objective import Objective, cross_entropy, softened

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]])
TARGETS = torch.tensor([0, 1])


def constant(values):
    return lambda *_inputs: values


def test_the_softened_distance_is_hintons():
    wanted = torch.tensor([[0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    p, q = (torch.softmax(values / 3, 1).numpy() for values in (wanted, LOGITS))
    by_hand = 9 * np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=1))
    assert float(softened(LOGITS, wanted, 3.0)) == pytest.approx(by_hand, rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy():
    found = Objective()(LOGITS, TARGETS, LOGITS)
    assert float(found) == pytest.approx(float(torch.nn.functional.cross_entropy(LOGITS, TARGETS)))


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_teachers_part_has_its_weight(weight):
    teacher = torch.tensor([[0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    found = Objective(teacher=constant(teacher), temperature=2.0, weight=weight)(LOGITS, TARGETS, LOGITS)
    wanted = (1 - weight) * cross_entropy(LOGITS, TARGETS) + weight * softened(LOGITS, teacher, 2.0)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_a_teacher_that_agrees_adds_nothing_and_needs_no_targets():
    assert float(Objective(teacher=constant(LOGITS))(LOGITS, None, LOGITS)) == pytest.approx(0, abs=1e-6)


def test_data_without_targets_needs_a_teacher():
    with pytest.raises(ConfigError, match="no teacher"):
        Objective()(LOGITS, None, LOGITS)


def test_a_loss_of_the_users_own_is_used_and_its_teacher_is_compared_by_squares():
    outputs, teacher = torch.zeros(2, 4), torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    own = Objective("shrink_nets:squares")
    assert float(own(outputs, TARGETS, outputs)) == pytest.approx(0.25)
    both = Objective("shrink_nets:squares", teacher=constant((teacher, {"more": teacher})), weight=1.0)
    apart = float((teacher**2).mean() / teacher.var(correction=0))
    assert float(both((outputs, outputs), None, outputs)) == pytest.approx(apart)


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (torch.softmax(LOGITS, 1), TARGETS, "its own softmax"),
        (LOGITS, torch.tensor([0, 3]), "0 to 2"),
        (LOGITS, torch.tensor([0, 1, 1]), r"shape \(2,\)"),
        (LOGITS, torch.zeros(2, 3), "class numbers or probabilities"),
        (LOGITS[:, 0], TARGETS, "logits of shape"),
        ({"boxes": LOGITS}, TARGETS, "logits of shape"),
        (LOGITS, [0, 1], "want a tensor"),
    ],
)
def test_what_cross_entropy_would_get_wrong_is_refused(outputs, targets, said):
    with pytest.raises(ConfigError, match=said):
        Objective()(outputs, targets, LOGITS)


def test_probabilities_are_targets_too():
    soft = torch.softmax(LOGITS, 1)
    assert float(cross_entropy(LOGITS, soft)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(LOGITS, soft))
    )


def test_a_loss_that_is_nan_stops_at_once_and_names_the_step():
    objective = Objective(remedy="lower the rate")
    objective(LOGITS, TARGETS, LOGITS)
    with pytest.raises(ConfigError, match="nan at training step 2") as raised:
        objective(LOGITS * float("nan"), TARGETS, LOGITS)
    assert raised.value.hint == "lower the rate"
    with pytest.raises(ConfigError, match="inputs of training step 2"):
        objective(LOGITS * float("nan"), TARGETS, LOGITS * float("inf"))


def test_a_loss_of_many_values_and_students_of_other_shapes_are_refused():
    outputs = torch.zeros(2, 4)
    with pytest.raises(ConfigError, match="tensor of one value"):
        Objective("shrink_nets:vector")(outputs, TARGETS, outputs)
    with pytest.raises(ConfigError, match="teacher and student disagree"):
        Objective(teacher=constant(torch.zeros(2, 5)))(outputs, TARGETS, outputs)
    with pytest.raises(ConfigError, match="no function 'cubes'"):
        Objective("shrink_nets:cubes")
    with pytest.raises(ConfigError, match="temperature"):
        Objective(temperature=0)


def test_the_history_is_bounded_and_keeps_the_mean():
    objective = Objective()
    for number in range(999):
        objective(LOGITS * (1 + number % 3), TARGETS, LOGITS)
    history = objective.history()
    assert len(history) == 200
    assert history[-1][0] == 1.0
    assert Objective().history() == ()
    assert shrink_nets.SHAPE[0] == 1
