"""Pages with a cursor: ask the store for one row more than the page shows, and see whether it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Row = TypeVar("Row")
Cursor = TypeVar("Cursor")


def page_of(
    rows: Sequence[Row], limit: int, cursor: Callable[[Row], Cursor]
) -> tuple[list[Row], Cursor | None]:
    """Return the rows of one page, and the cursor of the page after it; None on the last page.

    Args:
        rows: At most ``limit + 1`` rows, in the page's order.
        limit: Rows on a page.
        cursor: What identifies a row in a query for those after it.
    """
    shown = list(rows[:limit])
    return shown, cursor(shown[-1]) if len(rows) > limit else None


def document(
    rows: Sequence[Row], limit: int, cursor: Callable[[Row], int], shown: Callable[[Row], dict[str, Any]]
) -> dict[str, Any]:
    """Return a page as the API sends it: ``items``, and ``next``, a text or None.

    >>> document([3, 2, 1], 2, int, lambda number: {"number": number})
    {'items': [{'number': 3}, {'number': 2}], 'next': '2'}
    """
    items, following = page_of(rows, limit, cursor)
    return {
        "items": [shown(row) for row in items],
        "next": None if following is None else str(following),
    }
