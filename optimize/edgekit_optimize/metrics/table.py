"""How good a candidate is next to the float model, on the same samples, and how sure that is.

With labels both models are held against the truth. Without labels the float model is the truth: then
a score says how much of it is kept, not how good it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError, UsageError
from edgekit.core.spec import Item
from edgekit.core.tasks import task_named
from edgekit_optimize.data.dataset import Dataset
from edgekit_optimize.data.listing import load_function
from edgekit_optimize.metrics.alarm import (
    FEW,
    balanced,
    decided,
    decisions,
    largest_drop,
    rank_correlation,
    rank_drops,
    rank_scores,
    values_of,
)
from edgekit_optimize.metrics.boxes import Items, image_scores, judge, mean_precision, overlap_with
from edgekit_optimize.metrics.own import own_scores
from edgekit_optimize.metrics.scores import agreement, cosine, finite_samples, top_k
from edgekit_optimize.study import Score

_CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class Observed:
    """What a model said of every sample.

    ``outputs`` are the logical outputs, (n, ...), real numbers. ``items`` are the decoded predictions
    of each sample, boxes in pixels of the source picture; None where nothing was decoded.
    """

    outputs: dict[str, NDArray[np.float32]]
    items: tuple[tuple[Item, ...], ...] | None = None


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One way to score.

    ``means`` is a sentence for the report. ``labelled``: both models are scored against the labels;
    else candidates are scored against the float model, which itself has 1. ``needs_items``: decoded
    predictions are needed, and not only outputs.
    """

    id: str
    means: str
    labelled: bool = False
    needs_items: bool = False


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.id: metric
        for metric in (
            Metric(
                id="top1", means="Share of samples whose best answer is the labelled class.", labelled=True
            ),
            Metric(
                id="top5",
                means="Share of samples whose five best answers have the labelled class.",
                labelled=True,
            ),
            Metric(id="agreement", means="Share of samples whose best answer is the float model's."),
            Metric(
                id="map50",
                means="Mean over classes of the average precision of boxes that overlap the labelled ones by"
                " half or more.",
                labelled=True,
                needs_items=True,
            ),
            Metric(
                id="iou",
                means="Mean overlap (intersection over union) with the float model's boxes of the same label;"
                " a box without a partner counts as 0.",
                needs_items=True,
            ),
            Metric(
                id="alarm",
                means="Share of samples in which the decision is the float model's, averaged over its"
                " decisions: alarms count as much as their absence, however rare.",
                needs_items=True,
            ),
            Metric(
                id="rank",
                means="Rank correlation of the scores behind the decisions with the float model's: whether"
                " samples keep their order, from the least to the most alarming.",
                needs_items=True,
            ),
            Metric(
                id="cosine",
                means="Mean cosine of the outputs with the float model's; of single values 1 minus the"
                " difference, as a share of their range.",
            ),
        )
    }
)
"""Every metric that edgekit brings; ``module:function`` names one of the user's."""


def choose_metric(name: str, task: str, dataset: Dataset) -> Metric:
    """Return the metric of a name; ``auto`` is the best that the data allow.

    Args:
        name: ``auto``, a key of ``METRICS``, or ``module:function``: called with the outputs by name
            and the labels (None without), it returns one score from 0 to 1 for each sample.
        task: The model's task; its row says which metrics make sense.
        dataset: The evaluation set.

    Raises:
        UsageError: There is no such metric, or it does not go with the task or data.
        BundleError: There is no such task.
    """
    if ":" in name:
        load_function(name, "metric")
        return Metric(id=name, means=f"Mean of the user's own score {name}.", labelled=True)
    fitting = task_named(task).metrics
    possible = [metric for metric in fitting if _has_truth(METRICS[metric], dataset)]
    if name == "auto":
        return METRICS[possible[0]]
    if name in possible:
        return METRICS[name]
    known = name in METRICS
    why = f"does not go with task '{task}'" if known and name not in fitting else ""
    why = why or ("needs labels, and these data have none" if known else "is not known")
    raise UsageError(
        f"metric {name!r} {why}", hint=f"use auto, {', '.join(possible)}, or module:function of your own"
    )


def settle(metric: Metric, reference: Observed) -> tuple[Metric, str]:
    """Return the metric that the float model's answers allow, and what the user should know of it.

    ``alarm`` compares decisions. Where the float model decides all samples alike, a candidate that
    always says the same would be perfect: then ``rank`` takes its place.
    """
    if metric.id != "alarm" or not reference.items:
        return metric, ""
    counts = decided(reference.items)
    total, (rarest, count) = len(reference.items), min(counts.items(), key=lambda entry: entry[1])
    if len(counts) == 1:
        return METRICS["rank"], (
            f"the float model says {rarest!r} of all {total} samples, so agreement of alarms says nothing of"
            " a candidate; what is measured instead is 'rank', whether the scores keep their order: give"
            " data that have both, alarms and none"
        )
    if count >= FEW:
        return metric, ""
    return metric, (
        f"the float model says {rarest!r} of {count} of {total} samples: each of them is worth"
        f" {100 / (count * len(counts)):.1f} points of 'alarm'; more of them would make the verdicts surer"
    )


def per_sample(metric: Metric, reference: Observed, found: Observed, dataset: Dataset) -> NDArray[np.float64]:
    """Return the score of each sample, from 0 to 1; their mean is the metric, but for three.

    ``map50`` is no mean: for it a sample's score is the harmonic mean of precision and recall at half
    overlap. ``alarm`` is the mean of the float model's decisions' means; for ``rank`` a sample's score
    is 1 minus the share of all ranks by which it moved. A sample with an output that is not a finite
    number has 0.

    Ties: integers saturate, and several classes may share the highest score. Such a tie counts as
    right only by its share, 1/k among k, since which of them a runtime names first is an accident.

    Args:
        metric: As ``choose_metric`` returns it.
        reference: What the float model said.
        found: What the candidate said.
        dataset: The evaluation set.

    Raises:
        TensorError: Outputs and data do not belong together.
        ConfigError: The user's function failed or returned something else.

    Source: own rule for ties.
    """
    reference, found = _answers(reference, dataset), _answers(found, dataset)
    _check(metric, reference, found, dataset)
    is_finite = finite_samples(found.outputs) if found.outputs else np.ones(len(dataset), np.bool_)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = _raw_scores(metric, reference, found, dataset)
    return np.where(is_finite & np.isfinite(scores), scores, 0.0)


def score(
    metric: Metric,
    reference: Observed,
    found: Observed,
    dataset: Dataset,
    *,
    seed: int = 0,
    rounds: int = 500,
) -> Score:
    """Score a candidate, with the interval of what it lost against the float model.

    The interval is that of a paired bootstrap: samples are drawn again, each with both models'
    scores. Where no score differs, though outputs do, it would be nothing wide; then it is what so many
    equal samples still allow. Equal outputs are the same model: nothing is lost.

    Args:
        metric: As ``choose_metric`` returns it.
        reference: What the float model said.
        found: What the candidate said.
        dataset: The evaluation set.
        seed: Of the draws.
        rounds: How many times samples are drawn.

    Raises:
        TensorError: Outputs and data do not belong together.
        ConfigError: The user's function failed or returned something else.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentiles);
    for no difference in n samples the exact binomial bound, 1 - 0.05^(1/n).
    """
    reference, found = _answers(reference, dataset), _answers(found, dataset)
    surely = 1 - 0.05 ** (1 / max(len(dataset), 1))
    if metric.id == "map50":
        value, base, drops, is_equal = _precision_drops(reference, found, dataset, seed, rounds)
    elif metric.id in _WHOLE:
        value, drops = _WHOLE[metric.id](metric, reference, found, dataset, seed, rounds)
        base, is_equal = 1.0, value == 1.0
        if metric.id == "alarm":
            surely = largest_drop(decisions(reference.items or ()))
    else:
        mine = per_sample(metric, reference, found, dataset)
        own = per_sample(metric, reference, reference, dataset) if metric.labelled else np.ones(len(mine))
        value, base, is_equal = float(mine.mean()), float(own.mean()), bool((mine == own).all())
        drops = _drops(own - mine, seed, rounds)
    low, high = (float(np.quantile(drops, share)) for share in (0.025, 0.975))
    drop = base - value
    if is_equal and not _is_same(reference, found):
        high = surely
        low = -high if metric.labelled else 0.0
    return Score(
        metric=metric.id,
        value=value,
        reference=base,
        samples=len(dataset),
        drop=drop,
        low=min(low, drop),
        high=max(high, drop),
    )


def _answers(observed: Observed, dataset: Dataset) -> Observed:
    """Return what a model said but for its state, which counts by what becomes of it."""
    kept = {name: values for name, values in observed.outputs.items() if name not in dataset.states}
    return Observed(kept, observed.items) if kept else observed


def _is_same(reference: Observed, found: Observed) -> bool:
    return (
        reference.items == found.items
        and reference.outputs.keys() == found.outputs.keys()
        and all(
            np.array_equal(values, found.outputs[name], equal_nan=True)
            for name, values in reference.outputs.items()
        )
    )


def _has_truth(metric: Metric, dataset: Dataset) -> bool:
    if not metric.labelled:
        return True
    return dataset.boxes is not None if metric.needs_items else dataset.labels is not None


def _check(metric: Metric, reference: Observed, found: Observed, dataset: Dataset) -> None:
    for who, observed in (("the float model", reference), ("the candidate", found)):
        for name, values in observed.outputs.items():
            if len(values) != len(dataset):
                raise TensorError(f"{who}: output {name!r} has {len(values)} samples, want {len(dataset)}")
        if metric.needs_items and (observed.items is None or len(observed.items) != len(dataset)):
            raise TensorError(f"metric {metric.id!r} needs the decoded predictions of {who}")
    if not len(dataset):
        raise TensorError(f"metric {metric.id!r}: there are no samples to evaluate")


def _raw_scores(
    metric: Metric, reference: Observed, found: Observed, dataset: Dataset
) -> NDArray[np.float64]:
    if ":" in metric.id:
        return own_scores(metric.id, found.outputs, dataset.labels, len(dataset))
    if metric.needs_items:
        return _item_scores(metric, reference.items or (), found.items or (), dataset)
    if not metric.labelled:
        return _UNLABELLED[metric.id](reference.outputs, found.outputs)
    if dataset.labels is None:
        raise TensorError(f"metric {metric.id!r} needs labels, and these data have none")
    return top_k(found.outputs, dataset.labels, _RANKS[metric.id], len(dataset.classes))


def _item_scores(metric: Metric, wanted: Items, given: Items, dataset: Dataset) -> NDArray[np.float64]:
    if metric.id == "rank":
        return _moved(wanted, given)
    if not metric.labelled:
        compare = _PAIRED[metric.id]
        return np.array([compare(a, b) for a, b in zip(wanted, given, strict=True)], np.float64)
    if dataset.boxes is None:
        raise TensorError(f"metric {metric.id!r} needs boxes, and these data have none")
    return image_scores(judge(given, dataset.boxes, dataset.classes), len(dataset))


def _same_decision(wanted: Sequence[Item], given: Sequence[Item]) -> float:
    return float({item.label for item in wanted} == {item.label for item in given})


def _moved(wanted: Items, given: Items) -> NDArray[np.float64]:
    return rank_scores(values_of(wanted), values_of(given))


_RANKS = {"top1": 1, "top5": 5}
_UNLABELLED = {"agreement": agreement, "cosine": cosine}
_PAIRED = {"iou": overlap_with, "alarm": _same_decision}


def _draws(count: int, seed: int, rounds: int) -> NDArray[np.int64]:
    """Return how often each sample is drawn in each round, shape (rounds, count)."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return np.asarray(drawn, np.int64)


def _drops(lost: NDArray[np.float64], seed: int, rounds: int) -> NDArray[np.float64]:
    return _in_rounds(len(lost), seed, rounds, lambda drawn: drawn @ lost / len(lost))


def _in_rounds(
    count: int, seed: int, rounds: int, drop: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    step = max(1, _CHUNK // count)
    parts = [drop(_draws(count, seed + start, min(step, rounds - start))) for start in range(0, rounds, step)]
    return np.concatenate(parts)


def _alarm_drops(
    metric: Metric, reference: Observed, found: Observed, dataset: Dataset, seed: int, rounds: int
) -> tuple[float, NDArray[np.float64]]:
    same = per_sample(metric, reference, found, dataset)
    kinds = decisions(reference.items or ())
    value = float(balanced(same, kinds, np.ones((1, len(same)), np.int64))[0])
    return value, _in_rounds(len(same), seed, rounds, lambda drawn: 1 - balanced(same, kinds, drawn))


def _rank_drops(
    metric: Metric, reference: Observed, found: Observed, dataset: Dataset, seed: int, rounds: int
) -> tuple[float, NDArray[np.float64]]:
    _check(metric, reference, found, dataset)
    wanted, given = values_of(reference.items or ()), values_of(found.items or ())
    if not (np.isfinite(given).all() and finite_samples(found.outputs).all()):
        return 0.0, np.ones(rounds)
    value = rank_correlation(wanted, given)
    return value, _in_rounds(len(wanted), seed, rounds, lambda drawn: rank_drops(wanted, given, drawn))


_WHOLE = {"alarm": _alarm_drops, "rank": _rank_drops}


def _precision_drops(
    reference: Observed, found: Observed, dataset: Dataset, seed: int, rounds: int
) -> tuple[float, float, NDArray[np.float64], bool]:
    """Return the candidate's and the float model's precision, and the drop in each round."""
    metric = METRICS["map50"]
    for observed in (reference, found):
        _check(metric, reference, observed, dataset)
    count = len(dataset)
    whole = np.ones((1, count), np.int64)
    judged = []
    for observed in (reference, found):
        is_finite = finite_samples(observed.outputs) if observed.outputs else np.ones(count, np.bool_)
        items = [i if ok else () for i, ok in zip(observed.items or (), is_finite, strict=True)]
        judged.append(judge(items, dataset.boxes or (), dataset.classes))
    base, value = (float(mean_precision(one, whole)[0]) for one in judged)
    drops = _in_rounds(
        count, seed, rounds, lambda drawn: mean_precision(judged[0], drawn) - mean_precision(judged[1], drawn)
    )
    own, mine = (image_scores(one, count) for one in judged)
    return value, base, drops, bool((own == mine).all() and base == value)
