"""One pipeline in the supervisor: its plan, its state, and what its worker reports of it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

from edgekit.agent.config import LimitsTable, PipelinePlan
from edgekit.agent.ipc import Asked, Ended, EventOut, Kept, LedgerOut, Progress, Run, Running, Started, Turn
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts, Verdict
from edgekit.core.sketch import Histogram
from edgekit.core.wire import PipelineState, Record, StageState

logger = logging.getLogger(__name__)

COUNTED = ("frames", "dropped", "errors", "events", "failovers")
RECENT = 60
"""Progress messages kept, one a second: the baseline of a trial."""
State = Literal["starting", "running", "failed", "stopped"]

Happening = Literal["settled", "swap_failed", "refused", "failed_over", "crashed", "interrupted", "gave_up"]
"""The model runs its target bundle; could not load it and still runs another; the bundle or a pipeline on it
is not valid, and is not started again; lost an accelerator, and runs another variant; ended, and is started
again; ended for no fault of its own; ended too often."""


class Model(Protocol):
    """A hosted model, as pipelines and observers see it; ``managed`` is empty for a pinned one."""

    users: dict[str, Pipeline]
    running: Running | None
    totals: dict[str, int]

    @property
    def key(self) -> str:
        """Its name in messages to its worker."""

    @property
    def managed(self) -> str:
        """The name under which the agent keeps it up to date."""

    @property
    def restarts(self) -> int:
        """How often it was opened again after an unexpected end."""

    @property
    def is_hosted(self) -> bool:
        """Whether a process has it, open or about to be."""

    def send(self, message: Any) -> bool:
        """Send a message to its worker; return False if the process is gone."""

    def end(self, user: Pipeline) -> None:
        """Ask the worker for a pipeline's end."""


class Observer(Protocol):
    """Receives what happens to pipelines and models; each call must return at once."""

    def happened(self, model: Model, what: Happening, reason: str = "") -> None:
        """An event that concerns the update of a model."""

    def progressed(self, pipeline: Pipeline, progress: Progress) -> None:
        """A progress message came."""

    def record(self, pipeline: Pipeline, record: Record) -> None:
        """The worker sent a record for the fleet."""

    def event(self, pipeline: Pipeline, message: EventOut) -> None:
        """The worker sent an event; ``pipeline.kept`` is to be called once it is kept."""

    def left(self, pipeline: Pipeline, message: LedgerOut) -> None:
        """A pipeline's own gates passed or refused data."""

    def asked(self, pipeline: Pipeline, message: Asked) -> None:
        """A sink of a pipeline asks for something about its model."""

    def not_shared(self, pipeline: Pipeline) -> None:
        """A pipeline cannot use the model beside another one, as the file keeps state."""

    def alert(self, level: Literal["info", "warning", "error"], code: str, message: str, name: str) -> None:
        """Alert an operator."""

    def changed(self) -> None:
        """The state to report changed."""


def restarts_of(limits: LimitsTable) -> Restarts:
    """Return a count of crashes under an agent's limits."""
    return Restarts(
        limit=limits.crashes,
        window_s=limits.crash_window_s,
        backoff_s=limits.backoff_s,
        backoff_max_s=limits.backoff_max_s,
    )


class Pipeline:
    """A pipeline on a hosted model. Every method belongs on the reactor's thread."""

    def __init__(self, plan: PipelinePlan, reactor: Reactor, limits: LimitsTable, observer: Observer) -> None:
        self.plan = plan
        self.models: dict[str, Model] = {}
        """What it runs on, by stage, "" for the first; empty until the hardware is known."""
        self.state: State = "starting"
        self.message = ""
        self._recent: dict[str, deque[Progress]] = {}
        """Progress by stage, of the bundle that its model runs."""
        self.brokers: tuple[dict[str, Any], ...] = ()
        self.stages: tuple[StageState, ...] = ()
        self.places: dict[str, Any] = {}
        self.source: dict[str, Any] = {}
        self.switch: dict[str, Any] = {}
        self.totals = dict.fromkeys((*COUNTED, "changes"), 0)
        self.failures = 0
        """How often it ended by an error of its own, and was started again."""
        self.is_in_worker = self.is_over = False
        self.progressed_s = 0.0
        self._reactor, self._observer = reactor, observer
        self._restarts = restarts_of(limits)
        self._setting, self._changes, self._starts = "", 0, 0
        self._then: Callable[[], object] | None = None

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.plan.name

    @property
    def model(self) -> Model | None:
        """What its loop runs on; None until the hardware is known."""
        return self.models.get("")

    def recent(self, model: Model | None) -> list[Progress]:
        """Return the last progress messages of the stages that run on a model, of the bundle it runs."""
        stages = [stage for stage, hosted in self.models.items() if hosted is model]
        return [progress for stage in stages for progress in self._recent.get(stage, ())]

    def names_on(self, model: Model) -> list[str]:
        """Return what of it runs on a model: its name for the first, ``pipeline/stage`` for a later stage."""
        stages = [stage for stage, hosted in self.models.items() if hosted is model]
        return ["/".join(filter(None, (self.name, stage))) for stage in stages]

    def forget(self, model: Model) -> None:
        """Forget the progress of the stages that run on a model."""
        for stage, hosted in self.models.items():
            if hosted is model:
                self._recent.pop(stage, None)

    @property
    def running(self) -> Running | None:
        """What its first model runs, or None."""
        return None if self.model is None else self.model.running

    @property
    def restarts(self) -> int:
        """How often it was started again after an unexpected end, of its process, its model, or its own."""
        return self.failures + max((model.restarts for model in self.models.values()), default=0)

    # -- its life in a worker

    def start(self) -> None:
        """Have the worker run it, unless it already does, is not to run, or a model of it is not there."""
        self._starts += 1
        if self.is_in_worker or self.is_over or self._then is not None or self.model is None:
            return
        if not all(model.is_hosted for model in self.models.values()):
            return
        self.is_in_worker = self.model.send(self.request())
        self.state = "starting"
        self.moved()

    def request(self, *, waits: bool = False) -> Run:
        """Return the request to run it on its models."""
        plan, keys = self.plan, {stage: model.key for stage, model in self.models.items()}
        return Run(
            pipeline=plan.name,
            model=keys.pop(""),
            later=keys,
            text=plan.text,
            what=plan.what,
            folder=str(plan.folder),
            is_managed=bool(plan.first.managed),
            waits=waits,
        )

    def moved(self) -> None:
        """Note that it begins in a process from now on."""
        self._setting, self._changes = "", 0
        self.progressed_s = self._reactor.now_s()

    def started(self, _: Started) -> None:
        """Note that its frames flow."""
        self.state, self.message = "running", ""
        self.progressed_s = self._reactor.now_s()
        self._observer.changed()

    def turn(self, to: str, why: str) -> bool:
        """Have its worker turn its switch; return False where no process runs it."""
        if not self.is_in_worker or self.model is None:
            return False
        return self.model.send(Turn(pipeline=self.name, to=to, why=why))

    def kept(self, number: int) -> None:
        """Tell its worker that the events up to a number are kept."""
        if self.is_in_worker and self.model is not None:
            self.model.send(Kept(pipeline=self.name, number=number))

    def revive(self) -> None:
        """Allow it to start again, though it came to its end or is not valid: another bundle is to run."""
        self.is_over = False
        self._restarts.forget()

    def leave(self, then: Callable[[], object]) -> None:
        """End it in its worker, then call ``then``, in place of what was to be called before."""
        if not self.is_in_worker or self.model is None:
            then()
            return
        self.is_over, self._then = True, then
        self.model.end(self)

    def stay(self) -> None:
        """Have it start again at its end, if it was asked to ``leave`` and has not ended yet."""
        if self._then is not None:
            self._then = self._again

    def gone(self, reason: str = "") -> None:
        """Note that the worker no longer runs it, with its process or its model."""
        self.is_in_worker = False
        if self._then is not None:
            then, self._then = self._then, None
            then()
        elif not self.is_over:
            self.state, self.message = "starting", reason

    def failed(self, reason: str) -> None:
        """Show it as failed, though it may be started again."""
        if not self.is_over:
            self.state, self.message = "failed", reason

    def hung(self, reason: str) -> None:
        """End and start it again, while the others of its process go on."""
        self.failures += 1
        logger.error("pipeline %s %s", self.name, reason)
        self._observer.alert("error", "agent.pipeline_ended", reason, self.name)
        self.leave(self._again)

    def _again(self) -> None:
        self.is_over = False
        self.state = "starting"
        self.start()

    def ended(self, message: Ended) -> None:
        """Act on its end: it is started again after an error that may pass."""
        if self._then is not None or self.is_over or message.is_asked:
            self.gone()
            self.start()  # if the model was freed and opened again meanwhile
            return
        self.gone(message.reason)
        self._recent.clear()
        if not message.code:
            self.state, self.is_over = "stopped", True
            logger.info("pipeline %s: %s", self.name, message.reason)
        elif message.is_final:
            self.state, self.is_over = "failed", True
            self._observer.alert("error", message.code, message.reason, self.name)
        else:
            self._crashed(message)
        self._observer.changed()

    def _crashed(self, message: Ended) -> None:
        self.failures += 1
        verdict = self._restarts.crashed(self._reactor.now_s())
        logger.error("pipeline %s ended: %s", self.name, message.reason)
        self._observer.alert("error", "agent.pipeline_ended", message.reason, self.name)
        if verdict is Verdict.GIVE_UP:
            self.state = "failed"
            self._observer.alert("error", "agent.pipeline_failed", message.reason, self.name)
        self._starts += 1
        number = self._starts
        self._reactor.after(self._restarts.delay_s, lambda: self._start_again(number))

    def _start_again(self, number: int) -> None:
        if number == self._starts:
            self.start()

    # -- its counts

    def progressed(self, progress: Progress) -> None:
        """Add a progress message, of the pipeline or of the model of a later stage."""
        model = self.models.get(progress.stage)
        running = None if model is None else model.running
        if running is not None and progress.running.digest == running.digest:
            self._recent.setdefault(progress.stage, deque(maxlen=RECENT)).append(progress)
        if not progress.stage:
            self._advanced(progress)
        self._observer.progressed(self, progress)

    def _advanced(self, progress: Progress) -> None:
        if progress.advanced:
            self.progressed_s = self._reactor.now_s()
        for total in COUNTED:
            self.totals[total] += getattr(progress, total)
        self.brokers = progress.brokers or self.brokers
        self.stages, self.places = progress.stages or self.stages, progress.places or self.places
        self.source, self.switch = progress.source, progress.switch
        if progress.changes > self._changes:
            self.totals["changes"] += progress.changes - self._changes
            self._changes = progress.changes
        if progress.setting != self._setting:
            self._setting = progress.setting
            self._observer.changed()

    def reported(self) -> PipelineState:
        """Return the pipeline's state to report."""
        running, model = self.running, self.model
        latency, recent = Histogram(), list(self._recent.get("", ()))
        for progress in recent:
            if progress.latency_ms is not None:
                latency.merge(Histogram.from_wire(progress.latency_ms))
        last = recent[-10:]
        seconds = sum(progress.period_s for progress in last)
        return PipelineState(
            state=self.state,
            model=running.model if running else self.plan.first.name,
            version=running.version if running else "",
            variant=running.variant if running else "",
            fps=round(sum(progress.frames for progress in last) / seconds, 2) if seconds else 0.0,
            p95_ms=round(latency.quantile(0.95), 3),
            frames=self.totals["frames"],
            dropped=self.totals["dropped"],
            errors=self.totals["errors"],
            restarts=self.restarts,
            failovers=self.totals["failovers"],
            returns=model.totals["returns"] if model else 0,
            message=self.message,
            setting=self._setting,
            changes=self.totals["changes"],
            stages=self.stages,
        )
