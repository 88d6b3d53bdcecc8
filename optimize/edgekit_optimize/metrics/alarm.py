"""Agreement of anomaly and voice detectors, whose alarms may be rare or absent.

With three alarms in a thousand windows, a model that never raises an alarm agrees with the float model
on 99.7 %. Hence balanced accuracy: every decision of the float model has the same weight, however rare.
If the float model makes the same decision on every sample, only the order of the scores is compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item

Items = Sequence[Sequence[Item]]
FEW = 10
"""Below this many samples of a decision, warn: a single sample is worth five points or more."""


def decisions(items: Items) -> list[str]:
    """Return each sample's decision: its predicted labels, sorted and joined, or "nothing"."""
    return [", ".join(sorted({item.label for item in predictions})) or "nothing" for predictions in items]


def decided(items: Items) -> dict[str, int]:
    """Return the number of samples of each decision."""
    all_decisions = decisions(items)
    return {decision: all_decisions.count(decision) for decision in sorted(set(all_decisions))}


def balanced(
    same: NDArray[np.float64], kinds: Sequence[str], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the balanced accuracy: the mean, over the float model's decisions, of the agreeing share.

    Args:
        same: 1 for each sample where the decision equals the float model's, else 0.
        kinds: The float model's decision for each sample.
        weights: How often each sample counts, (rounds, n), integers from 0.

    Returns:
        Shape (rounds,), 0 to 1; decisions without a sample in a round are ignored in that round.

    Source: "The balanced accuracy and its posterior distribution", Brodersen et al., ICPR 2010.
    """
    total, present = np.zeros(len(weights)), np.zeros(len(weights))
    for kind in sorted(set(kinds)):
        of_kind = np.array([decision == kind for decision in kinds])
        counts = weights[:, of_kind].sum(axis=1)
        alike = weights[:, of_kind] @ same[of_kind]
        total += np.where(counts > 0, alike / np.maximum(counts, 1), 0.0)
        present += counts > 0
    return np.asarray(total / np.maximum(present, 1), np.float64)


def largest_drop(kinds: Sequence[str]) -> float:
    """Return the 95 % upper bound of the loss if no decision differs on these samples.

    Source: mean over decisions of the exact binomial bound for n equal answers, 1 - 0.05^(1/n).
    """
    counts = [list(kinds).count(kind) for kind in sorted(set(kinds))]
    return float(np.mean([1 - 0.05 ** (1 / count) for count in counts]))


def values_of(items: Items) -> NDArray[np.float64]:
    """Return each sample's highest predicted value or score; 0 without predictions."""
    highest = [
        max(
            (item.value if item.value is not None else item.score or 0.0 for item in predictions), default=0.0
        )
        for predictions in items
    ]
    return np.array(highest, np.float64)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value's rank from 0; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse], np.float64)


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, negative values cut to 0.

    Two constant arrays give 1, a constant and a varying one 0.

    Source: "The proof and measurement of association between two things", Spearman, 1904.
    """
    a, b = (row - row.mean() for row in (ranks(first), ranks(second)))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    if norm == 0:
        return float(not a.any() and not b.any())
    return float(np.clip((a * b).sum() / norm, 0.0, 1.0))


def rank_drops(
    reference: NDArray[np.float64], candidate: NDArray[np.float64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return 1 minus the rank correlation of each bootstrap round; ``weights`` is (rounds, n)."""
    indices = np.arange(len(reference))
    drawn = (np.repeat(indices, counts) for counts in weights)
    return np.array([1 - rank_correlation(reference[row], candidate[row]) for row in drawn])


def rank_scores(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each sample 1 minus its change of rank, as a share of all ranks."""
    return np.asarray(1 - np.abs(ranks(reference) - ranks(candidate)) / max(len(reference) - 1, 1))
