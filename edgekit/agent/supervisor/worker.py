"""One worker in the supervisor: its process, and the models and pipelines that this process has."""

from __future__ import annotations

import functools
import logging
import selectors
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent.config import LimitsTable
from edgekit.agent.ipc import (
    NOT_SHARED,
    AlertOut,
    Asked,
    End,
    Ended,
    EventOut,
    LedgerOut,
    Progress,
    Running,
    Started,
)
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.grouping import ModelPlan
from edgekit.agent.supervisor.hosted_model import Blame, HostedModel
from edgekit.agent.supervisor.memory import MemoryWatch
from edgekit.agent.supervisor.pipelines import Observer, Pipeline
from edgekit.agent.supervisor.standby import Succession
from edgekit.agent.supervisor.worker_process import WorkerProcess, oom_kills
from edgekit.base.child import exit_reason, is_native_crash
from edgekit.core.errors import ProtocolError

if TYPE_CHECKING:
    from edgekit.agent.supervisor.address import Admit

logger = logging.getLogger(__name__)

_OF_PIPELINES = (EventOut, AlertOut, Started, Progress, LedgerOut, Asked, Ended)


class Worker:
    """Keeps one process running for the models that are to be open in it.

    It is started when a model is to be opened, asked to end when none is left, and killed when it hangs or
    does not speak the protocol. Every method belongs on the reactor's thread.
    """

    def __init__(
        self,
        name: str,
        reactor: Reactor,
        limits: LimitsTable,
        environment: Mapping[str, str],
        observer: Observer,
        progress_s: float = 1.0,
        admit: Admit | None = None,
    ) -> None:
        self.name = name
        self.models: dict[str, HostedModel] = {}
        self.pipelines: dict[str, Pipeline] = {}
        self.restarts = self.malformed = 0
        self.is_stopping = False
        self._reactor, self._limits, self._environment = reactor, limits, environment
        self._observer, self._progress_s, self._admit = observer, progress_s, admit
        self._process: WorkerProcess | None = None
        self._why_killed = ""
        self._guilty: list[HostedModel] = []
        self._is_asked = False
        self._memory = MemoryWatch(limits.growth_mb)
        self.succession = Succession(self, reactor, limits, observer)
        self.exclusive: frozenset[str] = frozenset()
        """The accelerators of its models that one process at a time can have."""
        self._oom_kills = 0
        self._ending: dict[str, float] = {}
        """When each pipeline that was asked to end must have ended."""

    @property
    def process(self) -> WorkerProcess | None:
        """The process, or None."""
        return self._process

    @property
    def pid(self) -> int | None:
        """The process's id, or None."""
        return None if self._process is None else self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether there is no process, and none will be started."""
        return self.is_stopping and self._process is None and self.succession.is_over

    def model(self, plan: ModelPlan, excluded: Path) -> HostedModel:
        """Return the model of a plan, made if it is not here yet."""
        if plan.key not in self.models:
            self.models[plan.key] = HostedModel(
                plan, self, self._reactor, self._limits, self._observer, excluded
            )
        return self.models[plan.key]

    def models_of(self, pipeline: Pipeline) -> list[HostedModel]:
        """Return the models that a pipeline runs on, if they are here."""
        return [model for model in self.models.values() if model.users.get(pipeline.name) is pipeline]

    def restart(self) -> None:
        """Restart the process on request; this is not counted as a crash."""
        for model in self.models.values():
            model.forgive()
        for pipeline in self.pipelines.values():
            pipeline.revive()
        if self._process is None:
            self._reconcile()
        else:
            self._is_asked, self._why_killed = True, "restarted on request"
            self._process.kill()

    def stop(self) -> None:
        """Ask the process to end for good; ``is_stopped`` becomes true when it has."""
        self.is_stopping = True
        self.succession.stop()
        if self._process is None:
            self._stopped()
        else:
            self._process.stop(self._reactor.now_s() + self._limits.stop_s)

    def require(self) -> bool:
        """Return whether a process is there to take messages; start it if there is none.

        Raises:
            OSError: It cannot be started.
        """
        if self._process is not None:
            return not self._process.is_stopping
        self._why_killed, self._guilty, self._is_asked = "", [], False
        self._oom_kills = oom_kills()
        self._process = process = self.spawn()
        if process.door is not None:
            process.door.show(is_shown=True, recycled=self.succession.recycled)
        logger.info("worker %s is process %d", self.name, process.pid)
        return True

    def spawn(self) -> WorkerProcess:
        """Return another process, whose messages come here; it is handed no connections before it is shown.

        Raises:
            OSError: It cannot be started.
        """
        process = WorkerProcess(
            self._environment, self._reactor.now_s(), self._progress_s, has_api=self._admit is not None
        )
        if self._admit is not None and process.api is not None:
            process.door = self._admit(process.api, process.pid, self.restarts)
        self._reactor.watch(process.channel, selectors.EVENT_READ, functools.partial(self._ready, process))
        return process

    def send(self, message: Any) -> bool:
        """Send a message; return False if the process is gone, or about to go."""
        process = self._process
        return process is not None and not process.is_stopping and process.send(message)

    def adopt(self, process: WorkerProcess, opened: Mapping[str, Running]) -> None:
        """Go on with a process that has the models open, in place of the present one."""
        for key, running in opened.items():
            self.models[key].moved(running)
        self._why_killed, self._guilty, self._is_asked, self._ending = "", [], False, {}
        self._process = process

    def _recycle(self, process: WorkerProcess, reason: str) -> None:
        """Have a second process take over; where two cannot be, end this one and start it anew.

        Neither is counted as a crash.
        """
        if not (why_not := self._why_no_standby()):
            try:
                self.succession.begin(reason)
            except OSError as error:
                why_not = f"it cannot be started: {error}"
        if why_not:
            self._is_asked = True
            self.succession.replaced(f"{reason}; started anew without a standby: {why_not}")
            process.stop(self._reactor.now_s() + self._limits.stop_s)

    def _why_no_standby(self) -> str:
        if self.exclusive:
            return f"one process at a time can have {', '.join(sorted(self.exclusive))}"
        return "" if self._memory.has_room() else "what is free does not hold it twice"

    def end(self, pipeline: Pipeline) -> None:
        """Ask for a pipeline's end; the process is killed if it does not come in time."""
        self.send(End(pipeline=pipeline.name))
        self._ending[pipeline.name] = self._reactor.now_s() + self._limits.stop_s

    def release(self) -> None:
        """Ask the process to end if it has nothing to do."""
        process = self._process
        if process is None or process.is_stopping:
            return
        if not any(model.is_hosted or model.is_wanted for model in self.models.values()):
            process.stop(self._reactor.now_s() + self._limits.stop_s)

    # -- when it hangs

    def tick(self) -> None:
        """Kill the process if it hangs, have another take over if its memory grows. Call it each second."""
        process, now_s = self._process, self._reactor.now_s()
        if reason := self.succession.look(now_s):
            self._memory.wait()
            self.succession.abandon(reason)
        if process is None:
            return
        if process.is_stopping:
            if process.is_overdue(now_s):
                process.kill()
            return
        if wrong := self._overdue(now_s):
            self._kill(*wrong)
            return
        limit_s = self._limits.hang_s
        stuck = [
            pipeline
            for pipeline in self.pipelines.values()
            if pipeline.state == "running" and now_s - pipeline.progressed_s > limit_s
        ]
        if stuck:
            reason = f"finished no frame for {limit_s:.0f} s though one was due"
            self._end_stuck(stuck, reason, is_silent=now_s - process.heard_s > limit_s / 2)
        elif not self.succession.state and all(model.may_pause for model in self.models.values()):
            runs = (tuple(self.pipelines), tuple(model.running for model in self.models.values()))
            if reason := self._memory.look(now_s, process.pid, runs):
                self._recycle(process, reason)

    def _overdue(self, now_s: float) -> tuple[str, list[HostedModel]] | None:
        """Return what did not come in time, and the models to blame; None if all did."""
        for model in self.models.values():
            if reason := model.overdue(now_s):
                return reason, [model]
        for name, deadline_s in self._ending.items():
            if now_s > deadline_s:
                return f"pipeline {name} did not end within {self._limits.stop_s:.0f} s", []
        return None

    def _end_stuck(self, stuck: list[Pipeline], reason: str, *, is_silent: bool) -> None:
        """Kill the process if its runtime hangs; start a pipeline again alone where only its source does."""
        models = [model for pipeline in stuck for model in self.models_of(pipeline)]
        busy = [model for model in models if model.busy_s >= self._limits.hang_s / 2]
        guilty = _suspects(models) if is_silent else busy
        if guilty or len(stuck) == len(self.pipelines):
            self._kill(reason, list(dict.fromkeys(guilty)))
            return
        for pipeline in stuck:
            if pipeline.name not in self._ending:
                pipeline.hung(reason)

    def _kill(self, reason: str, guilty: list[HostedModel]) -> None:
        self._why_killed, self._guilty = reason, guilty
        logger.error("worker %s is killed: %s", self.name, reason)
        if self._process is not None:
            self._process.kill()

    # -- from the process

    def _ready(self, process: WorkerProcess, _: int) -> None:
        try:
            messages, has_closed = process.channel.receive()
            for message in messages:
                self._take(message, process)
        except ProtocolError as error:
            self.malformed += 1
            if process is self._process:
                self._kill(f"does not speak the protocol: {error}", [])
            process.kill()
            has_closed = True
        if has_closed and process.channel.fileno() >= 0:
            self._collect(process)

    def _take(self, message: Any, process: WorkerProcess) -> None:
        process.heard_s = self._reactor.now_s()
        if self.succession.takes(process, message):
            return
        if isinstance(message, _OF_PIPELINES):
            self._take_of_pipeline(message)
        elif process is self._process and (model := self.models.get(message.model)) and model.is_hosted:
            model.take(message)

    def _take_of_pipeline(self, message: Any) -> None:
        if isinstance(message, EventOut):
            name = message.record.pipeline
        elif isinstance(message, AlertOut):
            name = message.alert.pipeline
        else:
            name = message.pipeline
        if (pipeline := self.pipelines.get(name)) is not None:
            self._take_for(pipeline, message)

    def _take_for(self, pipeline: Pipeline, message: Any) -> None:
        if isinstance(message, Progress):
            pipeline.progressed(message)
        elif isinstance(message, EventOut):
            self._observer.event(pipeline, message)
        elif isinstance(message, AlertOut):
            self._observer.record(pipeline, message.alert)
        elif isinstance(message, LedgerOut):
            self._observer.left(pipeline, message)
        elif isinstance(message, Asked):
            self._observer.asked(pipeline, message)
        elif isinstance(message, Started):
            pipeline.started(message)
        elif isinstance(message, Ended):
            self._pipeline_ended(pipeline, message)

    def _pipeline_ended(self, pipeline: Pipeline, message: Ended) -> None:
        self._ending.pop(pipeline.name, None)
        models, is_asked = self.models_of(pipeline), pipeline.is_over
        pipeline.ended(message)
        if message.code == NOT_SHARED and not is_asked:
            self._observer.not_shared(pipeline)
        elif message.code and not is_asked:
            self._blame(pipeline, models, message)
        for model in models:
            if not model.is_wanted:
                model.drop()

    def _blame(self, pipeline: Pipeline, models: list[HostedModel], message: Ended) -> None:
        """Count a pipeline's end against the models that may be the cause."""
        for model in models:
            if message.is_final and message.blames in ("", model.key):
                model.refused_by(message.reason)
            elif message.blames == model.key:
                model.blame_for(pipeline, message.reason)

    # -- when it ends

    def _collect(self, process: WorkerProcess) -> None:
        self._reactor.unwatch(process.channel)
        if process.door is not None:
            process.door.close()
        code = process.reap()
        if process is not self._process:
            self.succession.ended(process, exit_reason(code))
            return
        self._process = None
        self._ending.clear()
        self.succession.first_ended()
        if self.is_stopping:
            self._stopped()
        elif process.is_stopping and not self._is_asked:
            for pipeline in list(self.pipelines.values()):
                if pipeline.is_in_worker:
                    pipeline.gone()
            self._reconcile()
        elif self._is_asked:
            self._each_ended("", {}, 0.0)
        else:
            self.restarts += 1
            self._judge(code)

    def _judge(self, code: int) -> None:
        """Decide whose fault the end was: of the model that hung or crashed, nobody's, or each one's."""
        reason = self._why_killed or exit_reason(code)
        hosted = [model for model in self.models.values() if model.is_hosted]
        guilty = self._guilty
        if not self._why_killed and is_native_crash(code):
            guilty = _suspects(hosted)
        is_from_outside = not self._why_killed and code == -signal.SIGKILL
        if guilty:
            blames: dict[str, Blame] = {
                model.key: "guilty" if model in guilty else "none" for model in hosted
            }
            self._each_ended(reason, blames, 0.0)
        elif is_from_outside and oom_kills() == self._oom_kills:
            self._each_ended(reason, {}, self._limits.backoff_s)
        else:
            self._each_ended(reason, {model.key: "charged" for model in hosted}, 0.0)

    def _each_ended(self, reason: str, blames: Mapping[str, Blame], delay_s: float) -> None:
        logger.error("worker %s ended: %s", self.name, reason or "restarted on request")
        for model in list(self.models.values()):
            model.process_ended(reason, blames.get(model.key, "none"), delay_s)

    def _reconcile(self) -> None:
        for model in list(self.models.values()):
            model.reconcile()

    def _stopped(self) -> None:
        for pipeline in self.pipelines.values():
            pipeline.is_in_worker = False
            pipeline.state = "stopped"


def _suspects(hosted: list[HostedModel]) -> list[HostedModel]:
    """Return the models that may have crashed or held a process: opening one, else on trial, else at work.

    What was at work is known up to the last progress message only, which a crash at a later stage's first
    frames never gets into: a version on trial would be tried for ever, and a trusted one be given up. Of
    those at work before that message, it is the ones that worked for most of the time, or half as long.
    """
    if opening := [model for model in hosted if model.is_opening_variant]:
        return opening
    if on_trial := [model for model in hosted if model.is_on_trial]:
        return on_trial
    most_s = max((model.worked_s for model in hosted), default=0.0)
    return [model for model in hosted if model.worked_s >= most_s / 2]
