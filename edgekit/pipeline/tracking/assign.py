"""The cheapest assignment of rows to columns, exactly, without SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = list[tuple[int, int]]


def assign(costs: Floats, limit: float) -> Pairs:
    """Return the pairs (row, column) of the cheapest assignment in which only pairs below ``limit`` are made.

    A row or column that stays alone costs half of ``limit``, so that no pair is made for the sake of another.

    >>> assign(np.array([[0.1, 0.2], [0.15, 0.9]]), 0.8)
    [(0, 1), (1, 0)]

    Args:
        costs: Shape (rows, columns), finite and at least 0.
        limit: Pairs of at least this cost are never made.

    Source: Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", 1987; without its initialisation, since rows that want different columns get them in one step.
    """
    if not costs.size:
        return []
    capped = np.minimum(costs, limit)
    is_tall = capped.shape[0] > capped.shape[1]
    pairs = _whole(capped.T if is_tall else capped)
    turned = ((column, row) for row, column in pairs) if is_tall else pairs
    return sorted((int(row), int(column)) for row, column in turned if costs[row, column] < limit)


def _whole(costs: Floats) -> Pairs:
    """Assign every row; there are at most as many rows as columns."""
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for row in range(rows):
        _augment(costs, row, row_price, column_price, row_of)
    return [(row, column) for column, row in enumerate(row_of.tolist()) if row >= 0]


def _augment(
    costs: Floats, row: int, row_price: Floats, column_price: Floats, row_of: NDArray[np.intp]
) -> None:
    """Assign one more row along the cheapest path that ends at a free column (Dijkstra's algorithm)."""
    columns = costs.shape[1]
    distance, came_from = np.full(columns, np.inf), np.full(columns, -1)
    is_open, reached = np.ones(columns, bool), 0.0
    rows, current, sink = [row], row, -1
    while sink < 0:
        through = reached + costs[current] - row_price[current] - column_price
        is_nearer = is_open & (through < distance)
        distance[is_nearer], came_from[is_nearer] = through[is_nearer], current
        column = int(np.argmin(np.where(is_open, distance, np.inf)))
        reached, is_open[column] = float(distance[column]), False
        if row_of[column] < 0:
            sink = column
        else:
            current = int(row_of[column])
            rows.append(current)
    closed = ~is_open
    for visited in rows[1:]:
        row_price[visited] += reached - distance[np.flatnonzero(row_of == visited)[0]]
    row_price[row] += reached
    column_price[closed] -= reached - distance[closed]
    while True:  # turn the path around
        previous = int(came_from[sink])
        following = -1 if previous == row else int(np.flatnonzero(row_of == previous)[0])
        row_of[sink] = previous
        if previous == row:
            return
        sink = following
