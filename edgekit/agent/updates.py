"""The update of one model on this device: what the update machine has done, by slots and workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgekit.agent.bundle import open_bundle
from edgekit.agent.config import LimitsTable
from edgekit.agent.ipc import Progress
from edgekit.agent.metrics import StatsSum, stats_of
from edgekit.agent.pipelines import Pipeline
from edgekit.agent.reactor import Reactor
from edgekit.core.errors import EdgekitError, StorageError
from edgekit.core.ports import Clock
from edgekit.core.spec import Guards
from edgekit.core.wire import DesiredModel, ModelState, UpdateRecord
from edgekit.update.driver import Job, UpdateDriver
from edgekit.update.guards import TrialStats, judge, tighter
from edgekit.update.machine import Event, State
from edgekit.update.slots import Slots

logger = logging.getLogger(__name__)

RETRY_S = (1.0, 5.0, 15.0, 60.0)
"""Waits between the tries of one step."""
POSTPONED_S = (15.0, 60.0, 300.0, 900.0, 1800.0)
"""Waits before a postponed update is taken up again."""
TRIAL_S = 3600.0
"""A trial that sees too few frames to be judged ends after its soak and this."""


class Office(Protocol):
    """What the supervisor does for an update."""

    def fetch(self, model: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Have the updater bring a model's desired bundle; ``done`` is called on the reactor."""

    def announce(self, record: UpdateRecord) -> None:
        """Put a transition into the outbox."""

    def changed(self) -> None:
        """What is reported changed."""


class Trial:
    """A new version under watch: whether every worker runs it, and what it did since."""

    def __init__(self, baseline: TrialStats | None, guards: Guards, soak_s: float, now_s: float) -> None:
        self.baseline, self.guards, self.soak_s = baseline, guards, soak_s
        self.begun_s = now_s
        self.live_s: float | None = None
        self.observed = StatsSum()


class ModelUpdates:
    """One managed model: its slots, its update machine, the pipelines that run it.

    Implements the driver's ports; everything happens on the reactor's thread.

    Args:
        model: The model's name.
        slots: The device's slots.
        folder: Where the machine's state is kept.
        reactor: The supervisor's thread.
        clock: Times in records.
        office: The supervisor.
        limits: When a trial has seen too many crashes, or takes too long to come up.
    """

    def __init__(
        self,
        model: str,
        slots: Slots,
        folder: Path,
        reactor: Reactor,
        clock: Clock,
        office: Office,
        limits: LimitsTable,
    ) -> None:
        self.model = model
        self.pipelines: list[Pipeline] = []
        self._slots, self._reactor, self._office = slots, reactor, office
        self._trial_crashes = limits.trial_crashes
        self._live_limit_s = limits.start_s + limits.backoff_max_s
        self._trial: Trial | None = None
        self._is_going_back = False
        self._postponed = 0
        self._next_try_s = 0.0
        self._driver = UpdateDriver(model, folder / f"{model}.json", self, clock)

    @property
    def driver(self) -> UpdateDriver:
        """The update machine's driver."""
        return self._driver

    def resume(self) -> None:
        """Go on where the last life of this process ended, then run the active version."""
        self._driver.resume()
        if self._trial is None and not self._is_going_back:
            self._run_active()

    def active_folder(self) -> Path | None:
        """Return the folder of the active version, or None where there is none yet."""
        return self._slots.folder(self.model)

    def model_state(self) -> ModelState:
        """Return what is reported of the model."""
        slot = self._slots.load(self.model)
        running = next((p.running for p in self.pipelines if p.running is not None), None)
        return ModelState(
            active=slot.active.version if slot.active else "",
            previous=slot.previous.version if slot.previous else "",
            staged=slot.staged.version if slot.staged else "",
            variant=running.variant if running else "",
            backend=running.backend if running else "",
            accelerator=running.accelerator if running else "",
            why=running.why[:500] if running else "",
        )

    # -- what the fleet or a person wants

    def want(self, desired: DesiredModel, *, is_new: bool) -> None:
        """Take up what the fleet wants; a postponed one is tried again when its time has come."""
        now_s = self._reactor.now_s()
        if is_new:
            self._postponed, self._next_try_s = 0, 0.0
        if now_s < self._next_try_s:
            return
        slot = self._slots.load(self.model)
        active = slot.active.version if slot.active else ""
        if self._driver.want(desired, active):
            self._postponed += 1
            wait_s = POSTPONED_S[min(self._postponed, len(POSTPONED_S)) - 1]
            self._next_try_s = now_s + wait_s

    def revert(self, reason: str) -> str:
        """Go back to the previous version; return what was said no to, empty where it begins."""
        slot = self._slots.load(self.model)
        if slot.previous is None or slot.active is None:
            return f"{self.model} has no previous version"
        self._driver.revert(slot.active.version, slot.previous.version, reason, reject=True)
        return ""

    # -- ports of the driver

    def fetch(self, job: Job) -> None:
        """Bring the bundle, by the updater."""
        wait_s = 0.0 if job.attempt <= 1 else RETRY_S[min(job.attempt - 2, len(RETRY_S) - 1)]
        self._reactor.after(wait_s, lambda: self._fetch_now(job.version))

    def _fetch_now(self, version: str) -> None:
        if self._is_at(State.FETCHING, version):
            self._office.fetch(self.model, lambda error: self._fetched(version, error))

    def _fetched(self, version: str, error: EdgekitError | None) -> None:
        if self._is_at(State.FETCHING, version):
            self._finish(Event.FETCHED, error)

    def install(self, job: Job) -> None:
        """Stage the bundle."""
        assert job.desired is not None, "only a job that was wanted is installed"
        try:
            self._slots.stage(self.model, job.version, job.desired.sha256)
        except EdgekitError as error:
            self._finish_later(State.INSTALLING, job, error)
            return
        self._driver.handle(Event.INSTALLED)

    def _finish_later(self, state: State, job: Job, error: EdgekitError) -> None:
        """Tell of a step that failed, after a wait where it is worth another try."""
        wait_s = RETRY_S[min(job.attempt, len(RETRY_S) - 1)] if error.retryable else 0.0

        def tell() -> None:
            if self._is_at(state, job.version):
                self._finish(Event.INSTALLED, error)

        self._reactor.after(wait_s, tell)

    def _finish(self, event: Event, error: EdgekitError | None) -> None:
        if error is None:
            self._driver.handle(event)
            return
        logger.warning("update of %s: %s", self.model, error)
        reason = f"{error.code}: " + "; ".join((error.message, *error.reasons))[:1000]
        self._driver.handle(Event.RETRY if error.retryable else Event.REJECTED, reason)

    def start_trial(self, job: Job) -> None:
        """Have every pipeline of this model swap to the staged bundle, and watch."""
        staged = self._slots.folder(self.model, "staged")
        if staged is None:
            self._fail_later("the staged bundle is gone")
            return
        try:
            own = open_bundle(staged).manifest.guards
        except EdgekitError as error:
            self._fail_later(f"{error.code}: {error.message}")
            return
        wanted = job.desired.guards if job.desired is not None else None
        soak_s = float(job.desired.soak_s) if job.desired is not None else 0.0
        baseline = stats_of(second for pipeline in self.pipelines for second in pipeline.recent)
        self._trial = Trial(baseline, tighter(own, wanted), soak_s, self._reactor.now_s())
        for pipeline in self.pipelines:
            pipeline.run_on(staged, "trial")

    def _fail_later(self, reason: str) -> None:
        self._reactor.after(0.0, lambda: self._fail(reason) if self._driver.state is State.TRIAL else None)

    def commit(self, job: Job) -> None:
        """Make the staged bundle active, and free the old one."""
        self._slots.commit(self.model, job.version)
        self._trial = None
        self._postponed, self._next_try_s = 0, 0.0
        for pipeline in self.pipelines:
            pipeline.keep()
        self._run_active()
        self._slots.collect_garbage()

    def roll_back(self, job: Job) -> None:
        """Make sure the version is in no slot that runs, then have every worker leave it."""
        self._trial = None
        try:
            self._slots.abandon(self.model, job.version)
        except StorageError as error:
            logger.error("update of %s: cannot go back: %s", self.model, error)  # noqa: TRY400
            self._reactor.after(RETRY_S[1], self._retry_going_back)
            return
        self._is_going_back = True
        self._reactor.after(0.0, self._check_gone_back)
        self._run_active("rollback")

    def _retry_going_back(self) -> None:
        if self._driver.state is State.ROLLING_BACK:
            self._driver.handle(Event.RETRY, "the slots cannot be changed")

    def _check_gone_back(self) -> None:
        """Tell the machine once no worker runs the version that was left."""
        if not self._is_going_back or self._driver.state is not State.ROLLING_BACK:
            return
        waits = [p for p in self.pipelines if p.pid is not None and not p.is_settled and p.state == "running"]
        if waits:
            self._reactor.after(0.05, self._check_gone_back)
            return
        self._is_going_back = False
        self._driver.handle(Event.ROLLED_BACK)
        self._slots.collect_garbage()

    def is_committed(self, job: Job) -> bool:
        """Say whether the job's version is the active one."""
        active = self._slots.load(self.model).active
        return active is not None and active.version == job.version

    def announce(self, record: UpdateRecord) -> None:
        """Tell the fleet of a transition."""
        self._office.announce(record)
        self._office.changed()

    # -- what pipelines tell

    def settled(self) -> None:
        """A worker runs what it shall run."""
        trial = self._trial
        if trial is not None and trial.live_s is None and all(p.is_settled for p in self.pipelines):
            trial.live_s = self._reactor.now_s()

    def swap_failed(self, reason: str) -> None:
        """A bundle was not taken: a trial has failed; a way back is taken by a fresh worker."""
        if self._trial is not None:
            self._fail(reason)
            return
        for pipeline in self.pipelines:
            if not pipeline.is_settled:
                pipeline.restart()

    def crashed(self, reason: str) -> None:
        """A worker ended unasked."""
        trial = self._trial
        if trial is None:
            return
        trial.live_s = None
        trial.observed.crashes += 1
        if trial.observed.crashes >= self._trial_crashes:
            self._fail(f"the worker crashed {trial.observed.crashes} times: {reason}")

    def gave_up(self, reason: str) -> bool:
        """A worker crashes again and again on the active version; return whether another takes over."""
        if self._trial is not None or self._driver.state is not State.IDLE:
            return False
        return not self.revert(f"crashed too often: {reason}")

    def failed_over(self, lost: str, reason: str) -> None:
        """An accelerator was lost; a version on trial may be the cause."""
        if self._trial is not None:
            self._fail(f"variant {lost} lost its accelerator during the trial: {reason}")

    def progressed(self, progress: Progress) -> None:
        """Count a second of the version on trial."""
        trial, job = self._trial, self._driver.job
        if trial is not None and job is not None and progress.running.version == job.version:
            trial.observed.add(progress)

    def tick(self) -> None:
        """Judge the trial; call it each second."""
        trial = self._trial
        if trial is None or self._driver.state is not State.TRIAL:
            return
        if trial.live_s is None:
            if self._reactor.now_s() - trial.begun_s > self._live_limit_s:
                self._fail(f"it was not up and running within {self._live_limit_s:.0f} s")
            return
        elapsed_s = self._reactor.now_s() - trial.live_s
        verdict = judge(trial.observed.stats(), trial.baseline, trial.guards, elapsed_s, trial.soak_s)
        if verdict.action == "commit":
            self._driver.handle(Event.COMMITTED, verdict.reason, verdict.measured)
        elif verdict.action == "roll_back":
            self._driver.handle(Event.FAILED, verdict.reason, verdict.measured)
        elif elapsed_s > trial.soak_s + TRIAL_S:
            self._driver.handle(Event.CANCELLED, "too few frames to judge it by", verdict.measured)

    # -- helpers

    def _fail(self, reason: str) -> None:
        measured: dict[str, Any] = {}
        trial = self._trial
        if trial is not None:
            stats = trial.observed.stats()
            measured = {
                "frames": float(stats.frames),
                "errors": float(stats.errors),
                "crashes": float(stats.crashes),
            }
        self._driver.handle(Event.FAILED, reason[:1000], measured)

    def _is_at(self, state: State, version: str) -> bool:
        job = self._driver.job
        return self._driver.state is state and job is not None and job.version == version

    def _run_active(self, purpose: Any = "switch") -> None:
        folder = self.active_folder()
        for pipeline in self.pipelines:
            pipeline.run_on(folder, purpose)

    def use(self, pipelines: Sequence[Pipeline]) -> None:
        """Name the pipelines that run this model."""
        self.pipelines = list(pipelines)
