"""Drives the update of one model: saves each state durably, then acts through ports.

One thread calls it. A port starts its work and returns; when the work is done, the owner calls ``handle``
with the event, possibly from within the port.
"""

import logging
from collections import deque
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from edgekit.base.disk import LocalDisk
from edgekit.base.files import read_file, replace_file
from edgekit.core.errors import StorageError
from edgekit.core.ports import Clock
from edgekit.core.wire import DesiredModel, UpdateRecord, UpdateState
from edgekit.update.machine import Event, State, is_possible, step

logger = logging.getLogger(__name__)

MAX_TRIES = 3
MAX_TRIALS = 2
MAX_REMEMBERED = 50


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One update: the desired version, and the one before it.

    ``trial``: number of trials of this version, this one included. ``ending``: after a rollback the version
    is "reject"ed for good, "forget"ten, or "postpone"d and tried again.
    """

    model: str
    version: str
    serial: int
    desired: DesiredModel | None = None
    previous: str = ""
    trial: int = 0
    reason: str = ""
    ending: Literal["reject", "forget", "postpone"] = "reject"

    @property
    def rollout(self) -> str:
        """The rollout it belongs to, or ""."""
        return self.desired.rollout if self.desired else ""


class Ports(Protocol):
    """The actions of an update. Each is safe to call twice with the same job."""

    def fetch(self, job: Job) -> None:
        """Start to fetch; ends in FETCHED, RETRY or REJECTED."""

    def install(self, job: Job) -> None:
        """Stage the bundle; ends in INSTALLED, RETRY or REJECTED."""

    def start_trial(self, job: Job) -> None:
        """Run golden samples, then live frames; ends in COMMITTED or FAILED."""

    def commit(self, job: Job) -> None:
        """Make the staged bundle active, durably, before returning."""

    def roll_back(self, job: Job) -> None:
        """End any trial and restore the version before; ends in ROLLED_BACK or RETRY."""

    def is_committed(self, job: Job) -> bool:
        """Return whether the job's version is in the active slot."""

    def outlives_restart(self, job: Job) -> bool:
        """Return whether a trial continues in the process that follows, as a release of the agent's does."""

    def announce(self, record: UpdateRecord) -> None:
        """Put one transition into the outbox; after a crash maybe for the second time."""


class _Saved(msgspec.Struct, kw_only=True):
    """``update/<model>.json``."""

    state: State = State.IDLE
    job: Job | None = None
    tries: int = 0
    rejected: dict[str, str] = {}
    trials: dict[str, int] = {}
    next: DesiredModel | None = None
    last: UpdateRecord | None = None
    announced: bool = True


class UpdateDriver:
    """The update of one model, from ``update/<model>.json``.

    A step is postponed after ``MAX_TRIES`` tries in a row; a version is rejected after restarts interrupted
    ``MAX_TRIALS`` of its trials.

    Raises:
        StorageError: The state cannot be read.
    """

    def __init__(
        self, model: str, path: Path, ports: Ports, clock: Clock, disk: LocalDisk | None = None
    ) -> None:
        self.model = model
        self._path, self._ports, self._clock = path, ports, clock
        self._disk = disk or LocalDisk()
        self._queue: deque[tuple[Event, str, dict[str, float]]] = deque()
        self._is_draining = False
        self._saved = self._load()

    @property
    def state(self) -> State:
        """Where the update is."""
        return self._saved.state

    @property
    def job(self) -> Job | None:
        """The update under way, or the last one."""
        return self._saved.job

    @property
    def rejected(self) -> dict[str, str]:
        """The reasons, by ``model@version``, of versions that are not tried again."""
        return {f"{self.model}@{version}": reason for version, reason in self._saved.rejected.items()}

    def resume(self) -> None:
        """Continue where the process died. Call once, before anything else."""
        saved = self._saved
        if saved.last is not None and not saved.announced:
            self._announce()
        if saved.state is State.TRIAL and saved.job is not None:
            if self._ports.is_committed(saved.job):  # it died after the switch, before saving
                self.handle(Event.COMMITTED, "committed before a restart")
                return
            if self._ports.outlives_restart(saved.job):
                self._act(State.TRIAL)
                return
            again = saved.job.trial < MAX_TRIALS
            saved.job = msgspec.structs.replace(saved.job, ending="postpone" if again else "reject")
        self.handle(Event.RESTARTED, "restarted during the trial" if saved.state is State.TRIAL else "")

    def want(self, desired: DesiredModel, active: str) -> bool:
        """Ask for a version; returns whether an update starts or is queued.

        Nothing starts where it is active, under way, or rejected. Another update is cancelled first, a trial
        by rolling it back.
        """
        saved = self._saved
        if saved.state is not State.IDLE and saved.job is not None:
            if saved.job.desired == desired:
                self._set_next(None)
                return False
            if desired.version in saved.rejected and desired.version != active:
                return False
            self._set_next(desired)
            if is_possible(saved.state, Event.CANCELLED):
                saved.job = msgspec.structs.replace(saved.job, ending="postpone")
                self.handle(Event.CANCELLED, f"version {desired.version} is wanted instead")
            return True
        if desired.version == active or desired.version in saved.rejected:
            return False
        self._begin(Event.WANTED, desired.version, active, desired=desired)
        return True

    def _set_next(self, desired: DesiredModel | None) -> None:
        if self._saved.next != desired:
            self._saved.next = desired
            self._save()

    def revert(self, active: str, previous: str, reason: str, *, reject: bool) -> bool:
        """Go back from the active version to the one before, and with ``reject`` never take it again.

        Returns False where an update is under way or there is no version before.
        """
        if self._saved.state is not State.IDLE or not previous:
            return False
        self._begin(Event.REVERTED, active, previous, reason=reason, ending="reject" if reject else "forget")
        return True

    def _begin(
        self,
        event: Event,
        version: str,
        previous: str,
        *,
        desired: DesiredModel | None = None,
        reason: str = "",
        ending: Literal["reject", "forget"] = "reject",
    ) -> None:
        serial = self._saved.job.serial + 1 if self._saved.job else 1
        self._saved.job = Job(
            model=self.model,
            version=version,
            serial=serial,
            desired=desired,
            previous=previous,
            trial=self._saved.trials.get(version, 0),
            reason=reason,
            ending=ending,
        )
        self._saved.next = None
        self.handle(event, reason)

    def retry(self, version: str) -> None:
        """Forget that a version was rejected, and its trials."""
        self._saved.rejected.pop(version, None)
        self._saved.trials.pop(version, None)
        self._save()

    def handle(
        self,
        event: Event,
        reason: str = "",
        measured: dict[str, float] | None = None,
        *,
        serial: int | None = None,
    ) -> None:
        """Handle an event: save the new state, announce the transition, act.

        RETRY becomes POSTPONED when the tries are used up. ``measured`` is from the guards; an event whose
        ``serial`` is of a finished job is ignored.
        """
        if serial is not None and (self.job is None or self.job.serial != serial):
            logger.info("update of %s: %s of a finished job is ignored", self.model, event.name)
            return
        self._queue.append((event, reason, measured or {}))
        if self._is_draining:
            return
        self._is_draining = True
        try:
            while self._queue:
                self._take(*self._queue.popleft())
        finally:
            self._is_draining = False
            self._queue.clear()

    def _take(self, event: Event, reason: str, measured: dict[str, float]) -> None:
        saved, job = self._saved, self._saved.job
        event = self._effective(event)
        before, after = saved.state, step(saved.state, event)
        if job is None or before is after is State.IDLE:
            return
        if event is Event.COMMITTED:  # the slot decides, so it is switched first
            self._ports.commit(job)
        undo = msgspec.json.encode(saved)
        tries = saved.tries + 1 if event is Event.RETRY else 0
        saved.state, saved.tries = after, tries
        self._remember(job, event, reason, measured)
        try:
            self._save()
        except StorageError:
            self._saved = msgspec.json.decode(undo, type=_Saved)  # as on disk
            raise
        if not saved.announced:
            self._announce()
        self._act(after)

    def _effective(self, event: Event) -> Event:
        if event is Event.RETRY and self._saved.tries + 1 >= MAX_TRIES:
            return Event.POSTPONED
        if event is Event.ROLLED_BACK and self.job is not None and self.job.ending == "postpone":
            return Event.POSTPONED
        return event

    def _remember(self, job: Job, event: Event, reason: str, measured: dict[str, float]) -> None:
        saved = self._saved
        if event in (Event.ROLLED_BACK, Event.POSTPONED):
            reason = reason or job.reason
            measured = measured or (saved.last.measured if saved.last else {})
        trial = job.trial
        if saved.state is State.TRIAL:
            trial = saved.trials.get(job.version, 0) + 1
            saved.trials[job.version] = trial
        saved.job = msgspec.structs.replace(job, reason=reason or job.reason, trial=trial)
        if event is Event.REJECTED or (event is Event.ROLLED_BACK and job.ending == "reject"):
            saved.rejected[job.version] = reason or job.reason
        if event in (Event.COMMITTED, Event.REJECTED):
            saved.trials.pop(job.version, None)
        _forget_oldest(saved.rejected)
        _forget_oldest(saved.trials)
        if event not in (Event.RETRY, Event.RESTARTED) or saved.state is State.ROLLING_BACK:
            saved.last = self._record(job, event, reason, measured)
            saved.announced = False

    def _record(self, job: Job, event: Event, reason: str, measured: dict[str, float]) -> UpdateRecord:
        return UpdateRecord(
            mono_ns=self._clock.monotonic_ns(),
            unix_ms=self._clock.unix_ms(),
            model=self.model,
            version=job.version,
            state=self._saved.state.value,
            event=event.value,
            reason=reason[:1000],
            rollout=job.rollout,
            previous=job.previous,
            measured=measured,
        )

    def _announce(self) -> None:
        if self._saved.last is not None:
            self._ports.announce(self._saved.last)
        self._saved.announced = True
        self._save()

    def _act(self, state: State) -> None:
        job = self._saved.job
        if state is State.IDLE or job is None:
            if (following := self._saved.next) is not None:
                self._set_next(None)
                self.want(following, self._active_after(job))
            return
        acts = {
            State.FETCHING: self._ports.fetch,
            State.INSTALLING: self._ports.install,
            State.TRIAL: self._ports.start_trial,
            State.ROLLING_BACK: self._ports.roll_back,
        }
        acts[state](job)

    def _active_after(self, job: Job | None) -> str:
        if job is None:
            return ""
        is_committed = self._saved.last is not None and self._saved.last.event == Event.COMMITTED.value
        return job.version if is_committed else job.previous

    def reported(self) -> UpdateState:
        """Return the state for ``up/reported``."""
        job = self._saved.job
        if job is None:
            return UpdateState(self.state.value, self.model)
        return UpdateState(self.state.value, self.model, job.version, job.reason, job.rollout, job.trial)

    def _load(self) -> _Saved:
        if (data := read_file(self._path, self._disk)) is None:
            return _Saved()
        try:
            return msgspec.json.decode(data, type=_Saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            # Only the memory of an update is lost; the slots say what runs.
            logger.error("%s is damaged, the update of %s restarts: %s", self._path, self.model, cause)  # noqa: TRY400
            return _Saved()

    def _save(self) -> None:
        replace_file(self._disk, self._path, msgspec.json.encode(self._saved))


def _forget_oldest(table: dict[str, Any]) -> None:
    while len(table) > MAX_REMEMBERED:
        del table[next(iter(table))]
