"""Which messages of an outbox are committed: a watermark, and the ranges above it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]
"""First and last sequence number, both included."""


def add(watermark: int, ranges: Sequence[Range], new: Iterable[Range]) -> tuple[int, list[Range]]:
    """Return the watermark and the ranges above it after a commit of more messages.

    >>> add(3, [(6, 7)], [(5, 5)])
    (3, [(5, 7)])
    >>> add(3, [(5, 7)], [(4, 4)])
    (7, [])

    Args:
        watermark: Every number up to it was committed; 0 for none.
        ranges: Committed ranges above it: sorted, disjoint and not adjacent.
        new: Ranges that are committed now, in any order; they may overlap all others.
    """
    joined: list[Range] = []
    for first, last in sorted([(0, watermark), *ranges, *new]):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined[0][1], joined[1:]


def missing(watermark: int, ranges: Sequence[Range], first: int, last: int) -> list[int]:
    """Return the sequence numbers from ``first`` to ``last`` that are not committed yet.

    >>> missing(3, [(5, 6)], 2, 8)
    [4, 7, 8]
    """
    known = [r for r in ranges if r[1] >= first and r[0] <= last]
    return [
        number
        for number in range(max(first, watermark + 1), last + 1)
        if not any(low <= number <= high for low, high in known)
    ]


def holes(watermark: int, ranges: Sequence[Range], last: int) -> list[Range]:
    """Return the ranges up to ``last`` that are not committed yet.

    >>> holes(3, [(6, 7)], 9)
    [(4, 5), (8, 9)]
    """
    found: list[Range] = []
    begin = watermark + 1
    for low, high in [*ranges, (last + 1, last + 1)]:
        if begin <= min(low - 1, last):
            found.append((begin, min(low - 1, last)))
        begin = max(begin, high + 1)
    return found
