"""Scores: what they mean, what ties and broken outputs are worth, and how sure a drop is."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.core.errors import ConfigError, TensorError, UsageError
from edgekit.core.spec import Item
from edgekit_optimize.data.dataset import Dataset
from edgekit_optimize.metrics.boxes import judge, mean_precision, overlap, overlap_with
from edgekit_optimize.metrics.table import METRICS, Observed, choose_metric, per_sample, score

TASKS = ["classify", "detect", "face", "sensor", "anomaly", "voice", "raw"]


def data(count, labels=None, boxes=None, classes=()):
    return Dataset(
        names=tuple(f"s{n}" for n in range(count)),
        inputs={"x": np.zeros((count, 2), np.float32)},
        labels=None if labels is None else np.array(labels, np.int64),
        boxes=boxes if boxes is None else tuple(np.array(b, np.float32).reshape(-1, 5) for b in boxes),
        classes=classes,
    )


def said(scores, items=None):
    return Observed({"scores": np.array(scores, np.float32)}, items)


def box(*corners, label="dog", sure=0.9, index=0):
    return Item(label=label, score=sure, index=index, box=tuple(map(float, corners)))


def values(metric, reference, found, dataset):
    return per_sample(METRICS[metric], reference, found, dataset).tolist()


# --- classes


def test_a_right_answer_is_1_and_a_wrong_one_0():
    found = said([[0.1, 0.9, 0], [0.9, 0.1, 0]])
    assert values("top1", found, found, data(2, [1, 1])) == [1, 0]


def test_a_tie_counts_by_its_share():
    """Saturated int8 scores tie; which of them comes first is an accident of the runtime."""
    found = said([[127, 127, 3], [127, 127, 127], [127, 127, 3]])
    assert values("top1", found, found, data(3, [1, 0, 2])) == [0.5, pytest.approx(1 / 3), 0]


def test_five_best_share_a_tie_at_their_border():
    found = said([[9, 8, 7, 6, 1, 1, 1, 0]] * 3)
    assert values("top5", found, found, data(3, [0, 5, 7])) == [1, pytest.approx(1 / 3), 0]


@given(
    hnp.arrays(np.float32, (6, 7), elements=st.sampled_from([0.0, 1.0, 2.0])),
    st.lists(st.integers(0, 6), min_size=6, max_size=6),
    st.integers(0, 100),
)
@settings(max_examples=50)
def test_the_share_of_a_tie_is_the_mean_over_all_orders_of_the_classes(scores, labels, seed):
    rng = np.random.default_rng(seed)
    hits = np.zeros(6)
    for _ in range(400):
        order = rng.permutation(7)
        hits += order[np.argmax(scores[:, order], axis=1)] == labels
    found = values("top1", said(scores), said(scores), data(6, labels))
    assert np.abs(hits / 400 - found).max() < 0.15


@given(hnp.arrays(np.float32, (5, 4), elements=st.floats(-5, 5, width=32)), st.permutations(range(4)))
def test_the_order_of_the_classes_changes_no_score(scores, order):
    labels = np.array([0, 1, 2, 3, 0])
    moved = np.argsort(order)[labels]
    assert values("top1", said(scores), said(scores), data(5, labels)) == values(
        "top1", said(scores[:, order]), said(scores[:, order]), data(5, moved)
    )


def test_a_background_class_moves_the_labels_by_one():
    found = said([[0, 0, 9], [9, 0, 0]])
    assert values("top1", found, found, data(2, [1, 0], classes=("cat", "dog"))) == [1, 0]
    assert values("top1", found, found, data(2, [2, 0], classes=("none", "cat", "dog"))) == [1, 1]


def test_a_label_beyond_the_output_is_an_error():
    found = said([[1, 2]])
    with pytest.raises(TensorError, match="class 5 is beyond the 2 classes"):
        values("top1", found, found, data(1, [5]))


def test_axes_of_length_one_do_not_count():
    found = Observed({"y": np.array([[[[1]], [[5]]]], np.float32)})
    assert values("top1", found, found, data(1, [1])) == [1]


def test_agreement_is_whether_the_answer_is_one_that_the_float_model_may_give():
    reference = said([[0, 9, 1], [9, 9, 0], [9, 0, 0], [9, 8, 0]])
    found = said([[0, 5, 1], [0, 5, 1], [0, 5, 1], [5, 5, 0]])
    assert values("agreement", reference, found, data(4)) == [1, 1, 0, 0.5]
    assert values("agreement", reference, reference, data(4)) == [1, 1, 1, 1]


def test_agreement_of_a_mask_is_the_share_of_its_places():
    reference = Observed({"mask": np.array([[[1, 0], [1, 0], [0, 1], [0, 1]]], np.float32)})
    found = Observed({"mask": np.array([[[1, 0], [0, 1], [0, 1], [0, 1]]], np.float32)})
    assert values("agreement", reference, found, data(1)) == [0.75]


def test_agreement_of_a_single_score_is_its_side_of_a_half():
    reference, found = said([[0.9], [0.2], [0.6]]), said([[0.6], [0.4], [0.4]])
    assert values("agreement", reference, found, data(3)) == [1, 1, 0]


def test_the_output_with_the_classes_must_be_clear():
    two = Observed({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 4), np.float32)})
    with pytest.raises(TensorError, match="none is called 'scores'"):
        values("agreement", two, two, data(1))
    named = Observed({"scores": np.float32([[1, 2]]), "b": np.ones((1, 4), np.float32)})
    assert values("top1", named, named, data(1, [1])) == [1]


# --- direction and decision


def test_cosine_does_not_see_a_scale_and_sees_a_turn():
    reference = Observed({"a": np.float32([[1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [1, 1]])})
    found = Observed({"a": np.float32([[5, 0], [0, 1], [-1, 0], [0, 0], [1, 0], [1, 0]])})
    assert values("cosine", reference, found, data(6)) == pytest.approx([1, 0, 0, 1, 0, 0.5**0.5])


def test_a_single_value_has_no_direction_so_its_distance_counts():
    reference, found = said([[0.0], [0.5], [1.0]]), said([[0.1], [0.5], [0.5]])
    assert values("cosine", reference, found, data(3)) == pytest.approx([0.9, 1.0, 0.5])
    constant = said([[0.5], [0.5]])
    assert values("cosine", constant, said([[0.5], [0.6]]), data(2)) == [1, 0]


def test_each_output_counts_as_much_as_the_other_whatever_its_scale():
    reference = Observed({"boxes": np.float32([[1000, 0]]), "scores": np.float32([[0.001, 0]])})
    found = Observed({"boxes": np.float32([[1000, 0]]), "scores": np.float32([[0, 0.001]])})
    assert values("cosine", reference, found, data(1)) == pytest.approx([0.5])


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_model_has_the_direction_of_itself_at_any_scale(outputs):
    observed = Observed({"a": outputs})
    assert values("cosine", observed, observed, data(4)) == pytest.approx([1] * 4)


def test_an_alarm_agrees_or_not():
    quiet, loud = (Item(label="normal", score=0.9),), (Item(label="anomaly", score=0.6),)
    outputs = np.zeros((3, 1))
    reference, found = said(outputs, (quiet, loud, loud)), said(outputs, (quiet, loud, quiet))
    assert values("alarm", reference, found, data(3)) == [1, 1, 0]


# --- boxes


def test_overlap_of_boxes_with_one_another():
    one = np.float32([[0, 0, 4, 4], [2, 2, 2, 2]])
    assert overlap(one, np.float32([[0, 0, 4, 2], [4, 4, 9, 9]])).tolist() == [[0.5, 0], [0, 0]]


def precision(found, truth, classes=()):
    judged = judge(found, [np.array(b, np.float32).reshape(-1, 5) for b in truth], classes)
    return float(mean_precision(judged, np.ones((1, len(truth)), np.int64))[0])


def test_average_precision_of_a_textbook_case():
    """Right, wrong, right of three boxes: precision 1 up to recall 1/3, then 2/3 up to 2/3."""
    truth = [[[0, 0, 0, 9, 9], [0, 20, 20, 29, 29], [0, 40, 40, 49, 49]]]
    found = [
        (box(0, 0, 9, 9, sure=0.9), box(60, 60, 69, 69, sure=0.8), box(40, 40, 49, 48, sure=0.7)),
    ]
    assert precision(found, truth) == pytest.approx(1 / 3 + 2 / 9)


def test_a_second_detection_of_one_box_is_wrong_and_an_early_error_costs_more():
    truth = [[[0, 0, 0, 9, 9], [0, 20, 20, 29, 29]]]
    twice = [(box(0, 0, 9, 9), box(0, 0, 9, 9, sure=0.8), box(20, 20, 29, 29, sure=0.7))]
    assert precision(twice, truth) == pytest.approx(0.5 + 0.5 * 2 / 3)
    late = [(box(0, 0, 9, 9), box(20, 20, 29, 29, sure=0.8), box(0, 0, 9, 9, sure=0.7))]
    assert precision(late, truth) == 1


def test_precision_counts_by_what_a_lower_threshold_reaches():
    """Wrong, right, right: both recalls are reached at precision 2/3."""
    truth = [[[0, 0, 0, 9, 9], [0, 20, 20, 29, 29]]]
    found = [(box(60, 60, 69, 69), box(0, 0, 9, 9, sure=0.8), box(20, 20, 29, 29, sure=0.7))]
    assert precision(found, truth) == pytest.approx(2 / 3)


def test_less_than_half_overlap_is_no_match():
    truth = [[[0, 0, 0, 10, 10]]]
    assert precision([(box(0, 0, 10, 5),)], truth) == 1
    assert precision([(box(0, 0, 10, 4.9),)], truth) == 0


def test_detections_of_the_same_score_have_no_order():
    truth = [[[0, 0, 0, 9, 9]]]
    right, wrong = box(0, 0, 9, 9), box(50, 50, 59, 59)
    assert precision([(right, wrong)], truth) == precision([(wrong, right)], truth) == 0.5


def test_classes_are_known_by_name_and_only_those_of_the_truth_count():
    truth = [[[1, 0, 0, 9, 9]]]
    found = [(box(0, 0, 9, 9, label="Dog", index=7), box(50, 50, 59, 59, label="cat", sure=0.99))]
    assert precision(found, truth, ("cat", "dog")) == 1
    assert precision(found, truth) == 0  # without names by index


def test_the_mean_is_over_classes():
    truth = [[[0, 0, 0, 9, 9], [1, 20, 20, 29, 29]]]
    assert precision([(box(0, 0, 9, 9, index=0),)], truth) == 0.5


def test_weights_are_samples_counted_again():
    """What the bootstrap does must be what happens when a sample stands there twice."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(6):
        corners = rng.integers(0, 50, (3, 2))
        truth.append(
            np.concatenate([rng.integers(0, 2, (3, 1)), corners, corners + 20], axis=1).astype(np.float32)
        )
        moved = truth[-1] + np.array([0, 1, 1, 1, 1]) * rng.integers(-9, 9, (3, 1))
        found.append(tuple(box(*row[1:], index=int(row[0]), sure=float(rng.random())) for row in moved))
    weights = np.array([[2, 0, 1, 3, 0, 1]])
    order = np.repeat(np.arange(6), weights[0])
    again = precision([found[n] for n in order], [truth[n] for n in order])
    assert mean_precision(judge(found, truth, ()), weights)[0] == pytest.approx(again)


def test_boxes_of_the_float_model_are_the_truth_without_labels():
    one, other = box(0, 0, 10, 10), box(20, 20, 30, 30)
    assert overlap_with([], []) == 1
    assert overlap_with([one, other], [other, one]) == 1
    assert overlap_with([one], []) == overlap_with([], [one]) == 0
    assert overlap_with([one], [box(0, 0, 10, 5)]) == 0.5
    assert overlap_with([one], [box(0, 0, 10, 10, label="cat")]) == 0
    assert overlap_with([one], [one, other]) == 0.5
    assert overlap_with([one, box(3, 3, 3, 9)], [one, box(3, 3, 3, 9)]) == 1  # cut to nothing at an edge


_BOXES = st.lists(
    st.builds(
        lambda x, y, w, h, label, sure: box(x, y, x + w, y + h, label=label, sure=sure),
        *[st.integers(0, 20)] * 4,
        st.sampled_from(["cat", "dog"]),
        st.sampled_from([0.1, 0.5, 0.9]),
    ),
    max_size=5,
)


@settings(max_examples=50)
@given(_BOXES, _BOXES)
def test_overlap_with_another_model_is_a_share_and_the_same_both_ways(one, other):
    found = overlap_with(one, other)
    assert 0 <= found <= 1
    assert found == pytest.approx(overlap_with(other, one))
    assert overlap_with(one, one) == pytest.approx(1)


@settings(max_examples=40)
@given(st.lists(_BOXES, min_size=1, max_size=4), st.lists(_BOXES, min_size=4, max_size=4))
def test_map50_is_a_share_and_perfect_for_the_truth_itself(truth, found):
    names = ("cat", "dog")
    boxes = [[[names.index(i.label), *i.box] for i in items if i.box[2] > i.box[0] and i.box[3] > i.box[1]]
             for items in truth]  # fmt: skip
    dataset = data(len(truth), boxes=boxes, classes=names)
    outputs = np.zeros((len(truth), 1))
    observed = said(outputs, tuple(map(tuple, found[: len(truth)])))
    assert 0 <= score(METRICS["map50"], observed, observed, dataset, rounds=5).value <= 1
    exact = said(outputs, tuple(tuple(box(*b[1:], label=names[b[0]]) for b in row) for row in boxes))
    if any(boxes):
        assert score(METRICS["map50"], exact, exact, dataset, rounds=5).value == pytest.approx(1)
    assert values("map50", exact, exact, dataset) == [1] * len(truth)


# --- broken outputs


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_no_number_is_worth_nothing_in_every_metric(broken):
    items = ((box(0, 0, 9, 9),), ())
    good = said([[1, 2], [2, 1]], items)
    bad = said([[broken, 2], [2, 1]], items)
    dataset = data(2, [1, 0], [[[0, 0, 0, 9, 9]], []])
    for name, metric in METRICS.items():
        assert values(name, good, bad, dataset) == [0, pytest.approx(1)], name
        assert score(metric, good, bad, dataset).drop > 0
        assert score(metric, bad, bad, dataset).value <= 0.5


def test_boxes_that_are_no_numbers_match_nothing():
    bad = Item(label="dog", score=float("nan"), box=(0.0, float("nan"), 1.0, 1.0))
    with np.errstate(invalid="ignore"):
        assert overlap_with([box(0, 0, 9, 9)], [bad]) == 0
        assert precision([(bad,)], [[[0, 0, 0, 9, 9]]], ("dog",)) == 0


def test_outputs_of_other_samples_are_refused():
    with pytest.raises(TensorError, match="the candidate: output 'scores' has 1 samples, want 2"):
        values("agreement", said([[1, 2], [1, 2]]), said([[1, 2]]), data(2))
    with pytest.raises(TensorError, match="needs the decoded predictions"):
        values("iou", said([[1]]), said([[1]]), data(1))
    with pytest.raises(TensorError, match="no samples"):
        values("cosine", Observed({}), Observed({}), data(0))
    with pytest.raises(TensorError, match="want shape"):
        values("cosine", said([[1, 2]]), said([[1, 2, 3]]), data(1))
    with pytest.raises(TensorError, match="the float model's"):
        values("agreement", said([[1, 2]]), said([[1, 2, 3]]), data(1))


# --- which metric


@pytest.mark.parametrize(
    ("task", "labels", "boxes", "wanted"),
    [
        ("classify", True, False, "top1"),
        ("classify", False, False, "agreement"),
        ("sensor", True, False, "top1"),
        ("detect", False, True, "map50"),
        ("detect", True, False, "iou"),
        ("face", False, False, "iou"),
        ("anomaly", True, False, "alarm"),
        ("voice", False, False, "alarm"),
        ("raw", False, False, "cosine"),
        ("raw", True, False, "top1"),
    ],
)
def test_auto_is_the_best_that_the_data_allow(task, labels, boxes, wanted):
    dataset = data(1, [0] if labels else None, [[]] if boxes else None)
    assert choose_metric("auto", task, dataset).id == wanted


@pytest.mark.parametrize("task", TASKS)
def test_there_is_a_metric_for_every_task_without_labels(task):
    assert not choose_metric("auto", task, data(1)).labelled


def test_a_metric_that_does_not_go_is_refused_with_those_that_do():
    with pytest.raises(UsageError, match="metric 'bleu' is not known") as caught:
        choose_metric("bleu", "classify", data(1))
    assert caught.value.hint == "use auto, agreement, cosine, or your own module:function"
    with pytest.raises(UsageError, match="needs labels, but the data have none"):
        choose_metric("top1", "classify", data(1))
    with pytest.raises(UsageError, match="does not apply to task 'detect'"):
        choose_metric("top1", "detect", data(1, [0]))


# --- the user's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a metric of the user's into the working folder."""

    def write(body):
        (tmp_path / "mymetric.py").write_text(f"import numpy as np\ndef f(outputs, labels):\n    {body}\n")
        monkeypatch.chdir(tmp_path)
        sys.modules.pop("mymetric", None)
        return "mymetric:f"

    yield write
    sys.modules.pop("mymetric", None)


def test_a_metric_of_the_users_scores_both_models(own):
    name = own("return outputs['scores'].argmax(1) == labels")
    dataset = data(4, [0, 0, 1, 1])
    metric = choose_metric(name, "classify", dataset)
    reference, found = (
        said([[1, 0], [1, 0], [0, 1], [0, 1]]),
        said([[1, 0], [0, 1], [0, 1], [np.nan, 1]]),
    )
    result = score(metric, reference, found, dataset)
    assert (result.metric, result.value, result.reference, result.drop) == (name, 0.5, 1.0, 0.5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 0.5", "want 2 scores, one for each sample"),
        ("return [0.5, 7]", "want scores from 0 to 1"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("return 'x'", "ValueError"),
    ],
)
def test_a_user_metric_without_valid_scores_is_an_error(own, body, message):
    metric = choose_metric(own(body), "classify", data(2))
    with pytest.raises(ConfigError, match=message):
        score(metric, said([[1], [2]]), said([[1], [2]]), data(2))


def test_a_metric_that_cannot_be_imported_is_told_at_once():
    with pytest.raises(UsageError, match="No module named 'nowhere'"):
        choose_metric("nowhere:f", "classify", data(1))


# --- how sure


def answers(count, wrong, labels=None):
    scores = np.tile(np.float32([1, 0]), (count, 1))
    scores[list(wrong)] = [0, 1]
    return said(scores)


def test_the_float_model_loses_nothing_against_itself():
    dataset = data(50, [0] * 50)
    for name in ("top1", "agreement", "cosine"):
        result = score(METRICS[name], answers(50, range(5)), answers(50, range(5)), dataset)
        assert (result.drop, result.low, result.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_drop_is_the_difference_of_two_scores_on_the_same_samples():
    dataset = data(100, [0] * 100)
    result = score(METRICS["top1"], answers(100, range(10)), answers(100, range(16)), dataset)
    assert (result.value, result.reference, result.samples) == (0.84, 0.9, 100)
    assert result.drop == pytest.approx(0.06)
    assert 0 < result.low < 0.06 < result.high < 0.13


def test_pairing_makes_the_interval_narrow():
    """The same 6 samples differ whether the models are good or bad at the other 94."""
    dataset = data(100, [0] * 100)
    good = score(METRICS["top1"], answers(100, []), answers(100, range(6)), dataset)
    poor = score(
        METRICS["top1"], answers(100, range(50, 90)), answers(100, [*range(6), *range(50, 90)]), dataset
    )
    assert poor.high - poor.low == pytest.approx(good.high - good.low, abs=0.01)


def test_equal_answers_of_few_samples_still_allow_a_drop():
    dataset = data(20, [0] * 20)
    one, other = answers(20, []), answers(20, [])
    other.outputs["scores"][:, 0] += 1
    result = score(METRICS["top1"], one, other, dataset)
    assert (result.drop, result.high) == (0, pytest.approx(1 - 0.05 ** (1 / 20)))
    assert result.low == -result.high
    assert score(METRICS["agreement"], one, other, dataset).low == 0


def test_the_same_seed_gives_the_same_interval():
    dataset = data(60, [0] * 60)
    one, other = answers(60, range(3)), answers(60, range(9))
    assert score(METRICS["top1"], one, other, dataset) == score(METRICS["top1"], one, other, dataset)


@pytest.mark.slow
def test_the_interval_holds_the_true_drop_in_95_of_100_studies():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        wrong = [np.flatnonzero(rng.random(200) < share) for share in (0.1, 0.14)]
        result = score(METRICS["top1"], answers(200, wrong[0]), answers(200, wrong[1]), data(200, [0] * 200))
        held += result.low <= 0.04 <= result.high
    assert held / 200 > 0.9


@given(
    hnp.arrays(np.float32, (12, 3), elements=st.floats(width=32)),
    hnp.arrays(np.float32, (12, 3), elements=st.floats(width=32)),
    st.sampled_from(["top1", "top5", "agreement", "cosine"]),
)
def test_every_score_is_a_share_and_its_interval_holds_the_drop(one, other, name):
    dataset = data(12, [0, 1, 2] * 4)
    result = score(METRICS[name], said(one), said(other), dataset, rounds=20)
    assert 0 <= result.value <= 1
    assert 0 <= result.reference <= 1
    assert result.drop == pytest.approx(result.reference - result.value)
    assert result.low <= result.drop <= result.high
