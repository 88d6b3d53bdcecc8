"""Agreement of detectors that raise alarms, where alarms may be rare or absent.

Of a thousand windows with three alarms, a model that never raises one decides 99.7 % like the float
model. So each of the float model's decisions counts the same, however rare: balanced accuracy. Where
it decides everything alike there is no second decision to agree on; what is left is whether the
scores behind the decisions keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item

Items = Sequence[Sequence[Item]]
FEW = 10
"""Fewer samples of a decision than this are worth a word: one of them is worth five points or more."""


def decisions(items: Items) -> list[str]:
    """Return each sample's decision: the labels found, sorted; "nothing" where there are none."""
    return [", ".join(sorted({item.label for item in found})) or "nothing" for found in items]


def decided(items: Items) -> dict[str, int]:
    """Return how many samples have each decision."""
    found = decisions(items)
    return {decision: found.count(decision) for decision in sorted(set(found))}


def balanced(
    same: NDArray[np.float64], kinds: Sequence[str], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean, over the float model's decisions, of the share that is decided alike.

    Args:
        same: 1 for each sample that is decided as the float model does, else 0.
        kinds: The float model's decision for each sample.
        weights: How often each sample counts, (rounds, n), integers from 0.

    Returns:
        Shape (rounds,), 0 to 1; a decision that a round has no sample of does not count in it.

    Source: "The balanced accuracy and its posterior distribution", Brodersen et al., ICPR 2010.
    """
    total, present = np.zeros(len(weights)), np.zeros(len(weights))
    for kind in sorted(set(kinds)):
        of_kind = np.array([one == kind for one in kinds])
        counts = weights[:, of_kind].sum(axis=1)
        alike = weights[:, of_kind] @ same[of_kind]
        total += np.where(counts > 0, alike / np.maximum(counts, 1), 0.0)
        present += counts > 0
    return np.asarray(total / np.maximum(present, 1), np.float64)


def largest_drop(kinds: Sequence[str]) -> float:
    """Return what may be lost for all data like these, with 95 %, where no decision differs.

    Source: the exact binomial bound for n equal answers, 1 - 0.05^(1/n), of each decision.
    """
    counts = [list(kinds).count(kind) for kind in sorted(set(kinds))]
    return float(np.mean([1 - 0.05 ** (1 / count) for count in counts]))


def values_of(items: Items) -> NDArray[np.float64]:
    """Return the number behind each sample's decision, higher for an alarm; 0 where nothing was found."""
    found = [
        max((item.value if item.value is not None else item.score or 0.0 for item in one), default=0.0)
        for one in items
    ]
    return np.array(found, np.float64)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value's rank from 0, the mean of their ranks for equal ones."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse], np.float64)


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return how far two rows of values have the same order, 0 to 1; opposite orders count as 0.

    Two rows without any order are alike (1), one without and one with an order are not (0).

    Source: "The proof and measurement of association between two things", Spearman, 1904.
    """
    a, b = (found - found.mean() for found in (ranks(first), ranks(second)))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    if norm == 0:
        return float(not a.any() and not b.any())
    return float(np.clip((a * b).sum() / norm, 0.0, 1.0))


def rank_drops(
    reference: NDArray[np.float64], found: NDArray[np.float64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return 1 minus the rank correlation in each round, (rounds,), of samples drawn ``weights`` times."""
    places = np.arange(len(reference))
    drawn = (np.repeat(places, counts) for counts in weights)
    return np.array([1 - rank_correlation(reference[row], found[row]) for row in drawn])


def rank_scores(reference: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each sample 1 minus the share of all ranks by which it moved."""
    return np.asarray(1 - np.abs(ranks(reference) - ranks(found)) / max(len(reference) - 1, 1))
