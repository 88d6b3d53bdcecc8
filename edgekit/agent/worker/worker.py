"""The process that runs one pipeline for the supervisor: ``python -m edgekit.agent.worker --channel FD``.

All native code runs here. A crash ends only this process, and the supervisor restarts it. It ends by itself
when the supervisor closes the channel.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.agent.ipc import (
    AlertOut,
    BlockingChannel,
    Ended,
    FailedOver,
    Fatal,
    Keep,
    Progress,
    Returned,
    Run,
    Running,
    Started,
    Stop,
    Swap,
    SwapFailed,
    Swapped,
    ToWorker,
    TrialProgress,
    Varied,
)
from edgekit.agent.worker.bundle_counters import AgentSink, BundleCounters, TallyMarks
from edgekit.agent.worker.hosted import Hosted, running_of
from edgekit.agent.worker.ledger_relay import LedgerRelay
from edgekit.agent.worker.runner import choices_of, make_keeper, make_loop
from edgekit.base.logs import log_to_stderr
from edgekit.base.signals import die_with_parent
from edgekit.core.errors import ConfigError, EdgekitError, LinkError, ProtocolError, SourceError
from edgekit.core.wire import Alert
from edgekit.model.exclusions import Exclusions
from edgekit.pipeline.budget_keeper import Keeper
from edgekit.pipeline.config import PipelineConfig, parse_config
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.redact import check_redact

if TYPE_CHECKING:
    from edgekit.core.ports import Result
    from edgekit.model.ready import ReadyModel
    from edgekit.pipeline.predictor import Predictor
    from edgekit.sync.publishers import Publishers

logger = logging.getLogger(__name__)

MAX_ERRORS = 300
"""Frames in a row that may fail before the process gives up; the supervisor's guards act earlier."""
SOURCE_RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STOP_S = 5.0


class Models:
    """The running bundle, and the previous one while it is kept loaded during a trial."""

    def __init__(self, active: Hosted) -> None:
        self.active = active
        self.kept: Hosted | None = None
        self._coming: Hosted | None = None

    def of(self, version: str, variant: str) -> Hosted:
        """Return the bundle that a variant is of: the running one, or one that is being put in place."""
        coming = self._coming
        is_coming = coming is not None and coming.running.version == version and variant in coming.counters
        return coming if coming is not None and is_coming else self.active

    def counters_of(self, result: Result) -> BundleCounters:
        """Return the counters of the bundle and variant that a result is from."""
        return self.of(result.version, result.variant).counters[result.variant]

    def switch(self, new: Hosted, loop: Loop | None) -> tuple[Hosted, float]:
        """Activate a bundle between two frames; return the old one and the gap in milliseconds."""
        self._coming = new
        began_ns = time.monotonic_ns()
        if loop is not None:
            loop.swap(new.predictor)
        gap_ms = (time.monotonic_ns() - began_ns) / 1e6
        old, self.active, self._coming = self.active, new, None
        return old, gap_ms

    def close(self) -> None:
        """Free every model."""
        for hosted in (self.active, self.kept, self._coming):
            if hosted is not None:
                hosted.holder.close()


class Worker:
    """Runs one pipeline, reports progress each second, and swaps its model on request.

    Raises:
        ConfigError: The pipeline's configuration is not valid.
    """

    def __init__(self, send: Callable[[Any], None], run: Run) -> None:
        self._send, self._run = send, run
        self._config: PipelineConfig = parse_config(run.pipeline, run.what, run.folder)
        self._stopping = threading.Event()
        self._relay = LedgerRelay(send)
        self._publishers: Publishers | None = None
        self._models: Models | None = None
        self._loop: Loop | None = None
        self._making = threading.Lock()  # so that no variant returns to a loop that is being replaced
        self._varying = threading.Lock()  # so that no variant of another version is put in its place
        self._keeper: Keeper | None = None
        self._is_waiting = False
        self._swapping: threading.Thread | None = None
        self._exclusions = {
            digest: Exclusions(self._config.fallback.retry_s, rows) for digest, rows in run.exclude.items()
        }
        self._marks = TallyMarks()
        self._reported_ns = time.monotonic_ns()
        self._seen_progress = -1

    def run(self) -> None:
        """Load the model and run the pipeline until it ends or ``stop``.

        Raises:
            EdgekitError: The worker cannot continue.
        """
        hosted = self._open(self._run.model)
        self._models = Models(hosted)
        self._keeper = make_keeper(self._config, self._vary, self._alert_of_change)
        self._send(Started(running=hosted.running, load_ms=hosted.holder.ready.load_ms))
        hosted.holder.watch(self._return_to)
        reporter = threading.Thread(target=self._report_all, name="reporter", daemon=True)
        reporter.start()
        try:
            self._run_source()
        finally:
            was_stopped = self._stopping.is_set()
            self._stopping.set()
            reporter.join(STOP_S)
            if self._publishers is not None:
                self._publishers.close()
            self._relay.flush()
        self._report()
        self._send(Ended(reason="stopped" if was_stopped else "the source came to its end"))
        self._models.close()

    def _open(self, path: str) -> Hosted:
        """Open a bundle's best variant."""
        config = self._config
        choices = choices_of(config)
        choices = dataclasses.replace(choices, threads=choices.threads or self._run.threads or None)
        return Hosted(path, choices, self._exclusions, self._send, config.fallback)

    def stop(self) -> None:
        """End after the current frame; safe from any thread."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            loop.stop()

    # -- the loop's thread

    def _run_source(self) -> None:
        """Run the pipeline; reopen a lost source, with the model kept loaded."""
        attempt = 0
        while not self._stopping.is_set():
            with self._making:
                loop = self._loop = self._make_loop()
            self._is_waiting = False
            if self._stopping.is_set():  # stop() was called before the loop existed
                return
            try:
                loop.run()
            except SourceError as lost:
                attempt = 0 if loop.tally.processed else attempt + 1
                self._wait_for_source(lost, attempt)
            else:
                return

    def _wait_for_source(self, lost: SourceError, attempt: int) -> None:
        wait_s = SOURCE_RETRY_S[min(attempt, len(SOURCE_RETRY_S) - 1)]
        logger.warning("the source is lost, trying again in %.1f s: %s", wait_s, lost)
        if attempt <= 1:
            self._alert("error", lost.code, lost.message)
        self._is_waiting = True
        self._stopping.wait(wait_s)

    def _make_loop(self) -> Loop:
        models = self._require_models()
        sink = AgentSink(models.counters_of, self._send, with_pixels="pixels" in self._config.privacy.egress)
        self._marks = TallyMarks()
        return make_loop(
            self._config,
            models.active.predictor,
            sinks=(sink,),
            failover=self._fail_over,
            recheck=self._recheck,
            max_errors=MAX_ERRORS,
            keeper=self._keeper,
            connect=self._connect,
        )

    def _connect(self, url: str, **access: Any) -> Callable[[str, Mapping[str, Any]], object]:
        """Return the publish function of a broker that an ``mqtt`` sink names; it outlives the loop.

        Without a URL such a sink means the agent's own link, which gets every event already.

        Raises:
            ConfigError: The address or credentials are not valid.
        """
        from edgekit.sync.publishers import Publishers

        if self._publishers is None:
            config = self._config
            self._publishers = Publishers(config.pipeline.name, config.privacy.egress, self._relay)
        return self._publishers.connect(url, **access)

    def _fail_over(self, predictor: Predictor, lost: EdgekitError) -> Predictor:
        """Run the next variant of the same bundle after this one was lost, or was wrong.

        Raises:
            NoVariantError: There is no other.
        """
        hosted = self._hosted(predictor)
        began_ns, before = time.monotonic_ns(), hosted.running
        new = hosted.holder.fail_over(predictor, lost)
        self._send_progress(hosted, before)
        took_ms = (time.monotonic_ns() - began_ns) / 1e6
        running = hosted.running
        reason = hosted.holder.exclusions.rows[predictor.variant.id].reason
        self._send(FailedOver(lost=predictor.variant.id, reason=reason, running=running, took_ms=took_ms))
        return new

    def _recheck(self, predictor: Predictor, waiting: int) -> bool:
        return self._hosted(predictor).holder.recheck(predictor, waiting)

    def _hosted(self, predictor: Predictor) -> Hosted:
        return self._require_models().of(predictor.manifest.version, predictor.variant.id)

    # -- the reader's thread

    def take(self, message: Any) -> None:
        """Act on a message of the supervisor; a swap is prepared in a thread of its own."""
        if isinstance(message, Stop):
            self.stop()
        elif isinstance(message, Keep):
            self._drop_kept()
        elif isinstance(message, Swap):
            if self._swapping is not None and self._swapping.is_alive():
                self._send(
                    SwapFailed(
                        swap=message.swap,
                        purpose=message.purpose,
                        code="edgekit.busy",
                        reason="another swap is being prepared",
                    )
                )
                return
            self._swapping = threading.Thread(
                target=self._swap, args=(message,), name=f"swap-{message.swap}", daemon=True
            )
            self._swapping.start()

    def _drop_kept(self) -> None:
        models = self._models
        if models is not None and models.kept is not None:
            models.kept.holder.close()
            models.kept = None
            models.active.holder.watch(self._return_to)

    # -- the swap's thread

    def _swap(self, request: Swap) -> None:
        models = self._require_models()
        models.active.holder.rest()  # a lost variant would take its place, and its memory
        try:
            with self._varying:
                self._swap_to(request)
        except EdgekitError as error:
            reason = error.one_line()[:2000]
            self._send(SwapFailed(swap=request.swap, purpose=request.purpose, code=error.code, reason=reason))
        if models.kept is None:  # else a trial is judged first
            models.active.holder.watch(self._return_to)

    def _swap_to(self, request: Swap) -> None:
        models = self._require_models()
        kept = models.kept
        if request.purpose == "rollback" and kept is not None:
            new, models.kept = kept, None
        else:
            self._send(TrialProgress(swap=request.swap, stage="loading"))
            new = self._host(request.path)
        self._send(TrialProgress(swap=request.swap, stage="ready"))
        before = models.active.running
        old, gap_ms = models.switch(new, self._loop)
        self._send_progress(old, before)
        if request.purpose == "trial":
            models.kept = old
        else:
            old.holder.close()
        self._send(
            Swapped(
                swap=request.swap,
                purpose=request.purpose,
                running=new.running,
                load_ms=new.holder.ready.load_ms,
                gap_ms=gap_ms,
            )
        )

    def _host(self, path: str) -> Hosted:
        """Open a bundle that has the labels to redact.

        Raises:
            EdgekitError: It cannot be opened, or a label is missing.
        """
        new = self._open(path)
        try:
            check_redact(self._config.privacy.redact, new.predictor)
        except ConfigError:
            new.holder.close()
            raise
        return new

    # -- the holder's thread

    def _return_to(self, old: ReadyModel, new: ReadyModel) -> None:
        """Run a lost variant that works again."""
        self._put(old, new)
        self._send(Returned(running=running_of(new)))

    def _put(self, old: ReadyModel, new: ReadyModel) -> None:
        with self._making:
            if self._loop is not None:
                self._loop.swap(new.predictor)
        self._send_progress(self._require_models().active, running_of(old))

    # -- the budget

    def _vary(self, step: int) -> None:
        """Run another variant of the active bundle, in the keeper's thread.

        Raises:
            EdgekitError: It cannot be opened, or a version is on trial.
        """
        models = self._require_models()
        with self._varying:
            if models.kept is not None:
                raise EdgekitError("a new version is on trial")
            try:
                models.active.holder.change_to(step, self._put)
            finally:
                self._send(Varied(running=models.active.running))

    def _alert_of_change(self, text: str, is_down: bool) -> None:
        self._alert("warning" if is_down else "info", "agent.budget", text)

    # -- the reporter's thread

    def _report_all(self) -> None:
        while not self._stopping.wait(self._run.progress_s):
            self._report()

    def _report(self) -> None:
        self._relay.flush()
        active = self._require_models().active
        self._send_progress(active, active.running)

    def _send_progress(self, hosted: Hosted, running: Running) -> None:
        now_ns = time.monotonic_ns()
        counters = hosted.counters[running.variant]
        progress: Progress = counters.take(running, (now_ns - self._reported_ns) / 1e9)
        progress = msgspec.structs.replace(progress, rechecks=dict(hosted.holder.rechecks))
        self._reported_ns = now_ns
        if self._publishers is not None:
            progress = msgspec.structs.replace(progress, brokers=tuple(self._publishers.states()))
        loop = self._loop
        if loop is not None:
            captured, dropped, failovers = self._marks.since(loop.tally)
            given_up = self._keeper.document() if self._keeper else {}
            advanced = self._is_waiting or loop.progress != self._seen_progress
            inferring = loop.is_inferring
            self._seen_progress = loop.progress
            progress = msgspec.structs.replace(
                progress,
                captured=captured,
                dropped=dropped,
                failovers=failovers,
                advanced=advanced,
                inferring=inferring,
                **given_up,
            )
        self._send(progress)

    def _alert(self, level: Any, code: str, message: str) -> None:
        alert = Alert(
            mono_ns=time.monotonic_ns(),
            unix_ms=time.time_ns() // 1_000_000,
            level=level,
            code=code,
            message=message[:1000],
            pipeline=self._config.pipeline.name,
        )
        self._send(AlertOut(alert=alert))

    def _require_models(self) -> Models:
        assert self._models is not None
        return self._models


# ---------------------------------------------------------------------------------------------
# The process


def serve(channel: BlockingChannel) -> int:
    """Run the pipeline that the supervisor's first message names; return the exit code."""
    messages = iter(channel)
    first = next(messages, None)
    if not isinstance(first, Run):
        return 0 if first is None else 1
    try:
        worker = Worker(channel.send, first)
        reader = threading.Thread(target=_read, args=(messages, worker), name="reader", daemon=True)
        reader.start()
        worker.run()
    except LinkError:
        return 0  # the supervisor is gone
    except EdgekitError as error:
        logger.error("the worker ends: %s", error)  # noqa: TRY400 - the message says it all
        text = "\n".join((error.message, *error.reasons))[:4000]
        channel.send(Fatal(code=error.code, exit_code=error.exit_code, message=text))
        return error.exit_code
    return 0


def _read(messages: Any, worker: Worker) -> None:
    """Pass messages to the worker until the supervisor's end closes; then end this process in any case."""
    try:
        for message in messages:
            worker.take(message)
    except (LinkError, ProtocolError) as error:
        logger.warning("the supervisor's channel failed: %s", error)
    worker.stop()
    time.sleep(STOP_S)
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Run the process."""
    parser = argparse.ArgumentParser(prog="edgekit-worker")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of a connected socket")
    parser.add_argument("--verbose", action="store_true")
    parsed = parser.parse_args(arguments)
    log_to_stderr(logging.DEBUG if parsed.verbose else logging.INFO)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles a terminal's Ctrl-C
    threading.excepthook = _end_process
    return serve(BlockingChannel(socket.socket(fileno=parsed.channel), ToWorker))


def _end_process(arguments: Any) -> None:
    """End the process on a bug in any thread, so that the supervisor restarts it."""
    if issubclass(arguments.exc_type, LinkError):
        os._exit(0)
    logger.critical("a thread died", exc_info=arguments.exc_value)
    os._exit(1)
