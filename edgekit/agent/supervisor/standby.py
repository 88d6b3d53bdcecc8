"""The second process of a worker: opens what the first one has open, waits, and takes over.

The order is: the standby opens the models and proves them by their golden samples; its pipelines load
everything but their sources and sinks; the first process ends each pipeline after its frame in work; the
standby then opens that pipeline's source. Until the first process is asked to end, it can go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from edgekit.agent.config import LimitsTable
from edgekit.agent.ipc import Begin, End, Ended, FailedOver, ModelFailed, Opened, Prepared, Running
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.hosted_model import HostedModel
from edgekit.agent.supervisor.pipelines import Observer, Pipeline
from edgekit.agent.supervisor.worker_process import WorkerProcess

logger = logging.getLogger(__name__)


class First(Protocol):
    """A worker, as its second process sees it."""

    name: str
    models: dict[str, HostedModel]
    pipelines: dict[str, Pipeline]

    @property
    def process(self) -> WorkerProcess | None:
        """The process that has the models and pipelines."""

    def spawn(self) -> WorkerProcess:
        """Return another process, whose messages come to the worker."""

    def adopt(self, process: WorkerProcess, opened: Mapping[str, Running]) -> None:
        """Go on with a process that has the models open, in place of the present one."""


class _Standby:
    """A process that is opening what another one has, and must be ready at ``deadline_s``."""

    def __init__(
        self,
        process: WorkerProcess,
        models: Iterable[HostedModel],
        pipelines: Mapping[str, Pipeline],
        reason: str,
        deadline_s: float,
    ) -> None:
        self.process, self.reason, self.deadline_s = process, reason, deadline_s
        self.pipelines = dict(pipelines)
        self.opened: dict[str, Running] = {}
        self._digests = _digests(models)
        self._prepared: set[str] = set()
        for model in models:
            process.send(model.request())
        for pipeline in self.pipelines.values():
            if pipeline.models:
                process.send(pipeline.request(waits=True))

    def take(self, message: Any) -> str:
        """Take a message of the process; return why it cannot take over, or an empty text."""
        if isinstance(message, Opened):
            self.opened[message.model] = message.running
        elif isinstance(message, Prepared):
            self._prepared.add(message.pipeline)
        elif isinstance(message, (ModelFailed, FailedOver)):
            return f"model {message.model}: {message.reason}"
        elif isinstance(message, Ended):
            return f"pipeline {message.pipeline}: {message.reason}"
        return ""

    @property
    def is_ready(self) -> bool:
        return self.opened.keys() == self._digests.keys() and self._prepared == self.pipelines.keys()

    def outdated(self, models: Iterable[HostedModel], pipelines: Mapping[str, Pipeline]) -> str:
        """Return why it would not continue what the first process runs now; empty if it would."""
        is_same = _digests(models) == self._digests and pipelines == self.pipelines
        return "" if is_same else "other models or pipelines are to run meanwhile"


def _digests(models: Iterable[HostedModel]) -> dict[str, str]:
    """Return which bundle each model runs; one in a swap or trial runs none for certain."""
    running = {model.key: model.running if model.may_pause else None for model in models}
    return {key: "" if runs is None else runs.digest for key, runs in running.items()}


class Succession:
    """Has a second process take over from a worker's first one; on the reactor's thread only."""

    def __init__(self, worker: First, reactor: Reactor, limits: LimitsTable, observer: Observer) -> None:
        self._worker, self._reactor, self._limits, self._observer = worker, reactor, limits, observer
        self._standby: _Standby | None = None
        self._leaving: WorkerProcess | None = None
        self._left: dict[str, Pipeline] = {}
        """What the process that leaves still has."""
        self._discarded: list[WorkerProcess] = []
        self.recycled = self.failures = 0
        """How often the worker's process was replaced as its memory grew; how often a second one failed."""

    @property
    def state(self) -> str:
        """What the second process does: ``opening``, ``handing over``; empty while there is none."""
        if self._standby is not None:
            return "opening"
        return "handing over" if self._leaving is not None else ""

    @property
    def is_over(self) -> bool:
        """Whether there is no second process."""
        return not self.state and not self._discarded

    def begin(self, reason: str) -> None:
        """Start a process that takes over as soon as it has open what the first one has.

        Raises:
            OSError: It cannot be started.
        """
        process = self._worker.spawn()
        logger.warning("worker %s: process %d is to take over: %s", self._worker.name, process.pid, reason)
        deadline_s = self._reactor.now_s() + self._limits.start_s
        self._standby = _Standby(process, self._models(), self._pipelines(), reason, deadline_s)

    def replaced(self, text: str) -> None:
        """Count that the process was replaced, and tell an operator."""
        self.recycled += 1
        logger.warning("worker %s: %s", self._worker.name, text)
        self._observer.alert("warning", "agent.recycled", f"worker {self._worker.name}: {text}", "")
        self._observer.changed()

    def abandon(self, reason: str) -> None:
        """Give the second process up, and tell an operator why."""
        self.failures += 1
        text = f"worker {self._worker.name}: a second process could not take over: {reason}"
        logger.warning("%s", text)
        self._observer.alert("warning", "agent.standby_failed", text, "")
        self.stop()

    def stop(self) -> None:
        """Have no second process that would take over."""
        standby, self._standby = self._standby, None
        if standby is not None:
            self._discarded.append(standby.process)
            standby.process.kill()

    def look(self, now_s: float) -> str:
        """Return why the second process is to be given up, or an empty text. Call it each second."""
        if self._leaving is not None and self._leaving.is_overdue(now_s):
            self._leaving.kill()
        standby, first = self._standby, self._worker.process
        if standby is None:
            return ""
        if first is None or first.is_stopping:
            return "the first process ends"
        if now_s > standby.deadline_s:
            return f"it was not ready within {self._limits.start_s:.0f} s"
        return standby.outdated(self._models(), self._pipelines())

    # -- from the processes

    def takes(self, process: WorkerProcess, message: Any) -> bool:
        """Take a message; return False if the worker is to act on it too."""
        if process is self._worker.process:
            return False
        standby = self._standby
        if standby is None or process is not standby.process:
            is_end = process is self._leaving and isinstance(message, Ended) and message.is_asked
            if is_end:
                self._go_on(message.pipeline)
            return is_end or process is not self._leaving
        reason = standby.take(message)
        if not reason and standby.is_ready:
            reason = standby.outdated(self._models(), self._pipelines())
            if not reason:
                self._hand_over(standby)
        if reason:
            self.abandon(reason)
        return True

    def ended(self, process: WorkerProcess, reason: str) -> None:
        """Act on the end of a second process."""
        standby = self._standby
        if process is self._leaving:
            self._leaving = None
            for name in list(self._left):
                self._go_on(name)
        elif standby is not None and process is standby.process:
            self._standby = None
            self.abandon(f"its process ended: {reason}")
        else:
            self._discarded.remove(process)

    def first_ended(self) -> None:
        """Act on the end of the first process, which is started again by itself."""
        self._left.clear()
        if self._standby is not None:
            self.abandon("the first process ended")

    # -- the handover

    def _hand_over(self, standby: _Standby) -> None:
        """Have the first process end each pipeline after its frame in work."""
        first = self._worker.process
        assert first is not None
        self._standby, self._leaving, self._left = None, first, dict(standby.pipelines)
        self._worker.adopt(standby.process, standby.opened)
        first.stop(self._reactor.now_s() + self._limits.stop_s)
        self.replaced(f"{standby.reason}; process {standby.process.pid} took over from {first.pid}")
        for process, is_shown in ((standby.process, True), (first, False)):
            if process.door is not None:
                process.door.show(is_shown=is_shown, recycled=self.recycled)

    def _go_on(self, name: str) -> None:
        """Have a pipeline that has ended in the process that leaves begin in the other one."""
        if (pipeline := self._left.pop(name, None)) is not None and self._worker.process is not None:
            pipeline.moved()
            goes_on = pipeline.is_in_worker  # else its source has ended, or it has failed
            self._worker.process.send(Begin(pipeline=name) if goes_on else End(pipeline=name))

    def _models(self) -> list[HostedModel]:
        return [model for model in self._worker.models.values() if model.is_hosted]

    def _pipelines(self) -> dict[str, Pipeline]:
        pipelines = self._worker.pipelines.items()
        return {name: pipeline for name, pipeline in pipelines if pipeline.is_in_worker}
