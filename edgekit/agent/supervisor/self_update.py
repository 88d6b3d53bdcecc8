"""The update of the agent itself: a release is fetched as a model is, unpacked, and tried by a restart.

The agent that runs hands a release over to ``edgekit.agent.launcher``; the release commits itself once it
does what the agent before it did: the same pipelines run, the link is up, and the models that move with it
are active. Whoever is left reports why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from edgekit.agent.supervisor.parts import Parts
from edgekit.agent.supervisor.updates import RETRY_S, Host, ModelUpdates
from edgekit.core.errors import BundleError, EdgekitError, StorageError
from edgekit.core.release import lock_of
from edgekit.core.spec import AGENT, parse_manifest
from edgekit.core.wire import DesiredModel, ModelState
from edgekit.update.driver import Job
from edgekit.update.machine import Event, State
from edgekit.update.release import (
    Launch,
    forget_launch,
    load_launch,
    remove_others,
    running_release,
    save_launch,
    this_base,
)
from edgekit.update.slots import Slot, SlotName

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_HELD: tuple[SlotName, ...] = ("staged", "active")


class Owner(Host, Protocol):
    """What the supervisor does for its own update."""

    def unpack(self, version: str, sha256: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Make the environment of a staged release."""

    def restart(self) -> None:
        """Stop in order, and have the launcher start what is to run now."""


class AgentUpdates(ModelUpdates):
    """The agent's own slots and update machine, on the reactor's thread.

    Raises:
        StorageError: The machine's state, or the record of a trial, cannot be read.
    """

    def __init__(self, parts: Parts, owner: Owner) -> None:
        self._parts, self._owner = parts, owner
        self._state = parts.config.state
        super().__init__(
            *(AGENT, parts.slots, self._state / "update", parts.reactor, parts.clock, owner),
            parts.config.limits,
            hosted=lambda: (),
        )
        self._running = running_release()
        self._launch = load_launch(self._state)
        self._begun_s: float | None = None
        self._healthy_s: float | None = None

    def resume(self) -> None:
        """Have the slots say what the launcher started, then resume what a restart interrupted."""
        self._do(self._follow_launcher)
        super().resume()

    def _follow_launcher(self) -> None:
        slot, running = self._slots.load(AGENT), self._running
        if self._driver.state is State.TRIAL or slot.active is None:
            return
        if running is None:  # the installation was replaced, or no environment is whole
            self._slots.forget(AGENT)
        elif slot.previous is not None and running.version == slot.previous.version:
            self._slots.abandon(AGENT, slot.active.version)

    def model_state(self) -> ModelState:
        """Return the agent's own versions to report."""
        base = this_base()
        try:
            slot = self._slots.load(AGENT)
        except StorageError as error:
            return ModelState(why=error.message)
        return ModelState(
            active=self._runs_version(slot),
            previous=self._before(slot) if slot.active else "",
            staged=slot.staged.version if slot.staged else "",
            why=f"beside the installed {base.agent}" if self._running else "the installed one",
        )

    def _runs_version(self, slot: Slot) -> str:
        return super()._runs_version(slot) or this_base().agent

    def _before(self, slot: Slot) -> str:
        return slot.previous.version if slot.previous else this_base().agent

    def lets(self, updates: ModelUpdates, wanted: DesiredModel) -> bool:
        """Return whether a model's update may start now: one thing is on trial at a time.

        A version that moves with a release that was rejected is rejected, too.
        """
        launch = self._launch
        is_paired = launch is not None and launch.pairs.get(updates.model) == wanted.version
        if is_paired and launch is not None and f"{AGENT}@{launch.version}" in self.rejected:
            if updates.is_idle:
                updates.refuse(wanted, f"it moves with {AGENT} {launch.version}: {launch.failed}")
            return False
        return self.is_idle or (is_paired and self._begun_s is not None)

    # -- ports of the driver

    def outlives_restart(self, job: Job) -> bool:
        """Return whether the launcher knows of this trial."""
        return self._launch is not None and self._launch.version == job.version

    def _install_now(self, job: Job) -> None:
        if not self._is_at(State.INSTALLING, job) or job.desired is None:
            return
        try:
            self._slots.stage(AGENT, job.version, job.desired.sha256)
            self._require_pairs(self._pairs_of(job.version))
            forget_launch(self._state)
        except EdgekitError as error:
            self._finish(Event.INSTALLED, job, error)
            return
        self._launch = None
        self._owner.unpack(
            job.version, job.desired.sha256, lambda error: self._finish(Event.INSTALLED, job, error)
        )

    def _pairs_of(self, version: str) -> dict[str, str]:
        """Return the models that move with a release in a slot."""
        slot = self._slots.load(AGENT)
        for name in _HELD:
            installed = slot.staged if name == "staged" else slot.active
            if installed is not None and installed.version == version:
                folder = self._slots.folder(AGENT, name)
                assert folder is not None
                return lock_of(parse_manifest((folder / "bundle.json").read_bytes()).variants[0]).pairs
        return {}

    def _require_pairs(self, pairs: dict[str, str]) -> None:
        desired = self._parts.fleet.desired
        for model, version in pairs.items():
            updates = self._parts.models.get(model)
            wanted = desired.models.get(model) if desired else None
            if updates is None:
                raise BundleError(f"it moves with {model} {version}, and no pipeline here uses that model")
            if version not in (wanted.version if wanted else "", updates.model_state().active):
                raise BundleError(f"it moves with {model} {version}, which the fleet does not assign")

    def start_trial(self, job: Job) -> None:
        """Hand the release over to the launcher; where it runs already, watch it."""
        launch = self._launch
        if launch is not None and launch.version == job.version:
            if launch.failed:
                self._handle(Event.FAILED, launch.failed, serial=job.serial)
                return
            if self._runs(job):
                self._begun_s = self._reactor.now_s()
                return
        self._restart_into(job)

    def _runs(self, job: Job) -> bool:
        return self._running is not None and self._running.version == job.version

    def _restart_into(self, job: Job) -> None:
        if not self._is_at(State.TRIAL, job):
            return
        if any(not updates.is_idle for name, updates in self._parts.models.items() if name != AGENT):
            self._reactor.after(_LOOK_S, lambda: self._restart_into(job))
            return
        limits, pipelines = self._parts.config.limits, self._parts.pool.pipelines.items()
        launch = Launch(
            version=job.version,
            starts=self._launch.starts if self._launch else 0,
            limit_s=limits.agent_trial_s + self._soak_s(job),
            pairs=self._pairs_of(job.version),
            pipelines=tuple(name for name, pipeline in pipelines if pipeline.state == "running"),
            is_linked=self._parts.fleet.link_state()["connected"],
        )
        self._do(lambda: self._keep(launch))
        if self._launch == launch:
            logger.info("restarts into agent %s, on trial", job.version)
            self._owner.restart()

    @staticmethod
    def _soak_s(job: Job) -> float:
        return float(job.desired.soak_s) if job.desired else 0.0

    def _keep(self, launch: Launch) -> None:
        save_launch(self._state, launch)
        self._launch = launch

    def commit(self, job: Job) -> None:
        """Make the release the one that starts from now on."""
        self._slots.commit(AGENT, job.version)
        forget_launch(self._state)
        self._launch = self._begun_s = None
        self._postponed, self._next_try_s = 0, 0.0
        self._clean()

    def roll_back(self, job: Job) -> None:
        """Leave the release: first in the slots, then by a restart if it runs, then with its models."""
        self._begun_s = None
        try:
            if self._launch is None or self._launch.version != job.version or not self._launch.failed:
                pairs = self._launch.pairs if self._launch else self._pairs_of(job.version)
                self._keep(Launch(version=job.version, failed=job.reason or "left", pairs=pairs))
            self._leave(job.version)
        except EdgekitError as caught:
            error = caught
            logger.error("the agent cannot go back: %s", error)  # noqa: TRY400 - the message says it all
            self._reactor.after(RETRY_S[1], lambda: self._finish(Event.RETRY, job, error))
            return
        if self._runs(job):
            self._owner.restart()
            return
        if job.ending == "reject":
            self._return_pairs()
        self._reactor.after(0.0, lambda: self._handle(Event.ROLLED_BACK, serial=job.serial))
        self._clean()

    def _leave(self, version: str) -> None:
        slot = self._slots.load(AGENT)
        if slot.active is not None and slot.active.version == version and slot.previous is None:
            self._slots.forget(AGENT)  # below it there is the installation
        else:
            self._slots.abandon(AGENT, version)

    def _return_pairs(self) -> None:
        """Take the models back that moved with a release that was left."""
        launch = self._launch
        for model, version in launch.pairs.items() if launch else ():
            updates = self._parts.models.get(model)
            if launch is None or updates is None or updates.model_state().active != version:
                continue
            try:
                updates.revert(f"it moves with {AGENT} {launch.version}: {launch.failed}"[:1000])
            except EdgekitError as error:
                self._host.alert("error", error.code, f"{model} stays at {version}: {error.message}", "")

    def _clean(self) -> None:
        keep = {installed.version for installed in self._slots.load(AGENT).filled()}
        try:
            remove_others(self._state, keep | ({self._running.version} if self._running else set()))
        except StorageError as error:
            logger.warning("the environments of old releases stay: %s", error)
        self._host.collect_garbage()

    # -- the trial

    def tick(self) -> None:
        """Judge the release that runs on trial; call it each second."""
        launch, job = self._launch, self._driver.job
        if self._begun_s is None or launch is None or job is None or self._driver.state is not State.TRIAL:
            return
        now_s = self._reactor.now_s()
        if lost := self._lost_pair(launch):
            self._fail(lost)
        elif missing := self._missing(launch):
            self._healthy_s = None
            if now_s - self._begun_s > launch.limit_s:
                self._fail(f"after {launch.limit_s:g} s {missing}")
        else:
            self._healthy_s = now_s if self._healthy_s is None else self._healthy_s
            if now_s - self._healthy_s >= self._soak_s(job):
                self._handle(Event.COMMITTED, "it does what the agent before it did")

    def _lost_pair(self, launch: Launch) -> str:
        for model, version in launch.pairs.items():
            updates = self._parts.models.get(model)
            if updates is not None and (why := updates.rejected.get(f"{model}@{version}")):
                return f"{model} {version}, which moves with it, was rejected: {why}"
        return ""

    def _missing(self, launch: Launch) -> str:
        """Return what the release does not do that it must, in words; "" for nothing."""
        pool, models = self._parts.pool, self._parts.models
        for name in launch.pipelines:
            pipeline = pool.pipelines.get(name)
            if pipeline is None or pipeline.state != "running":
                return f"pipeline {name} does not run"
        for model, version in launch.pairs.items():
            if model not in models or models[model].model_state().active != version:
                return f"{model} {version} is not active"
        if launch.is_linked and not self._parts.fleet.link_state()["connected"]:
            return "there is no link to the fleet"
        return ""
