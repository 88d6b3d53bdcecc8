"""One pipeline of a worker: its source, its loop on shared models, and what it reports."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.agent.ipc import (
    NOT_SHARED,
    AlertOut,
    Begin,
    End,
    Ended,
    Kept,
    Offered,
    Prepared,
    Progress,
    Run,
    Running,
    Started,
    Turn,
)
from edgekit.agent.worker.bundle_counters import AgentSink, BundleCounters, TallyMarks
from edgekit.agent.worker.ledger_relay import LedgerRelay
from edgekit.agent.worker.runner import choices_of, make_keeper, make_loop, make_switch
from edgekit.agent.worker.user_counters import UserCounters
from edgekit.agent.worker.versions import OfferedVersions
from edgekit.core.errors import (
    BackendError,
    ConfigError,
    EdgekitError,
    LinkError,
    ModelError,
    SourceError,
    UsageError,
)
from edgekit.core.wire import Alert, StageState
from edgekit.model.ready import Choices
from edgekit.pipeline.config import PipelineConfig, parse_config
from edgekit.pipeline.pre import vision
from edgekit.pipeline.redact import check_redact
from edgekit.pipeline.sources.timing import LEAST_WAIT_S

if TYPE_CHECKING:
    from edgekit.agent.worker.hosted import CountedPredictor
    from edgekit.agent.worker.local_api import LocalApi
    from edgekit.agent.worker.shared_model import SharedModel
    from edgekit.agent.worker.stage_users import StageUsers
    from edgekit.pipeline.budget_keeper import Keeper
    from edgekit.pipeline.loop import Loop
    from edgekit.pipeline.predictor import Predictor
    from edgekit.pipeline.switch import Switch
    from edgekit.pipeline.view import ViewSink
    from edgekit.sync.publishers import Publishers

logger = logging.getLogger(__name__)

MAX_ERRORS = 300
"""Frames in a row that may fail before the pipeline gives up; the supervisor's guards act earlier."""
BEFORE_S, BEFORE_POLL_S = 60.0, 0.05
"""How long a pipeline waits for the end of its run before, whose sinks may have something left to send."""
SOURCE_RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)


def _stage_state(row: dict[str, Any]) -> StageState:
    return StageState(**{name: value for name, value in row.items() if name != "infer_ms"})


class PipelineRun:
    """Runs one pipeline in a thread of its own until its source ends, ``stop``, or an error.

    The end is told to the supervisor by ``Ended``, or by a model's ``ModelFailed``.

    Args:
        request: What to run.
        models: The worker's, by key.
        send: Sends a message to the supervisor.
        api: The local API, if there is one.
        before: The run of the same pipeline before; this one begins once that has left the models.
    """

    config: PipelineConfig
    """Set by the pipeline's thread before it uses the models."""

    def __init__(
        self,
        request: Run,
        models: Mapping[str, SharedModel],
        send: Callable[[Any], None],
        api: LocalApi | None = None,
        before: PipelineRun | None = None,
    ) -> None:
        self.name = request.pipeline
        self._before = before
        self._request, self._send, self._api = request, send, api
        self._model = models[request.model]
        self._later = {stage: models[key] for stage, key in request.later.items()}
        self._viewer: ViewSink | None = None
        self._stopping, self._may_begin = threading.Event(), threading.Event()
        self._relay = LedgerRelay(self.name, send)
        self.versions = OfferedVersions(self.name, send) if request.is_managed else None
        self._publishers: Publishers | None = None
        self._switch: Switch | None = None
        self._sink: AgentSink | None = None
        self._loop: Loop | None = None
        self._stages: StageUsers | None = None
        self._keeper: Keeper | None = None
        self._has_started = self._is_waiting = False
        self._counters = UserCounters(self.name)
        self._marks = TallyMarks()
        self._seen_progress = -1
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name=f"pipeline-{self.name}", daemon=True)

    def start(self) -> None:
        """Start the pipeline's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current frame; safe from any thread."""
        self._stopping.set()
        self._may_begin.set()
        if (loop := self._loop) is not None:
            loop.stop()

    def take(self, message: Begin | End | Kept | Offered | Turn) -> None:
        """Act on a message of the supervisor about this pipeline."""
        if isinstance(message, End):
            self.stop()
        elif isinstance(message, Begin):
            self._may_begin.set()
        elif isinstance(message, Turn):
            self._turn(message)
        elif isinstance(message, Kept):
            if self._sink is not None:
                self._sink.kept(message.number)
        elif self.versions is not None:
            self.versions.take(message)

    def _turn(self, message: Turn) -> None:
        if self._switch is None:
            self._alert("warning", UsageError.code, "is not switched: it is not open yet")
            return
        try:
            self._switch.command(message.to, message.why)
        except UsageError as error:
            self._alert("warning", error.code, f"is not switched: {error.message}")

    def _switched(self) -> None:
        if self._switch is not None:
            turned = self._switch.turned
            text = f"switched {'on' if turned.is_on else 'off'}: {turned.why or 'asked for'}"
            self._alert("info", "pipeline.switched", text)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the pipeline has ended."""
        self._thread.join(timeout_s)

    @property
    def loop(self) -> Loop | None:
        """What runs frames through several models, of which one version each may be in any frame."""
        return None if self._stages is None else self._loop

    def check(self, predictor: Predictor) -> None:
        """Check that it can run on a predictor.

        Raises:
            ConfigError: No model of the pipeline finds a label that it hides.
        """
        later = set() if self._stages is None else self._stages.labels
        redact = [label for label in self.config.privacy.redact if label.casefold() not in later]
        check_redact(redact, predictor)

    @property
    def choices(self) -> Choices:
        """Its thresholds and gallery, in place of the bundle's."""
        return choices_of(self.config)

    @property
    def predictor(self) -> Predictor:
        """What runs now."""
        return self._model.view(self)

    def retune(self, score_threshold: float) -> None:
        """Decode with another threshold from the next frame on, whichever version runs."""
        table = msgspec.structs.replace(self.config.model, score_threshold=score_threshold)
        self.config = msgspec.structs.replace(self.config, model=table)
        self._model.retune(self)

    @property
    def has_ended(self) -> bool:
        """Whether its thread has ended."""
        return not self._thread.is_alive()

    def put(self, predictor: CountedPredictor) -> None:
        """Run another predictor once no frame of the old one is in work; on the lane's thread."""
        self._counters.current = predictor.counters
        if (loop := self._loop) is not None:
            loop.use(predictor)

    def counters(self, running: Running) -> BundleCounters:
        """Return the counters of this pipeline's frames on a variant."""
        return self._counters.of(running)

    # -- the pipeline's thread

    def _run(self) -> None:
        ended = Ended(pipeline=self.name, reason="the source came to its end")
        try:
            if not self._run_pipeline():
                ended = Ended(
                    pipeline=self.name,
                    reason="the model's file keeps state from frame to frame, and has another pipeline",
                    code=NOT_SHARED,
                )
        except LinkError:
            raise  # the supervisor is gone
        except EdgekitError as error:
            logger.error("pipeline %s ends: %s", self.name, error)  # noqa: TRY400 - the message says it all
            ended = self._failure(error)
        else:
            if self._stopping.is_set():
                ended = Ended(pipeline=self.name, reason="stopped", is_asked=True)
        self._model.leave(self)
        if self._stages is not None:
            self._stages.leave()
        if self._publishers is not None:
            self._publishers.close()
        if self._has_started:
            self.report()
        self._relay.flush()
        if not any(model.error for model in self._models):
            self._send(ended)

    @property
    def _models(self) -> list[SharedModel]:
        """Its models, each once, in one order for all pipelines."""
        models = {model.key: model for model in (self._model, *self._later.values())}
        return [models[key] for key in sorted(models)]

    def _failure(self, error: EdgekitError) -> Ended:
        blames = ""
        if isinstance(error, (BackendError, ModelError)):
            blames = (self._stages.blamed(error) if self._stages else "") or self._model.key
        return Ended(
            pipeline=self.name,
            reason="\n".join((error.message, *error.reasons))[:4000],
            code=error.code,
            blames=blames,
            is_final=type(error) is ConfigError or (not self._has_started and isinstance(error, ModelError)),
        )

    def _run_pipeline(self) -> bool:
        """Run it; return False if a model cannot be shared."""
        request, model = self._request, self._model
        self.config = config = parse_config(request.text, request.what, request.folder)
        if not (self._wait_for_before() and all(each.wait(self._stopping) for each in self._models)):
            return True
        self._keeper = make_keeper(config, lambda step: model.vary(self.name, step), self._alert_of_change)
        if config.stages:
            from edgekit.agent.worker.stage_users import StageUsers  # a worker without stages has the memory

            self._stages = StageUsers(self, model, self._later, self._send)
        if not model.join(self) or not (self._stages is None or self._stages.join()):
            return False
        if request.waits:
            self._wait_to_begin()
        self._switch = make_switch(config, self.retune)  # as the process left it that had the pipeline
        self._switch.watch(self._switched)
        with self._shown(), self._counted():
            self._run_source()
        return True

    def _wait_for_before(self) -> bool:
        """Wait for the end of the run before, which still has models that did not fail; False if stopped.

        Raises:
            EdgekitError: It does not end.
        """
        before, self._before = self._before, None
        deadline_s = time.monotonic() + BEFORE_S
        while before is not None and not before.has_ended:
            if self._stopping.wait(BEFORE_POLL_S):
                return False
            if time.monotonic() > deadline_s:
                raise EdgekitError(f"pipeline {self.name!r} has not ended its run before in {BEFORE_S:.0f} s")
        return True

    def _wait_to_begin(self) -> None:
        """Have everything loaded but the source and the sinks, which another process still has."""
        pre = self._model.view(self).manifest.pre
        if not (pre.window or pre.columns):
            vision()
        self._send(Prepared(pipeline=self.name))
        self._may_begin.wait()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Have the local API's metrics say what its lines and zones have counted."""
        if self._api is None or self.config.track is None:
            yield
            return
        self._api.places[self.name] = lambda: {} if self._loop is None else self._loop.places()
        try:
            yield
        finally:
            del self._api.places[self.name]

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        """Have the device's page show the pipeline, if there is one."""
        page = "" if self._api is None else self._api.page()
        if self._api is None or not page:
            yield
            return
        from edgekit.agent.worker.viewing import (  # the server's modules take memory
            PipelineView,
            gate_of,
            reload_agent,
            shape_file_of,
        )
        from edgekit.pipeline.view import ViewSink

        self._viewer = ViewSink()
        gate = gate_of(self.config, self._relay, is_local=page == "local")
        file = shape_file_of(self._request)
        assert self._switch is not None
        view = PipelineView(
            self.config, self._viewer, self, self._switch, gate, self._relay, file, reload_agent
        )
        self._api.show(view)
        try:
            yield
        finally:
            self._api.hide(view)

    def _run_source(self) -> None:
        """Run the pipeline; reopen a lost source, with the model kept loaded."""
        attempt = 0
        while not self._stopping.is_set():
            with contextlib.ExitStack() as making:
                for model in self._models:
                    making.enter_context(model.making)
                loop = self._loop = self._make_loop()
            self._is_waiting = False
            if self._stopping.is_set():  # stop() was called before the loop existed
                return
            if not self._has_started:
                self._has_started = True
                self._send(Started(pipeline=self.name))
            try:
                loop.run()
            except SourceError as lost:
                attempt = 0 if loop.tally.processed else attempt + 1
                self._wait_for_source(lost, attempt)
            else:
                return

    def _wait_for_source(self, lost: SourceError, attempt: int) -> None:
        wait_s = SOURCE_RETRY_S[min(attempt, len(SOURCE_RETRY_S) - 1)]
        wait_s = max(wait_s, LEAST_WAIT_S.get(lost.fault, 0.0))
        logger.warning("the source of %s is lost, trying again in %.1f s: %s", self.name, wait_s, lost)
        if attempt <= 1 and not lost.fault:  # a fault is an alert of its own, see _source_state
            self._alert("error", lost.code, lost.message)
        self._is_waiting = True
        self._stopping.wait(wait_s)

    def _make_loop(self) -> Loop:
        counters, with_pixels = self._counters, "pixels" in self.config.privacy.egress
        if self._sink is None:
            self._sink = AgentSink(counters.of_result, self._send, with_pixels=with_pixels)
        self._marks, view = TallyMarks(), self._model.view(self)
        counters.current = view.counters
        return make_loop(
            self.config,
            view,
            sinks=(self._sink,),
            failover=self._fail_over,
            lane=self._model.lane,
            max_errors=MAX_ERRORS,
            keeper=self._keeper,
            connect=lambda url, **access: self._ways_out().connect(url, **access),
            updates=self.versions,
            post=lambda url, queue, **access: self._ways_out().post(url, queue, **access),
            direct=lambda destination, state: self._ways_out().direct(destination, state),
            viewer=self._viewer,
            switch=self._switch,
            graph=None if self._stages is None else self._stages.graph(),
        )

    def _fail_over(self, lost: Predictor, error: EdgekitError) -> Predictor:
        return self._model.fail_over(self, lost, error)

    def _ways_out(self) -> Publishers:
        """Return the links to the servers that sinks name; they outlive the loop.

        An ``mqtt`` sink without a URL means the agent's own link, which gets every event already.
        """
        from edgekit.sync.publishers import Publishers

        if self._publishers is None:
            self._publishers = Publishers(self.name, self.config.privacy.egress, self._relay)
        return self._publishers

    # -- what it reports, from any thread

    def report(self) -> None:
        """Send the counts since the last report, of each version by itself."""
        self._relay.flush()
        if not self._has_started:
            return
        self._counters.report(self._send, self._with_loop)
        if self._stages is not None:
            self._stages.report()

    def _with_loop(self, progress: Progress) -> Progress:
        changes: dict[str, Any] = self._keeper.document() if self._keeper else {}
        changes["switch"] = self._switch.document() if self._switch else {}
        if self._publishers is not None:
            changes["brokers"] = tuple(self._publishers.states())
        if (loop := self._loop) is not None:
            changes["captured"], changes["dropped"], changes["failovers"] = self._marks.since(loop.tally)
            changes["advanced"] = self._is_waiting or loop.progress != self._seen_progress
            changes["stages"] = tuple(map(_stage_state, loop.stage_rows()))
            changes["places"] = loop.places()
            changes["source"] = self._source_state(loop)
            self._seen_progress = loop.progress
        return msgspec.structs.replace(progress, **changes)

    def _source_state(self, loop: Loop) -> dict[str, Any]:
        """Return the source's state; each new fault of a camera is an alert, and so is its return."""
        state = loop.source_state()
        fault = state["fault"] if state.get("state") == "lost" else ""
        if fault != self._fault and state.get("state") != "opening":
            self._fault = fault
            code = f"source.{fault.lower()}" if fault else "source.back"
            self._alert(
                "error" if fault else "info", code, state.get("reason", "") if fault else "frames come"
            )
        return state

    def _alert_of_change(self, text: str, is_down: bool) -> None:
        self._alert("warning" if is_down else "info", "agent.budget", text)

    def _alert(self, level: Any, code: str, message: str) -> None:
        alert = Alert(
            mono_ns=time.monotonic_ns(),
            unix_ms=time.time_ns() // 1_000_000,
            level=level,
            code=code,
            message=message[:1000],
            pipeline=self.name,
        )
        self._send(AlertOut(alert=alert))
