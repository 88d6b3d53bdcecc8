"""Variants that are excluded for a while, and when each is retried. Pure: the caller passes the time."""

from __future__ import annotations

from dataclasses import dataclass

RETRY_S = (5.0, 600.0)
"""The wait before a variant is tried again: from .. to, doubled each time that it fails again."""


@dataclass
class _Exclusion:
    reason: str
    wait_s: float
    due_s: float
    is_over: bool = False


class Exclusions:
    """Variants lost while running, by a crash, a hang, or a missing accelerator.

    >>> lost = Exclusions()
    >>> lost.add("int8-edgetpu", "was unplugged", now_s=100)
    >>> lost.due(104), lost.due(105)
    ('', 'int8-edgetpu')
    >>> lost.add("int8-edgetpu", "is still away", now_s=106)
    >>> lost.due(115), lost.due(116), lost.reasons()
    ('', 'int8-edgetpu', {'int8-edgetpu': 'is still away'})
    """

    def __init__(self, retry_s: tuple[float, float] = RETRY_S) -> None:
        self._shortest_s, self._longest_s = retry_s
        self._rows: dict[str, _Exclusion] = {}

    def add(self, variant: str, reason: str, now_s: float) -> None:
        """Exclude a variant, for twice as long as the last time."""
        before = self._rows.get(variant)
        wait_s = min(2 * before.wait_s, self._longest_s) if before else self._shortest_s
        self._rows[variant] = _Exclusion(reason, wait_s, now_s + wait_s)

    def returned(self, variant: str) -> None:
        """Allow a variant again; if it is lost once more, its wait still doubles."""
        if variant in self._rows:
            self._rows[variant].is_over = True

    def due(self, now_s: float) -> str:
        """Return an excluded variant whose wait is over; empty if there is none."""
        rows = self._rows.items()
        return next((name for name, row in rows if not row.is_over and now_s >= row.due_s), "")

    def reasons(self) -> dict[str, str]:
        """Return the variants not to choose now, and why."""
        return {name: row.reason for name, row in self._rows.items() if not row.is_over}

    def forget(self) -> None:
        """Clear all, as for another bundle or when no variant is left."""
        self._rows.clear()
