"""The durable, bounded, prioritised queue of messages that wait for the link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.core import wire
from edgekit.core.ports import Clock


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait: messages, bytes of their bodies, seconds of the outbox's own running time."""

    rows: int = 200_000
    bytes: int = 64 << 20
    age_s: float = 30 * 86_400.0


class Cursor(msgspec.Struct, frozen=True):
    """How far each topic was sent: the last sequence number, events and metrics apart."""

    ev: int
    m: int


class Parcel(msgspec.Struct, frozen=True):
    """One batch, its topic leaf ("ev" or "m"), and the last sequence number it covers."""

    leaf: str
    batch: wire.RawBatch
    last: int


class Outbox:
    """Messages on disk until the fleet's watermark passes them; one process opens it at a time.

    Thread-safe. ``put`` never waits for the disk and never raises for it: what cannot be stored is
    dropped, the lowest priority first, and counted.

    Args:
        path: The SQLite file; created with its folder. A damaged one is moved aside.
        clock: Times of messages.
        quota: What may wait; the least important goes first when it is more.
        commit_delay_s: The longest that ``put`` waits for company; 0 commits each at once.
    """

    boot: str
    """Names this outbox's life: a new file has a new one."""

    def __init__(
        self, path: Path, clock: Clock, quota: Quota | None = None, *, commit_delay_s: float = 0.05
    ) -> None:
        raise NotImplementedError

    def put(self, record: wire.Record, priority: int | None = None) -> None:
        """Queue a message; durable within ``commit_delay_s``, or after ``flush``.

        Args:
            record: The message; it must have passed the egress gate.
            priority: 0 is kept longest, 9 dropped first; by the kind of record where None.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Make everything put so far durable before returning."""
        raise NotImplementedError

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called (on any thread, so it must only signal) when new messages are durable."""
        raise NotImplementedError

    def state(self) -> wire.OutboxState:
        """Return what waits and what was given up, for ``up/reported``."""
        raise NotImplementedError

    def close(self) -> None:
        """Commit and close; safe to call twice."""
        raise NotImplementedError
