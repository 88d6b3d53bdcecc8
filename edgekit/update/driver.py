"""Drives the update of one model: saves each state durably, then acts through ports.

Not thread-safe by itself: one thread calls it. A port starts its work and returns; when the work is
done, the owner calls ``handle`` with the event (it may do so from within the port).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from edgekit.core.ports import Clock
from edgekit.core.wire import DesiredModel, UpdateRecord, UpdateState
from edgekit.update.machine import Event, State


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One update: what is wanted, and the version before it."""

    model: str
    version: str
    desired: DesiredModel | None = None
    previous: str = ""
    attempt: int = 0
    reason: str = ""
    keeps_trying: bool = False
    """Whether the end of this job's rollback leaves the version to be tried again."""


class Ports(Protocol):
    """What the driver has done for it. Each is safe to call twice with the same job."""

    def fetch(self, job: Job) -> None:
        """Start to fetch; ends in FETCHED, RETRY or REJECTED."""

    def install(self, job: Job) -> None:
        """Stage the bundle; ends in INSTALLED, RETRY or REJECTED."""

    def start_trial(self, job: Job) -> None:
        """Run golden samples, then live frames; ends in COMMITTED or FAILED."""

    def commit(self, job: Job) -> None:
        """Make the staged bundle active, durably, before returning."""

    def roll_back(self, job: Job) -> None:
        """Go back to the version before; ends in ROLLED_BACK or RETRY."""

    def is_committed(self, job: Job) -> bool:
        """Say whether the job's version is in the active slot."""

    def announce(self, record: UpdateRecord) -> None:
        """Put one transition into the outbox."""


class UpdateDriver:
    """The update of one model, from ``update/<model>.json``.

    Args:
        model: The model's name.
        path: Where the state is kept.
        ports: What acts.
        clock: For the times in records.
        max_attempts: Tries of one step in a row, and trials of one version over all.
    """

    def __init__(self, model: str, path: Path, ports: Ports, clock: Clock, max_attempts: int = 3) -> None:
        raise NotImplementedError

    @property
    def state(self) -> State:
        """Where the update stands."""
        raise NotImplementedError

    @property
    def job(self) -> Job | None:
        """The update under way, or the last one."""
        raise NotImplementedError

    @property
    def rejected(self) -> dict[str, str]:
        """Versions that are not tried again, as ``model@version``, and why."""
        raise NotImplementedError

    def resume(self) -> None:
        """Feed RESTARTED: go on where the process died. Call once, before anything else."""
        raise NotImplementedError

    def want(self, desired: DesiredModel, active: str) -> bool:
        """Ask for a version; returns whether anything begins.

        Nothing begins where it is active, under way, or rejected; another update under way is
        cancelled first, a trial by rolling it back, and this one begins when that is done.
        """
        raise NotImplementedError

    def revert(self, active: str, previous: str, reason: str, *, reject: bool) -> None:
        """Go back from the active version to the one before; ``reject``: and do not take it again."""
        raise NotImplementedError

    def retry(self, version: str) -> None:
        """Forget that a version was rejected."""
        raise NotImplementedError

    def handle(self, event: Event, reason: str = "", measured: dict[str, float] | None = None) -> None:
        """Take an event: save the new state, announce the transition, act.

        RETRY becomes POSTPONED when the attempts are used up.
        """
        raise NotImplementedError

    def reported(self) -> UpdateState:
        """Return what ``up/reported`` says of it."""
        raise NotImplementedError
