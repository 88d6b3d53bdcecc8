"""How the devices of a rollout are doing: their update records and metric reports, read from the store."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from edgekit.core import wire
from edgekit.core.sketch import Histogram, Sketch
from edgekit_fleet.rollout import evidence
from edgekit_fleet.rollout.evidence import Baseline, Tally
from edgekit_fleet.rollout.records import Participant, Rollout, standing_of, standing_row
from edgekit_fleet.rollout.standing import Standing, after_record, after_report
from edgekit_fleet.store import cursors, reports, rollouts
from edgekit_fleet.store.database import Database, Sql

BASELINE_MS = 24 * 3600 * 1000
BASELINE_REPORTS = 200
_BATCH = 1000


def take_records(database: Database, now_ms: int) -> int:
    """Apply the update records that came since the last call to the rollouts that they name.

    Each record is applied once: the cursor moves in the same commit. Returns how many were read.
    """
    with database.transaction() as sql:
        events = cursors.take(sql, "rollout_cursor", ("update",), _BATCH)
        for event in events:
            record = msgspec.json.decode(event.body, type=wire.UpdateRecord)
            _take(sql, event.device, record, now_ms)
    return len(events)


def _take(sql: Sql, device: str, record: wire.UpdateRecord, now_ms: int) -> None:
    """Apply one record, unless its device was restored or directed to another version since."""
    row = rollouts.standing_of_directed(
        sql, record.rollout, device, model=record.model, version=record.version
    )
    if row is not None:
        before = standing_of(row)
        _write(sql, record.rollout, device, before, after_record(before, record, now_ms))


def take_reports(
    database: Database, rollout: Rollout, participants: Sequence[Participant], now_ms: int
) -> bool:
    """Settle the devices whose reported state says more than their records; return whether any did."""
    changed = []
    for participant in participants:
        if participant.is_directed:
            before = participant.standing
            after = after_report(
                before,
                runs_it=participant.active == rollout.version,
                rejects_it=participant.is_rejecting,
                now_ms=now_ms,
            )
            if after != before:
                changed.append((participant.device, before, after))
    if changed:
        with database.transaction() as sql:
            for device, before, after in changed:
                _write(sql, rollout.id, device, before, after)
    return bool(changed)


def _write(sql: Sql, rollout: str, device: str, before: Standing, after: Standing) -> None:
    rollouts.set_standing(sql, rollout, device, standing_row(after))
    if after.outcome is not before.outcome:
        text = f"{device}: {after.outcome.value}{': ' if after.reason else ''}{after.reason}"
        rollouts.log(sql, rollout, after.settled_ms, text)


@dataclass
class _Seen:
    """What was added up of one device in one rollout, up to report number ``last``."""

    directed_ms: int
    before: Baseline
    after: Tally = field(default_factory=Tally)
    last: int = 0


class Observer:
    """Adds up metric reports; each is read once in the life of this object."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._stale: set[str] = set()
        self._seen: dict[str, dict[str, _Seen]] = {}

    def note(self, device: str) -> None:
        """Note that a device reported something; from any thread."""
        with self._lock:
            self._stale.add(device)

    def begin(self) -> set[str]:
        """Return the devices that reported since the last call."""
        with self._lock:
            stale, self._stale = self._stale, set()
        return stale

    def forget(self, kept: Sequence[str]) -> None:
        """Forget all rollouts but these."""
        self._seen = {rollout: seen for rollout, seen in self._seen.items() if rollout in kept}

    def measured(
        self, rollout: Rollout, participants: Sequence[Participant], stale: set[str]
    ) -> dict[str, tuple[Baseline, Tally]]:
        """Return what the old and the new version did, for each directed device.

        Args:
            rollout: The rollout.
            participants: Its devices.
            stale: Devices that have reported since the last call for this rollout.
        """
        seen = self._seen.setdefault(rollout.id, {})
        with self._database.read() as sql:
            for participant in participants:
                if not participant.is_directed:
                    continue
                device = participant.device
                known = seen.get(device)
                if known is None or known.directed_ms != participant.directed_ms:
                    before = _baseline(sql, rollout, participant)
                    known = seen[device] = _Seen(participant.directed_ms, before)
                    _add_new(sql, rollout, device, known)
                elif device in stale:
                    _add_new(sql, rollout, device, known)
        return {device: (known.before, known.after) for device, known in seen.items()}


def _baseline(sql: Sql, rollout: Rollout, participant: Participant) -> Baseline:
    version, until_ms = participant.before_version, participant.directed_ms
    frames = errors = 0
    infer_ms = Histogram()
    if version and version != rollout.version:
        for report in reports.between(
            sql,
            participant.device,
            rollout.model,
            version,
            since_ms=until_ms - BASELINE_MS,
            until_ms=until_ms,
            limit=BASELINE_REPORTS,
        ):
            frames, errors = frames + report.frames, errors + report.errors
            if report.infer_ms is not None:
                infer_ms.merge(Histogram.from_wire(report.infer_ms))
    return evidence.baseline(frames, errors, infer_ms)


def _add_new(sql: Sql, rollout: Rollout, device: str, known: _Seen) -> None:
    before_ms = known.before.p99_ms
    for report in reports.after(
        sql, device, rollout.model, rollout.version, since_ms=known.directed_ms, number=known.last
    ):
        known.last = report.number
        infer_ms = _histogram(report.infer_ms)
        period_ms = 1000 * report.period_s / report.frames if report.frames else 0.0
        limit_ms = rollout.spec.guards.slow_ms(before_ms, period_ms) if before_ms else 0.0
        known.after = evidence.add(known.after, report.frames, report.errors, infer_ms, limit_ms)


def _histogram(sketch: Sketch | None) -> Histogram | None:
    return None if sketch is None else Histogram.from_wire(sketch)
