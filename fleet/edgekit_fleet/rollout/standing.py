"""How one device stands in a rollout, by the records of its update machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from edgekit.core import wire


class Outcome(Enum):
    """What became of a device.

    WAITING: no result yet; COMMITTED: it runs the version; FAILED: it does not take it; RESTORED: the
    rollout ended before there was a result, and the device was given back what it ran.
    """

    WAITING = "waiting"
    COMMITTED = "committed"
    FAILED = "failed"
    RESTORED = "restored"


@dataclass(frozen=True)
class Standing:
    """The state of one device in a rollout.

    Args:
        outcome: What became of it.
        step: The last event of its update machine.
        reason: Why it failed.
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

    A rollback is final. A trial that a power failure cut short is no rollback: the device sends
    POSTPONED and begins again.
    """
    moved = replace(standing, step=record.event, reason=record.reason or standing.reason)
    if record.event == "COMMITTED":
        return moved.settled(Outcome.COMMITTED, "", now_ms)
    if record.event == "REJECTED":
        return moved.settled(Outcome.FAILED, record.reason or "it refused the bundle", now_ms)
    if record.event == "ROLLED_BACK":
        reason = moved.reason or "rolled back"
        late = "went back after it had committed: " if standing.outcome is Outcome.COMMITTED else ""
        return moved.settled(Outcome.FAILED, f"{late}{reason}", now_ms)
    return moved


def after_report(standing: Standing, *, runs_it: bool, rejects_it: bool, now_ms: int) -> Standing:
    """Return how a directed device stands by what it reports to run.

    Args:
        standing: By its update records, some of which may still be on their way.
        runs_it: The rollout's version is its active one.
        rejects_it: It will not try this version again.
        now_ms: Unix time.
    """
    if standing.outcome is not Outcome.WAITING:
        return standing
    if rejects_it:
        return standing.settled(
            Outcome.FAILED, standing.reason or "it had rejected this version before", now_ms
        )
    return standing.settled(Outcome.COMMITTED, "", now_ms) if runs_it else standing
