"""How one device stands in a rollout, from what its update machine said. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.core import wire
from edgekit_fleet.rollout.decide import Outcome


@dataclass(frozen=True)
class Standing:
    """Where a device is.

    Args:
        step: The last event of its update machine.
        settled_ms: When the outcome was known, Unix time; 0 before.
    """

    outcome: Outcome = Outcome.WAITING
    step: str = ""
    reason: str = ""
    settled_ms: int = 0

    def settled(self, outcome: Outcome, reason: str, now_ms: int) -> Standing:
        """Return it with an outcome."""
        return replace(self, outcome=outcome, reason=reason, settled_ms=now_ms)


def after_record(standing: Standing, record: wire.UpdateRecord, now_ms: int) -> Standing:
    """Return how a device stands after one transition of its update machine.

    A rollback is final: a trial that a power failure cut off is told as POSTPONED, and begun anew.
    """
    found = replace(standing, step=record.event, reason=record.reason or standing.reason)
    if record.event == "COMMITTED":
        return found.settled(Outcome.COMMITTED, "", now_ms)
    if record.event == "REJECTED":
        return found.settled(Outcome.FAILED, record.reason or "it refused the bundle", now_ms)
    if record.event == "ROLLED_BACK":
        reason = found.reason or "rolled back"
        late = "went back after it had committed: " if standing.outcome is Outcome.COMMITTED else ""
        return found.settled(Outcome.FAILED, f"{late}{reason}", now_ms)
    return found


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
    return standing.settled(Outcome.COMMITTED, "", now_ms) if runs_it else standing
