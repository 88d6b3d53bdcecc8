"""Variants that are excluded for a while, and when each is retried. Pure: the caller passes the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

import msgspec

from edgekit.core.spec import RETRY_S


class Exclusion(msgspec.Struct, frozen=True):
    """Why a variant is excluded, its wait in seconds, and the monotonic time at which it is tried again.

    A variant that ``is_over`` may run again; its row stays, so that another loss doubles its wait.
    """

    reason: str
    wait_s: float
    due_s: float = 0.0
    is_over: bool = False


class Exclusions:
    """Variants of one bundle that were lost while running: by a crash, a hang, or a missing accelerator.

    >>> lost = Exclusions()
    >>> lost.add("int8-edgetpu", "was unplugged", now_s=100)
    >>> lost.first_due()
    ('int8-edgetpu', 105.0)
    >>> lost.add("int8-edgetpu", "is still away", now_s=106)
    >>> lost.first_due(), lost.reasons()
    (('int8-edgetpu', 116.0), {'int8-edgetpu': 'is still away'})

    Args:
        retry_s: The shortest and the longest wait.
        rows: What is excluded to begin with, by variant.
    """

    def __init__(
        self, retry_s: tuple[float, float] = RETRY_S, rows: Mapping[str, Exclusion] | None = None
    ) -> None:
        self._shortest_s, self._longest_s = retry_s
        self.rows: MutableMapping[str, Exclusion] = dict(rows or {})

    def part(self, prefix: str) -> Exclusions:
        """Return those of one of several models, which are kept and reported together, by a prefix."""
        own = Exclusions((self._shortest_s, self._longest_s))
        own.rows = _PartOfRows(self, prefix)
        return own

    def add(self, variant: str, reason: str, now_s: float) -> None:
        """Exclude a variant, for twice as long as the last time."""
        before = self.rows.get(variant)
        wait_s = min(2 * before.wait_s, self._longest_s) if before else self._shortest_s
        self.rows[variant] = Exclusion(reason, wait_s, now_s + wait_s)

    def returned(self, variant: str) -> None:
        """Allow a variant again; if it is lost once more, its wait still doubles."""
        if variant in self.rows:
            self.rows[variant] = msgspec.structs.replace(self.rows[variant], is_over=True)

    def first_due(self) -> tuple[str, float] | None:
        """Return the excluded variant that is tried again first, and when; None if there is none."""
        rows = [(name, row.due_s) for name, row in self.rows.items() if not row.is_over]
        return min(rows, key=lambda row: row[1], default=None)

    def reasons(self) -> dict[str, str]:
        """Return the variants not to choose now, and why."""
        return {name: row.reason for name, row in self.rows.items() if not row.is_over}

    def forget(self) -> None:
        """Clear all, as when no variant is left."""
        self.rows.clear()


class _PartOfRows(MutableMapping[str, Exclusion]):
    """The rows that begin with a prefix, without it."""

    def __init__(self, whole: Exclusions, prefix: str) -> None:
        self._whole, self._prefix = whole, prefix

    def __getitem__(self, variant: str) -> Exclusion:
        return self._whole.rows[self._prefix + variant]

    def __setitem__(self, variant: str, row: Exclusion) -> None:
        self._whole.rows[self._prefix + variant] = row

    def __delitem__(self, variant: str) -> None:
        del self._whole.rows[self._prefix + variant]

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        return iter([name.removeprefix(prefix) for name in list(self._whole.rows) if name.startswith(prefix)])

    def __len__(self) -> int:
        return sum(1 for _ in self)
