"""How one device stands in a rollout, from what its update machine said. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.core import wire
from edgekit_fleet.rollout.decide import Outcome

DOUBT_MS = 30_000
"""A trial that a power cut ended is tried again; one that is not tried again by then has failed."""
MAX_ROLLBACKS = 2


@dataclass(frozen=True)
class Standing:
    """Where a device is.

    Args:
        step: The last event of its update machine.
        rolled_back: How often its trial ended in a rollback.
        rolled_back_ms: When it last did, Unix time; 0 once it tries again.
    """

    outcome: Outcome = Outcome.WAITING
    step: str = ""
    reason: str = ""
    settled_ms: int = 0
    rolled_back: int = 0
    rolled_back_ms: int = 0

    def settled(self, outcome: Outcome, reason: str, now_ms: int) -> Standing:
        """Return it with an outcome."""
        return replace(self, outcome=outcome, reason=reason, settled_ms=now_ms)


def after_record(standing: Standing, record: wire.UpdateRecord, now_ms: int) -> Standing:
    """Return how a device stands after one transition of its update machine.

    A rollback is final only when the device says so (``after_report``), or when it happens again: a
    trial that was cut off by a power failure is rolled back, and begun anew.
    """
    found = replace(standing, step=record.event, reason=record.reason or standing.reason)
    if record.event == "COMMITTED":
        return found.settled(Outcome.COMMITTED, "", now_ms)
    if record.event == "REJECTED":
        return found.settled(Outcome.FAILED, record.reason or "it refused the bundle", now_ms)
    if record.event == "ROLLED_BACK":
        if standing.outcome is Outcome.COMMITTED:
            reason = f"went back after it had committed: {record.reason or 'no reason given'}"
            return found.settled(Outcome.FAILED, reason, now_ms)
        found = replace(found, rolled_back=standing.rolled_back + 1, rolled_back_ms=now_ms)
        if found.rolled_back >= MAX_ROLLBACKS and standing.outcome is Outcome.WAITING:
            return found.settled(Outcome.FAILED, found.reason or "rolled back", now_ms)
        return found
    return replace(found, rolled_back_ms=0)


def after_report(standing: Standing, *, runs_it: bool, rejects_it: bool, now_ms: int) -> Standing:
    """Return how a device that was directed stands by what it reports it runs.

    Args:
        standing: By its update records, which may be under way still.
        runs_it: The rollout's version is its active one.
        rejects_it: It will not try this version any more.
        now_ms: Unix time.
    """
    if standing.outcome is not Outcome.WAITING:
        return standing
    if rejects_it:
        return standing.settled(
            Outcome.FAILED, standing.reason or "it had rejected this version before", now_ms
        )
    if runs_it:
        return standing.settled(Outcome.COMMITTED, "", now_ms)
    if standing.rolled_back_ms and now_ms - standing.rolled_back_ms > DOUBT_MS:
        return standing.settled(Outcome.FAILED, standing.reason or "rolled back", now_ms)
    return standing
