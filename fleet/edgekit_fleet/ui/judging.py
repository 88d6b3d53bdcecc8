"""What a rollout's guards see, summed up for its page."""

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
"""Devices that a page sums up; the engine judges all of them."""
_KEPT = 10


@dataclass(frozen=True)
class Judged:
    """What the version before and the new one did on all updated devices together."""

    before: Baseline
    after: Tally
    devices: int


class Judge:
    """Sums reports up with an observer of its own: the engine's is its thread's alone."""

    def __init__(self, database: Database) -> None:
        self._lock = threading.Lock()
        self._observer = Observer(database)
        self._asked: list[str] = []

    def judge(self, rollout: Rollout, members: Sequence[Participant]) -> Judged | None:
        """Return what is measured of a rollout's updated devices; None where there are none."""
        updated = [one for one in members if one.is_directed][:MAX_DEVICES]
        with self._lock:
            self._asked = [*(one for one in self._asked if one != rollout.id), rollout.id][-_KEPT:]
            self._observer.forget(self._asked)
            measured = self._observer.measured(rollout, updated, {one.device for one in updated})
        if not measured:
            return None
        before = [one for one, _ in measured.values()]
        baseline = Baseline(
            sum(one.frames for one in before),
            sum(one.errors for one in before),
            max(one.p99_ms for one in before),
        )
        return Judged(baseline, evidence.summed(after for _, after in measured.values()), len(measured))
