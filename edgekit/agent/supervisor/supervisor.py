"""The supervisor: builds all parts, connects them, and runs them on one thread until a signal."""

from __future__ import annotations

import functools
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.agent.children import MeasuringChild, Survey, measure
from edgekit.agent.config import AgentConfig, Environment, managed_models, worker_environment
from edgekit.agent.ipc import Asked, EventOut, LedgerOut, Progress
from edgekit.agent.jobs import Jobs
from edgekit.agent.measuring.runs import Measuring
from edgekit.agent.reactor import Reactor
from edgekit.agent.status import StatusServer, socket_path
from edgekit.agent.supervisor.cameras import CameraKeeper
from edgekit.agent.supervisor.commands import CommandDesk
from edgekit.agent.supervisor.controls import Controls
from edgekit.agent.supervisor.egress import Egress, KeptEvents
from edgekit.agent.supervisor.fleet import FleetSide
from edgekit.agent.supervisor.hosted_model import HostedModel
from edgekit.agent.supervisor.measuring_host import MeasuringHost
from edgekit.agent.supervisor.metrics import Books
from edgekit.agent.supervisor.pipelines import Happening, Model, Pipeline
from edgekit.agent.supervisor.pool import WorkerPool
from edgekit.agent.supervisor.prepare import exclusive_of, prepare
from edgekit.agent.supervisor.reload import Reloader
from edgekit.agent.supervisor.updates import ModelUpdates
from edgekit.base.clock import FlooredClock
from edgekit.base.lock import lock_state
from edgekit.base.notify import Notifier
from edgekit.core.errors import EdgekitError
from edgekit.core.ports import nothing
from edgekit.core.spec import AGENT
from edgekit.core.wire import Birth, Command, Desired, Record, Reported, UpdateRecord
from edgekit.hardware.sensors import Sensors
from edgekit.update.slots import Slots
from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.agent.supervisor.address import LocalAddress
    from edgekit.agent.supervisor.self_update import AgentUpdates

logger = logging.getLogger(__name__)

REPORT_DELAY_S = 0.2
CLOCK_KEEP_S = 600.0
WANT_EVERY_S = 5.0
GARBAGE_RETRY_S = 30.0
PREPARE_AGAIN_S = 60.0


class Supervisor:
    """All parts of one agent, on one thread.

    Raises:
        StorageError: The state folder cannot be used, or another agent uses it.
        ConfigError: The local API cannot be at the address that ``[serve]`` names, or cannot serve so.
        BundleError: A bundle that ``[[serve.model]]`` names is not one.
    """

    def __init__(self, config: AgentConfig, environment: Environment) -> None:
        self.config = config
        state = config.state
        self._lock = lock_state(state)
        self.clock = FlooredClock(state / "clock")
        self.reactor = Reactor()
        self.slots = Slots(state)
        self.egress = Egress(state, config.pipelines, config.outbox, self.clock)
        self._kept = KeptEvents(self.reactor.offer, self._say_kept)
        self.jobs = Jobs(self.reactor.post)
        self.fleet = FleetSide(
            state, self.reactor, self.egress, self.clock, self, config.limits.update_s, self.jobs
        )
        self.address = self._make_address()
        admit = self.address.admit if self.address else None
        self.pool = WorkerPool(config, self.reactor, worker_environment(state), self, self._place, admit)
        self.models: dict[str, ModelUpdates] = {}
        self.add_models(config)
        self.books = Books()
        self.sensors: dict[str, float] = {}
        self.started_s = self.reactor.now_s()
        self.measuring = self._make_measuring()
        self.reloader = Reloader(self)
        self._cameras = CameraKeeper(self, self.reloader)
        self._controls = Controls(self, self.reloader)
        self._desk = CommandDesk(
            state / "commands.json", self._controls.commands(), self.egress.put, self.clock
        )
        self._status = StatusServer(
            socket_path(state), self.reactor, self._controls.operations(), config.limits.status_clients
        )
        self._notifier = Notifier(environment.notify_socket)
        self._sensors: Sensors | None = None
        self._reports = 0
        self._is_dirty = self._is_stopping = self.is_restarting = False
        self._own: AgentUpdates | None = None
        self._reported = self.refresh()

    def _make_measuring(self) -> Measuring:
        state = self.config.state
        return Measuring(
            state,
            self.reactor,
            self.clock,
            MeasuringHost(self),
            lambda task: MeasuringChild(task, worker_environment(state)),
        )

    def add_models(self, config: AgentConfig) -> list[ModelUpdates]:
        """Begin to keep the models that pipelines name; return those that are new."""
        folder, limits = self.config.state / "update", self.config.limits
        new = {
            name: ModelUpdates(
                *(name, self.slots, folder, self.reactor, self.clock, self, limits),
                hosted=functools.partial(self.pool.hosted, name),
            )
            for name in managed_models(config.pipelines)
            if name not in self.models
        }
        self.models |= new
        return list(new.values())

    def _keep_own_release(self) -> AgentUpdates | None:
        """Begin to keep this agent itself up to date, where a release is or was wanted."""
        desired = self.fleet.desired
        is_wanted = desired is not None and AGENT in desired.models and self.config.self_update
        if self._own is None and (is_wanted or (self.config.state / "agent").is_dir()):
            from edgekit.agent.supervisor.self_update import AgentUpdates  # memory that few need

            self._own = self.models[AGENT] = AgentUpdates(self, self)
        return self._own

    def _place(self, model: HostedModel) -> None:
        """Give a model its bundle in a worker that hosts it from now on."""
        if model.plan.pinned is not None:
            model.run_on(model.plan.pinned)
        else:
            self.models[model.plan.managed].place(model)

    def _make_address(self) -> LocalAddress | None:
        if self.config.serve is None:
            return None
        from edgekit.agent.supervisor.address import LocalAddress  # half a megabyte that few need

        return LocalAddress(self.config.serve, self.reactor, self.config.state, self.config.pipelines)

    # -- life

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then stop everything in order."""
        self.jobs.start()
        self.jobs.submit(self._prepare, self._prepared)
        self.fleet.start()
        self._set_timers()
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: self._begin_stop()) for number in numbers}
        before[signal.SIGHUP] = signal.signal(
            signal.SIGHUP, lambda *_: self.reactor.post(self.reloader.begin)
        )
        try:
            self._notifier.tell("READY=1")
            self.reactor.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._close()

    def _set_timers(self) -> None:
        every, intervals = self.reactor.every, self.config.intervals
        every(intervals.progress_s, self._tick)
        every(intervals.metrics_s, self._send_metrics)
        every(intervals.sensors_s, self._read_sensors)
        every(intervals.reported_s, self.changed)
        every(WANT_EVERY_S, lambda: self.want(is_new=False))
        every(CLOCK_KEEP_S, self._keep_clock)

    def _prepare(self) -> Survey:
        return prepare(self.config.pipelines, self.slots, self.egress, worker_environment(self.config.state))

    def _prepared(self, outcome: Survey | EdgekitError) -> None:
        self._surveyed(outcome)
        if isinstance(outcome, Survey):
            self._sensors = Sensors(Path("/"), outcome.profile.telemetry)
            self._read_sensors()
        else:
            self.egress.failure(outcome)
            self.reactor.after(PREPARE_AGAIN_S, lambda: self.jobs.submit(self._prepare, self._surveyed))
        if self._is_stopping:
            return
        self.measuring.resume()
        self.add_models(self.config)
        self._keep_own_release()
        plans = self.config.pipelines
        self.pool.apply(plans, exclusive_of(plans, self.slots, self.fleet.survey))
        for updates in self.models.values():
            updates.resume()
        self.want(is_new=False)

    def _surveyed(self, outcome: Survey | EdgekitError) -> None:
        if isinstance(outcome, Survey):
            self.fleet.survey = outcome
            self.fleet.announce()

    def measure(self, bundle: Path, done: Callable[[], None]) -> None:
        """Measure a bundle's variants in a child process, then call ``done``."""
        state = self.config.state
        environment = worker_environment(state)

        def measured(_: object) -> None:
            self.measuring.host.take_reports()
            done()

        self.jobs.submit(lambda: measure(bundle, environment, state), measured)

    def _begin_stop(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        logger.info("stopping")
        if not self.is_restarting:  # for the service manager a restart is part of one life
            self._notifier.tell("STOPPING=1")
        self.pool.stop()
        if self.address is not None:
            self.address.stop()
        self._stop_when_still()

    def restart(self) -> None:
        """Stop in order; whoever called ``run`` has the launcher start what is to run now."""
        self.is_restarting = True
        self._begin_stop()

    def _stop_when_still(self) -> None:
        if self.pool.is_stopped and (self.address is None or self.address.has_ended):
            self.reactor.stop()
        else:
            self.reactor.after(0.05, self._stop_when_still)

    def _close(self) -> None:
        if self.address is not None:
            self.address.close()
        self._send_metrics()
        self.fleet.stop()
        self.measuring.stop()
        self.jobs.stop()
        self._keep_clock()
        self.egress.close()
        self._status.close()
        self._notifier.close()
        self.reactor.close()
        os.close(self._lock)

    # -- timers

    def _tick(self) -> None:
        self._notifier.tell("WATCHDOG=1")
        self.pool.tick()
        self.reloader.tick()
        for updates in self.models.values():
            updates.tick()
        self.measuring.tick()

    def _send_metrics(self) -> None:
        for report in self.books.close(self.clock, self.sensors):
            self.egress.put(report, report.pipeline.partition("/")[0])
        self.egress.check_quota()

    def _read_sensors(self) -> None:
        if self._sensors is not None:
            self.sensors = {name: float(value) for name, value in self._sensors.read().items()}

    def _keep_clock(self) -> None:
        try:
            self.clock.keep()
        except OSError as cause:
            logger.warning("the clock's floor cannot be kept: %s", cause)

    # -- updates

    def desired_accepted(self, desired: Desired) -> None:
        """Start the updates of a new desired state."""
        is_first = self._own is None and self.fleet.survey is not None
        if is_first and (own := self._keep_own_release()) is not None:
            own.resume()
        for name in desired.models:
            if name not in self.models and not (name == AGENT and self.config.self_update):
                self._not_managed(name, desired)
        self.want(is_new=True)
        self.changed()

    def _not_managed(self, name: str, desired: Desired) -> None:
        model = desired.models[name]
        self.egress.put(
            UpdateRecord(
                mono_ns=self.clock.monotonic_ns(),
                unix_ms=self.clock.unix_ms(),
                model=name,
                version=model.version,
                state="IDLE",
                event="REJECTED",
                reason="this device takes no release: self_update under [agent] is not true"
                if name == AGENT
                else "no pipeline of this device keeps this model up to date",
                rollout=model.rollout,
            )
        )

    def want(self, *, is_new: bool) -> None:
        """Start the updates that the desired state asks for; ``is_new`` ones wait for no retry timer."""
        desired = self.fleet.desired
        if desired is None or self.fleet.survey is None or self._is_stopping:
            return
        self._cameras.want()
        own = self._own
        if own is not None and self.config.self_update and AGENT in desired.models:
            own.want(desired.models[AGENT], is_new=is_new)
        for name, updates in self.models.items():
            wanted = desired.models.get(name)
            if wanted is None or updates is own or not self._controls.offers.permits(name, wanted.version):
                continue
            if own is None or own.lets(updates, wanted):
                updates.want(wanted, is_new=is_new)

    def fetch(self, model: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Run an updater job that fetches a model's desired bundle."""
        self.fleet.fetch(model, done)

    def unpack(self, version: str, sha256: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Run an updater job that makes the environment of a staged release."""
        self.fleet.unpack(version, sha256, done)

    def announce(self, record: UpdateRecord) -> None:
        """Log a transition and put it into the outbox."""
        logger.info(
            "update: %s %s %s", record.model, record.version, record.event, extra={"why": record.reason}
        )
        self.egress.put(record)
        self.egress.outbox.flush()  # before the machine stores that it was sent

    def collect_garbage(self) -> None:
        """Delete bundles that no slot names, as soon as no updater job runs."""
        if self.jobs.is_busy:
            self.reactor.after(GARBAGE_RETRY_S, self.collect_garbage)
            return
        try:
            freed = self.slots.collect_garbage()
        except EdgekitError as error:
            logger.warning("garbage stays: %s", error)
            return
        if freed:
            logger.info("freed %d bytes of old bundles", freed)

    def commanded(self, command: Command) -> None:
        """Execute a command of the fleet."""
        self._desk.take(command)

    # -- events of models and pipelines

    def happened(self, model: Model, what: Happening, reason: str = "") -> None:
        """An event for the update of a model; alert an operator if its pipelines were given up."""
        updates = self.models.get(model.managed)
        falls_back = updates is not None and updates.happened(what, reason)
        for name in model.users if falls_back or what == "gave_up" else ():
            if falls_back:
                self.alert("error", "agent.fell_back", f"went back to the previous version: {reason}", name)
            else:
                self.alert("error", "agent.pipeline_failed", reason, name)

    def progressed(self, pipeline: Pipeline, progress: Progress) -> None:
        """A progress message came."""
        self.books.add("/".join(filter(None, (pipeline.name, progress.stage))), progress)
        model = pipeline.models.get(progress.stage)
        if model is not None and (updates := self.models.get(model.managed)) is not None:
            updates.progressed(progress)

    def asked(self, pipeline: Pipeline, message: Asked) -> None:
        """A sink of a pipeline asks for something about its model."""
        self._controls.offers.asked(pipeline, message)

    def not_shared(self, pipeline: Pipeline) -> None:
        """Load a model for one pipeline alone whose file keeps state."""
        text = "its model's file keeps state from frame to frame, so it is loaded for this pipeline alone"
        self.alert("info", "agent.not_shared", text, pipeline.name)
        self.pool.unshare(pipeline)

    def record(self, pipeline: Pipeline, record: Record) -> None:
        """The worker sent a record for the fleet."""
        self.egress.put(record, pipeline.name)

    def event(self, pipeline: Pipeline, message: EventOut) -> None:
        """The worker sent an event."""
        name, number = pipeline.name, message.number
        kept = functools.partial(self._kept.add, name, number) if number else nothing
        self.egress.put_event(message.record, name, message.key, is_again=message.is_again, on_kept=kept)

    def _say_kept(self, numbers: Mapping[str, int]) -> None:
        for name, number in numbers.items():
            if (pipeline := self.pool.pipelines.get(name)) is not None:
                pipeline.kept(number)

    def left(self, pipeline: Pipeline, message: LedgerOut) -> None:
        """A worker's own gates passed or refused data."""
        self.egress.left(pipeline.name, message)

    def alert(self, level: Literal["info", "warning", "error"], code: str, message: str, name: str) -> None:
        """Send an alert."""
        self.egress.alert(level, code, message, name)

    # -- the reported state

    def changed(self) -> None:
        """Schedule one report of the state for all changes until then."""
        if not self._is_dirty:
            self._is_dirty = True
            self.reactor.after(REPORT_DELAY_S, self._report)

    def _report(self) -> None:
        self._is_dirty = False
        self.refresh()
        self.fleet.report()
        self._controls.offers.tell()

    def refresh(self) -> Reported:
        """Return the current state to report."""
        self._reports += 1
        desired = self.fleet.desired
        rejected: dict[str, str] = {}
        for updates in self.models.values():
            rejected |= updates.rejected
        self._reported = Reported(
            boot=self.egress.outbox.boot,
            version=self._reports,
            desired=desired.version if desired else 0,
            models={name: updates.model_state() for name, updates in self.models.items()},
            updates={name: updates.reported() for name, updates in self.models.items()},
            pipelines={name: pipeline.reported() for name, pipeline in self.pool.pipelines.items()},
            outbox=self.egress.outbox.state(),
            sensors=self.sensors,
            rejected=rejected,
            unix_ms=self.clock.unix_ms(),
            cameras=self._cameras.state,
        )
        return self._reported

    def reported(self) -> Reported:
        """Return the last state to report; safe from any thread."""
        return self._reported

    def birth(self) -> Birth:
        """Return the birth message; safe from any thread."""
        survey, desired = self.fleet.survey, self.fleet.desired
        return Birth(
            online=True,
            boot=self.egress.outbox.boot,
            conn=0,
            agent=__version__,
            profile=survey.profile.id if survey else "",
            hardware=survey.facts if survey else None,
            backends=survey.facts.backends if survey else (),
            desired=desired.version if desired else 0,
            clock=self.clock.quality,
            unix_ms=self.clock.unix_ms(),
        )
