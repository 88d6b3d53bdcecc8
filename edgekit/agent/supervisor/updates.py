"""The update of one model on this device: executes the update machine's steps with slots and workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from edgekit.agent.config import LimitsTable
from edgekit.agent.ipc import Progress, Purpose
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.hosted_model import HostedModel
from edgekit.agent.supervisor.metrics import Totals, stats_of
from edgekit.agent.supervisor.pipelines import Happening
from edgekit.core.errors import (
    BundleError,
    EdgekitError,
    ExpiredError,
    RollbackAttackError,
    StorageError,
    UsageError,
)
from edgekit.core.ports import Clock
from edgekit.core.spec import Guards, parse_manifest
from edgekit.core.wire import DesiredModel, ModelState, UpdateRecord, UpdateState
from edgekit.update.driver import Job, UpdateDriver
from edgekit.update.guards import TrialStats, judge, tighter
from edgekit.update.machine import Event, State
from edgekit.update.slots import Slot, SlotName, Slots

logger = logging.getLogger(__name__)

RETRY_S = (1.0, 5.0, 15.0, 60.0)
"""Waits between the tries of one step."""
POSTPONED_S = (15.0, 60.0, 300.0, 900.0, 1800.0)
"""Waits before a postponed update is taken up again."""
BASELINE_S = 15.0
"""The longest that a trial waits for frames of the active version to compare with."""
REVIVE_S = 5.0
"""The wait after the machine's state could not be written."""
SLOTS: tuple[SlotName, ...] = ("active", "previous")
MIN_SOAK_S = 1.0
"""The shortest trial; with none at all, a version would fail at once for having too few frames."""
TRIAL_S = 3600.0
"""After its soak and this, a trial with too few frames to be judged fails."""


class Host(Protocol):
    """What the supervisor does for an update; ``done`` is called on the reactor."""

    def fetch(self, model: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Run an updater job that fetches a model's desired bundle."""

    def measure(self, bundle: Path, done: Callable[[], None]) -> None:
        """Measure a bundle's variants on this machine."""

    def announce(self, record: UpdateRecord) -> None:
        """Put a transition into the outbox."""

    def alert(self, level: Literal["info", "warning", "error"], code: str, message: str, name: str) -> None:
        """Send an alert."""

    def collect_garbage(self) -> None:
        """Delete bundles that no slot names, as soon as no updater job runs."""

    def changed(self) -> None:
        """The state to report changed."""


class Trial(msgspec.Struct):
    """A version on trial: since when every worker runs it, and its totals since then."""

    baseline: TrialStats | None
    guards: Guards
    soak_s: float
    begun_s: float
    live_s: float | None = None
    observed: Totals = msgspec.field(default_factory=Totals)
    crashes: int = 0

    def measured(self) -> dict[str, float]:
        """Return the totals to report for a trial that its guards did not end."""
        stats = self.observed.trial_stats(self.crashes)
        return {name: float(getattr(stats, name)) for name in ("frames", "errors", "crashes")}


class ModelUpdates:
    """One managed model: its slots, its update machine, and where it is hosted.

    A version on trial is judged over all pipelines that run it, in whichever process. ``hosted`` returns the
    model as each worker has it. Implements the driver's ports; call everything on the reactor's thread.

    Raises:
        StorageError: The machine's state cannot be read.
    """

    def __init__(
        self,
        model: str,
        slots: Slots,
        folder: Path,
        reactor: Reactor,
        clock: Clock,
        host: Host,
        limits: LimitsTable,
        hosted: Callable[[], Sequence[HostedModel]],
    ) -> None:
        self.model, self._hosted = model, hosted
        self._slots, self._reactor, self._clock, self._host = slots, reactor, clock, host
        self._path = folder / f"{model}.json"
        self._trial_crashes = limits.trial_crashes
        self._live_limit_s = limits.start_s + limits.backoff_max_s
        self._trial: Trial | None = None
        self._target: tuple[Path | None, Purpose] | None = None
        self._is_resumed = self._is_reviving = False
        self._tries = (0, 0)
        self._postponed = 0
        self._next_try_s = 0.0
        self._driver = UpdateDriver(model, self._path, self, clock)

    def resume(self) -> None:
        """Run the active version, and resume an update that a restart of this process interrupted."""
        if self._driver.state in (State.IDLE, State.FETCHING, State.INSTALLING):
            self._run_active()
        self._is_resumed = True
        self._do(self._driver.resume)

    def place(self, hosted: HostedModel) -> None:
        """Have a worker that hosts the model from now on run what the others run."""
        if self._target is not None:
            hosted.run_on(*self._target)

    def _run_all(self, target: Path | None, purpose: Purpose) -> None:
        self._target = target, purpose
        for hosted in self._hosted():
            hosted.run_on(target, purpose)

    @property
    def is_idle(self) -> bool:
        """Whether no update is under way."""
        return self._driver.state is State.IDLE

    @property
    def rejected(self) -> dict[str, str]:
        """The reasons of versions that are not installed again, by ``model@version``."""
        return self._driver.rejected

    def reported(self) -> UpdateState:
        """Return the update's state to report."""
        return self._driver.reported()

    def model_state(self) -> ModelState:
        """Return the model's state to report."""
        try:
            slot = self._slots.load(self.model)
        except StorageError as error:
            return ModelState(why=error.message)
        running = next((hosted.running for hosted in self._hosted() if hosted.running is not None), None)
        return ModelState(
            active=slot.active.version if slot.active else "",
            previous=slot.previous.version if slot.previous else "",
            staged=slot.staged.version if slot.staged else "",
            variant=running.variant if running else "",
            backend=running.backend if running else "",
            accelerator=running.accelerator if running else "",
            why=running.why[:500] if running else "",
        )

    # -- requests of the fleet or an operator

    def want(self, desired: DesiredModel, *, is_new: bool) -> None:
        """Start the update to the desired version; a postponed one only after its backoff."""
        now_s = self._reactor.now_s()
        if is_new:
            self._postponed, self._next_try_s = 0, 0.0
        if not self._is_resumed or self._is_reviving or now_s < self._next_try_s:
            return
        self._do(lambda: self._want(desired, now_s))

    def _want(self, desired: DesiredModel, now_s: float) -> None:
        if self._driver.want(desired, self._runs_version(self._slots.load(self.model))):
            self._next_try_s = now_s + POSTPONED_S[min(self._postponed, len(POSTPONED_S) - 1)]
            self._postponed += 1

    def refuse(self, desired: DesiredModel, reason: str) -> None:
        """Reject a version that the fleet wants before anything of it is fetched."""

        def step() -> None:
            self._want(desired, self._reactor.now_s())
            if self._driver.state is State.FETCHING:
                self._driver.handle(Event.REJECTED, reason)

        self._do(step)

    def revert(self, reason: str) -> None:
        """Return to the previous version, and reject the current one.

        Raises:
            UsageError: There is no previous version, or an update is in progress.
            StorageError: The state cannot be written.
        """
        slot = self._slots.load(self.model)
        previous = self._before(slot)
        if not previous or slot.active is None:
            raise UsageError(f"{self.model} has no previous version")
        is_ready = self._is_resumed and not self._is_reviving
        if not is_ready or not self._driver.revert(slot.active.version, previous, reason, reject=True):
            raise UsageError(
                f"an update of {self.model} is under way ({self._driver.state.value})",
                hint="ask again when it has ended",
            )

    def _runs_version(self, slot: Slot) -> str:
        """Return the version that an update would replace, or ""."""
        return slot.active.version if slot.active else ""

    def _before(self, slot: Slot) -> str:
        """Return the version that a rollback leads to, or ""."""
        return slot.previous.version if slot.previous else ""

    def retry(self, version: str) -> None:
        """Allow a rejected version to be installed again; all of them if ``version`` is empty.

        Raises:
            StorageError: The state cannot be written.
        """
        for key in list(self._driver.rejected):
            if version in ("", key.partition("@")[2]):
                self._driver.retry(key.partition("@")[2])

    # -- ports of the driver

    def fetch(self, job: Job) -> None:
        """Fetch the bundle, by the updater."""
        self._reactor.after(self._wait_s(job), lambda: self._fetch_now(job))

    def _fetch_now(self, job: Job) -> None:
        if self._is_at(State.FETCHING, job):
            self._host.fetch(self.model, lambda error: self._finish(Event.FETCHED, job, error))

    def install(self, job: Job) -> None:
        """Stage the bundle and measure it."""
        self._reactor.after(self._wait_s(job), lambda: self._install_now(job))

    def _install_now(self, job: Job) -> None:
        if not self._is_at(State.INSTALLING, job) or job.desired is None:
            return
        try:
            staged = self._slots.stage(self.model, job.version, job.desired.sha256)
        except EdgekitError as error:
            self._finish(Event.INSTALLED, job, error)
            return
        self._host.measure(staged, lambda: self._finish(Event.INSTALLED, job, None))

    def _wait_s(self, job: Job) -> float:
        serial, tries = self._tries
        return RETRY_S[min(tries - 1, len(RETRY_S) - 1)] if serial == job.serial and tries else 0.0

    def _finish(self, event: Event, job: Job, error: EdgekitError | None) -> None:
        if error is None:
            self._tries = (job.serial, 0)
            self._handle(event, serial=job.serial)
            return
        logger.warning("update of %s: %s", self.model, error)
        self._tries = (job.serial, self._tries[1] + 1 if self._tries[0] == job.serial else 1)
        reason = f"{error.code}: {error.one_line()}"[:1000]
        # Old or expired metadata is the fleet's fault and says nothing about the version.
        may_pass = error.retryable or isinstance(error, (ExpiredError, RollbackAttackError))
        self._handle(Event.RETRY if may_pass else Event.REJECTED, reason, serial=job.serial)

    def start_trial(self, job: Job) -> None:
        """Swap the model to the staged bundle wherever it is hosted, and watch it."""
        self._start_trial_when_ready(job, self._reactor.now_s() + BASELINE_S)

    def _start_trial_when_ready(self, job: Job, deadline_s: float) -> None:
        """Start the trial once the active version has enough frames for a baseline, or at the deadline."""
        if not self._is_at(State.TRIAL, job):
            return
        try:
            staged = self._slots.folder(self.model, "staged")
            if staged is None:
                raise BundleError("the staged bundle is gone")
            own = parse_manifest((staged / "bundle.json").read_bytes()).guards
        except (OSError, EdgekitError) as error:
            self._handle(Event.FAILED, f"the staged bundle cannot be read: {error}", serial=job.serial)
            return
        guards = tighter(own, job.desired.guards if job.desired else None)
        recent = [second for hosted in self._hosted() for second in hosted.recent]
        frames = sum(second.frames for second in recent)
        lacks_frames = frames < guards.min_frames and any(hosted.makes_frames for hosted in self._hosted())
        is_unready = lacks_frames or any(hosted.is_on_its_way for hosted in self._hosted())
        if is_unready and self._reactor.now_s() < deadline_s:
            self._reactor.after(0.1, lambda: self._start_trial_when_ready(job, deadline_s))
            return
        soak_s = max(float(job.desired.soak_s) if job.desired else 0.0, MIN_SOAK_S)
        self._trial = Trial(stats_of(recent), guards, soak_s, self._reactor.now_s())
        self._run_all(staged, "trial")

    def commit(self, job: Job) -> None:
        """Make the staged bundle active, and free the old one."""
        self._slots.commit(self.model, job.version)
        self._trial = None
        self._postponed, self._next_try_s = 0, 0.0
        for hosted in self._hosted():
            hosted.keep()
        self._run_active()
        self._host.collect_garbage()

    def roll_back(self, job: Job) -> None:
        """Remove the version from the slots first, then have every worker leave it."""
        self._trial = None
        error: StorageError | None = None
        try:
            self._slots.abandon(self.model, job.version)
        except StorageError as caught:
            error = caught
        self._run_active("rollback")
        if error is None:
            self._reactor.after(0.0, lambda: self._check_gone_back(job))
        else:
            logger.error("update of %s: cannot go back: %s", self.model, error)
            self._reactor.after(RETRY_S[1], lambda: self._finish(Event.RETRY, job, error))

    def _check_gone_back(self, job: Job) -> None:
        """Report ROLLED_BACK once every worker runs its target, or has failed to."""
        if not self._is_at(State.ROLLING_BACK, job):
            return
        if any(hosted.is_on_its_way for hosted in self._hosted()):
            self._reactor.after(0.05, lambda: self._check_gone_back(job))
            return
        self._handle(Event.ROLLED_BACK, serial=job.serial)
        self._host.collect_garbage()

    def is_committed(self, job: Job) -> bool:
        """Return whether the job's version is the active one."""
        active = self._slots.load(self.model).active
        return active is not None and active.version == job.version

    def outlives_restart(self, _: Job) -> bool:
        """Return False: a model's trial is over when this process ends."""
        return False

    def announce(self, record: UpdateRecord) -> None:
        """Report a transition to the fleet."""
        self._host.announce(record)
        self._host.changed()

    # -- events of the hosted models

    def happened(self, what: Happening, reason: str) -> bool:
        """Act on an event of a hosted model; return whether another version takes over from it."""
        trial = self._trial
        if what == "gave_up" and trial is None:
            return self._fall_back(reason)
        if what == "settled":
            self._settled()
        elif what == "interrupted":
            if trial is not None:  # its soak begins again
                trial.live_s, trial.begun_s = None, self._reactor.now_s()
        elif what == "crashed":
            self._crashed(reason)
        elif trial is not None:  # the new version may be the cause
            self._fail(reason)
        elif what == "swap_failed":
            for hosted in self._hosted():
                if not hosted.is_settled:
                    hosted.reopen()
        return False

    def _settled(self) -> None:
        """Start the soak time once every worker runs the version on trial."""
        trial = self._trial
        is_everywhere = all(hosted.is_settled for hosted in self._hosted() if hosted.is_wanted)
        if trial is not None and trial.live_s is None and is_everywhere:
            trial.live_s = self._reactor.now_s()

    def _crashed(self, reason: str) -> None:
        """Count a crash against a version on trial."""
        trial = self._trial
        if trial is None:
            return
        trial.live_s = None
        trial.crashes += 1
        if trial.crashes >= self._trial_crashes:
            self._fail(f"the worker crashed {trial.crashes} times: {reason}")

    def _fall_back(self, reason: str) -> bool:
        try:
            self.revert(f"crashed too often: {reason}")
        except EdgekitError as error:
            logger.warning("no other version takes over: %s", error)
            return False
        return True

    def progressed(self, progress: Progress) -> None:
        """Add a progress message of the version on trial."""
        trial, job = self._trial, self._driver.job
        if trial is not None and job is not None and progress.running.version == job.version:
            trial.observed.add(progress)

    def tick(self) -> None:
        """Judge the trial; call it each second."""
        trial = self._trial
        if trial is None or self._driver.state is not State.TRIAL:
            return
        now_s = self._reactor.now_s()
        if trial.live_s is None:
            if now_s - trial.begun_s > self._live_limit_s:
                self._fail(f"it was not running within {self._live_limit_s:.0f} s")
            return
        elapsed_s = now_s - trial.live_s
        # a crash may have another cause, so crashes are judged in crashed(), against a limit
        verdict = judge(trial.observed.trial_stats(), trial.baseline, trial.guards, elapsed_s, trial.soak_s)
        if verdict.action == "commit":
            self._handle(Event.COMMITTED, verdict.reason, verdict.measured)
        elif verdict.action == "roll_back":
            self._handle(Event.FAILED, verdict.reason, verdict.measured)
        elif elapsed_s > trial.soak_s + TRIAL_S:
            self._handle(Event.FAILED, "too few frames to judge the trial", verdict.measured)

    # -- the machine

    def _fail(self, reason: str) -> None:
        if self._driver.state is State.TRIAL:
            measured = self._trial.measured() if self._trial is not None else {}
            self._handle(Event.FAILED, reason[:1000], measured)

    def _handle(
        self,
        event: Event,
        reason: str = "",
        measured: dict[str, float] | None = None,
        serial: int | None = None,
    ) -> None:
        self._do(lambda: self._driver.handle(event, reason, measured, serial=serial))

    def _do(self, step: Callable[[], object]) -> None:
        """Take a step of the machine; if its state cannot be written, reload it from disk later."""
        try:
            step()
        except StorageError as error:
            logger.error("update of %s: %s", self.model, error)  # noqa: TRY400 - the message says it all
            self._host.alert("error", error.code, f"update of {self.model}: {error.message}", "")
            if not self._is_reviving:
                self._is_reviving = True
                self._reactor.after(REVIVE_S, self._revive)

    def _revive(self) -> None:
        """Reload the machine from disk, as after a restart of this process."""
        self._is_reviving = False
        self._trial = None

        def begin_again() -> None:
            self._driver = UpdateDriver(self.model, self._path, self, self._clock)
            self._driver.resume()
            if self._driver.state is State.IDLE:
                self._run_active()

        self._do(begin_again)

    def _is_at(self, state: State, job: Job) -> bool:
        current = self._driver.job
        return self._driver.state is state and current is not None and current.serial == job.serial

    def _run_active(self, purpose: Purpose = "switch") -> None:
        """Run the active version everywhere, or the previous one if that cannot be read."""
        folder: Path | None = None
        for slot in SLOTS:
            try:
                folder = self._slots.folder(self.model, slot)
            except EdgekitError as error:
                logger.error("%s: the %s version cannot be used: %s", self.model, slot, error)  # noqa: TRY400
                self._host.alert("error", error.code, f"{self.model}, {slot}: {error.message}", "")
                continue
            break
        self._run_all(folder, purpose)
