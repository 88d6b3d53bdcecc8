"""The metrics, and the score of a candidate against the float model with its confidence interval.

With labels, both models are compared with the labels. Without labels, candidates are compared with the
float model: then a score measures agreement, not accuracy.
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
    """A model's outputs and predictions for all samples.

    ``outputs`` are the logical outputs, (n, ...), float32. ``items`` are the decoded predictions of each
    sample, boxes in pixels of the source picture; None if outputs were not decoded.
    """

    outputs: dict[str, NDArray[np.float32]]
    items: tuple[tuple[Item, ...], ...] | None = None


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric.

    ``means`` is its description in the report. ``labelled``: both models are scored against the labels;
    otherwise candidates are scored against the float model, which scores 1. ``needs_items``: the metric
    needs decoded predictions.
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
                means="Share of samples whose five best answers include the labelled class.",
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
                " an unmatched box counts as 0.",
                needs_items=True,
            ),
            Metric(
                id="alarm",
                means="Share of samples with the float model's decision, averaged over its decisions"
                " (balanced accuracy): alarms weigh as much as their absence, however rare.",
                needs_items=True,
            ),
            Metric(
                id="rank",
                means="Rank correlation of the scores with the float model's: whether samples keep their"
                " order, from the least to the most alarming.",
                needs_items=True,
            ),
            Metric(
                id="cosine",
                means="Mean cosine of the outputs with the float model's; for single values 1 minus the"
                " difference, relative to their range.",
            ),
        )
    }
)
"""All built-in metrics by name."""


def choose_metric(name: str, task: str, dataset: Dataset) -> Metric:
    """Return the metric of this name, or for ``auto`` the best one for the task and data.

    Args:
        name: ``auto``, a key of ``METRICS``, or ``module:function``, which is called with the outputs by
            name and the labels (or None) and returns one score from 0 to 1 for each sample.
        task: The model's task, which determines the applicable metrics.
        dataset: The evaluation set.

    Raises:
        UsageError: The metric is unknown, or does not apply to the task or the data.
        BundleError: The task is unknown.
    """
    if ":" in name:
        load_function(name, "metric")
        return Metric(id=name, means=f"Mean of the user-defined score {name}.", labelled=True)
    applicable = task_named(task).metrics
    possible = [metric for metric in applicable if _has_truth(METRICS[metric], dataset)]
    if name == "auto":
        return METRICS[possible[0]]
    if name in possible:
        return METRICS[name]
    known = name in METRICS
    why = f"does not apply to task '{task}'" if known and name not in applicable else ""
    why = why or ("needs labels, but the data have none" if known else "is not known")
    raise UsageError(
        f"metric {name!r} {why}", hint=f"use auto, {', '.join(possible)}, or your own module:function"
    )


def settle(metric: Metric, reference: Observed) -> tuple[Metric, str]:
    """Return the metric to use given the float model's decisions, and a warning for the user or "".

    ``alarm`` compares decisions. If the float model makes the same decision on every sample, a candidate
    with constant output would score 1; ``rank`` is used instead.
    """
    if metric.id != "alarm" or not reference.items:
        return metric, ""
    counts = decided(reference.items)
    total, (rarest, count) = len(reference.items), min(counts.items(), key=lambda entry: entry[1])
    if len(counts) == 1:
        return METRICS["rank"], (
            f"the float model decides {rarest!r} for all {total} samples, so 'alarm' cannot compare"
            " candidates; 'rank' is measured instead (whether the scores keep their order): give data with"
            " and without alarms"
        )
    if count >= FEW:
        return metric, ""
    return metric, (
        f"the float model decides {rarest!r} for only {count} of {total} samples: each of them is worth"
        f" {100 / (count * len(counts)):.1f} points of 'alarm', so the metric is unreliable;"
        " give more of them"
    )


def per_sample(
    metric: Metric, reference: Observed, candidate: Observed, dataset: Dataset
) -> NDArray[np.float64]:
    """Return the score of each sample, from 0 to 1; 0 if an output of the sample is not finite.

    The mean over samples is the metric, with three exceptions: for ``map50`` a sample's score is its F1
    at half overlap; ``alarm`` is averaged per decision first; for ``rank`` a sample's score is 1 minus
    its change of rank, as a share of all ranks.

    Ties: integer outputs saturate, so k classes may share the highest score. Each counts as the answer
    with probability 1/k, since which one a runtime returns first is arbitrary.

    Args:
        metric: As ``choose_metric`` returns it.
        reference: The float model's observations.
        candidate: The candidate's observations.
        dataset: The evaluation set.

    Raises:
        TensorError: The outputs do not match the data or the metric.
        ConfigError: The user-defined metric failed or returned invalid scores.

    Source: own rule for ties.
    """
    reference, candidate = _answers(reference, dataset), _answers(candidate, dataset)
    _check(metric, reference, candidate, dataset)
    is_finite = finite_samples(candidate.outputs) if candidate.outputs else np.ones(len(dataset), np.bool_)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = _raw_scores(metric, reference, candidate, dataset)
    return np.where(is_finite & np.isfinite(scores), scores, 0.0)


def score(
    metric: Metric,
    reference: Observed,
    candidate: Observed,
    dataset: Dataset,
    *,
    seed: int = 0,
    rounds: int = 500,
) -> Score:
    """Return a candidate's score, and its loss against the float model with a 95 % interval.

    The interval comes from a paired bootstrap over samples. If the outputs differ but no score does, the
    bootstrap interval would have width zero, and the exact binomial bound is used instead. If all
    outputs are equal, the loss is exactly 0.

    Args:
        metric: As ``choose_metric`` returns it.
        reference: The float model's observations.
        candidate: The candidate's observations.
        dataset: The evaluation set.
        seed: For the bootstrap.
        rounds: Number of bootstrap rounds.

    Raises:
        TensorError: The outputs do not match the data or the metric.
        ConfigError: The user-defined metric failed or returned invalid scores.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentiles);
    exact binomial bound for no difference in n samples: 1 - 0.05^(1/n).
    """
    reference, candidate = _answers(reference, dataset), _answers(candidate, dataset)
    bound = 1 - 0.05 ** (1 / max(len(dataset), 1))
    if metric.id == "map50":
        value, base, drops, is_equal = _precision_drops(reference, candidate, dataset, seed, rounds)
    elif metric.id in _NOT_A_MEAN:
        value, drops = _NOT_A_MEAN[metric.id](metric, reference, candidate, dataset, seed, rounds)
        base, is_equal = 1.0, value == 1.0
        if metric.id == "alarm":
            bound = largest_drop(decisions(reference.items or ()))
    else:
        scores = per_sample(metric, reference, candidate, dataset)
        reference_scores = (
            per_sample(metric, reference, reference, dataset) if metric.labelled else np.ones(len(scores))
        )
        value, base, is_equal = (
            float(scores.mean()),
            float(reference_scores.mean()),
            bool((scores == reference_scores).all()),
        )
        drops = _drops(reference_scores - scores, seed, rounds)
    low, high = (float(np.quantile(drops, share)) for share in (0.025, 0.975))
    drop = base - value
    if is_equal and not _is_same(reference, candidate):
        high = bound
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
    """Return the observations without state outputs, which are not answers."""
    answers = {name: values for name, values in observed.outputs.items() if name not in dataset.states}
    return Observed(answers, observed.items) if answers else observed


def _is_same(reference: Observed, candidate: Observed) -> bool:
    return (
        reference.items == candidate.items
        and reference.outputs.keys() == candidate.outputs.keys()
        and all(
            np.array_equal(values, candidate.outputs[name], equal_nan=True)
            for name, values in reference.outputs.items()
        )
    )


def _has_truth(metric: Metric, dataset: Dataset) -> bool:
    if not metric.labelled:
        return True
    return dataset.boxes is not None if metric.needs_items else dataset.labels is not None


def _check(metric: Metric, reference: Observed, candidate: Observed, dataset: Dataset) -> None:
    for who, observed in (("the float model", reference), ("the candidate", candidate)):
        for name, values in observed.outputs.items():
            if len(values) != len(dataset):
                raise TensorError(f"{who}: output {name!r} has {len(values)} samples, want {len(dataset)}")
        if metric.needs_items and (observed.items is None or len(observed.items) != len(dataset)):
            raise TensorError(f"metric {metric.id!r} needs the decoded predictions of {who}")
    if not len(dataset):
        raise TensorError(f"metric {metric.id!r}: there are no samples to evaluate")


def _raw_scores(
    metric: Metric, reference: Observed, candidate: Observed, dataset: Dataset
) -> NDArray[np.float64]:
    if ":" in metric.id:
        return own_scores(metric.id, candidate.outputs, dataset.labels, len(dataset))
    if metric.needs_items:
        return _item_scores(metric, reference.items or (), candidate.items or (), dataset)
    if not metric.labelled:
        return _UNLABELLED[metric.id](reference.outputs, candidate.outputs)
    if dataset.labels is None:
        raise TensorError(f"metric {metric.id!r} needs labels, but the data have none")
    return top_k(candidate.outputs, dataset.labels, _RANKS[metric.id], len(dataset.classes))


def _item_scores(metric: Metric, reference: Items, candidate: Items, dataset: Dataset) -> NDArray[np.float64]:
    if metric.id == "rank":
        return _rank_item_scores(reference, candidate)
    if not metric.labelled:
        compare = _PAIRED[metric.id]
        return np.array([compare(a, b) for a, b in zip(reference, candidate, strict=True)], np.float64)
    if dataset.boxes is None:
        raise TensorError(f"metric {metric.id!r} needs boxes, but the data have none")
    return image_scores(judge(candidate, dataset.boxes, dataset.classes), len(dataset))


def _same_decision(reference: Sequence[Item], candidate: Sequence[Item]) -> float:
    return float({item.label for item in reference} == {item.label for item in candidate})


def _rank_item_scores(reference: Items, candidate: Items) -> NDArray[np.float64]:
    return rank_scores(values_of(reference), values_of(candidate))


_RANKS = {"top1": 1, "top5": 5}
_UNLABELLED = {"agreement": agreement, "cosine": cosine}
_PAIRED = {"iou": overlap_with, "alarm": _same_decision}


def _draws(count: int, seed: int, rounds: int) -> NDArray[np.int64]:
    """Return how often each sample is drawn in each bootstrap round, shape (rounds, count)."""
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
    metric: Metric, reference: Observed, candidate: Observed, dataset: Dataset, seed: int, rounds: int
) -> tuple[float, NDArray[np.float64]]:
    same = per_sample(metric, reference, candidate, dataset)
    kinds = decisions(reference.items or ())
    value = float(balanced(same, kinds, np.ones((1, len(same)), np.int64))[0])
    return value, _in_rounds(len(same), seed, rounds, lambda drawn: 1 - balanced(same, kinds, drawn))


def _rank_drops(
    metric: Metric, reference: Observed, candidate: Observed, dataset: Dataset, seed: int, rounds: int
) -> tuple[float, NDArray[np.float64]]:
    _check(metric, reference, candidate, dataset)
    reference_values, candidate_values = values_of(reference.items or ()), values_of(candidate.items or ())
    if not (np.isfinite(candidate_values).all() and finite_samples(candidate.outputs).all()):
        return 0.0, np.ones(rounds)
    value = rank_correlation(reference_values, candidate_values)
    return value, _in_rounds(
        len(reference_values),
        seed,
        rounds,
        lambda drawn: rank_drops(reference_values, candidate_values, drawn),
    )


_NOT_A_MEAN = {"alarm": _alarm_drops, "rank": _rank_drops}


def _precision_drops(
    reference: Observed, candidate: Observed, dataset: Dataset, seed: int, rounds: int
) -> tuple[float, float, NDArray[np.float64], bool]:
    """Return candidate and float mean precision, the drop in each round, and whether all scores are equal."""
    metric = METRICS["map50"]
    for observed in (reference, candidate):
        _check(metric, reference, observed, dataset)
    count = len(dataset)
    every_sample = np.ones((1, count), np.int64)
    judged = []
    for observed in (reference, candidate):
        is_finite = finite_samples(observed.outputs) if observed.outputs else np.ones(count, np.bool_)
        items = [i if ok else () for i, ok in zip(observed.items or (), is_finite, strict=True)]
        judged.append(judge(items, dataset.boxes or (), dataset.classes))
    base, value = (float(mean_precision(detections, every_sample)[0]) for detections in judged)
    drops = _in_rounds(
        count, seed, rounds, lambda drawn: mean_precision(judged[0], drawn) - mean_precision(judged[1], drawn)
    )
    reference_scores, scores = (image_scores(detections, count) for detections in judged)
    return value, base, drops, bool((reference_scores == scores).all() and base == value)
