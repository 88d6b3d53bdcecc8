"""The measurements that a rollout's guards compare, summed up for its page."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit_fleet.rollout import evidence
from edgekit_fleet.rollout.evidence import Baseline, Tally
from edgekit_fleet.rollout.observe import Observer
from edgekit_fleet.rollout.records import Participant, Rollout
from edgekit_fleet.store.database import Database

MAX_DEVICES = 200
"""A page sums up at most this many devices; the engine judges all of them."""
_KEPT = 10


@dataclass(frozen=True)
class Judged:
    """Measurements of the previous and the new version, summed over all updated devices."""

    before: Baseline
    after: Tally
    devices: int


class Judge:
    """Sums reports up with an observer of its own, because the engine's belongs to the engine's thread."""

    def __init__(self, database: Database) -> None:
        self._lock = threading.Lock()
        self._observer = Observer(database)
        self._asked: list[str] = []

    def judge(self, rollout: Rollout, members: Sequence[Participant]) -> Judged | None:
        """Return the sums over a rollout's updated devices; None without an updated device."""
        updated = [member for member in members if member.is_directed][:MAX_DEVICES]
        with self._lock:
            others = (other for other in self._asked if other != rollout.id)
            self._asked = [*others, rollout.id][-_KEPT:]
            self._observer.forget(self._asked)
            measured = self._observer.measured(rollout, updated, {member.device for member in updated})
        if not measured:
            return None
        before = [baseline for baseline, _ in measured.values()]
        total = Baseline(
            sum(baseline.frames for baseline in before),
            sum(baseline.errors for baseline in before),
            max(baseline.p99_ms for baseline in before),
        )
        return Judged(total, evidence.summed(after for _, after in measured.values()), len(measured))
