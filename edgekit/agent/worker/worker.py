"""The process that runs one pipeline for the supervisor: ``python -m edgekit.agent.worker --channel FD``.

All native code runs here. A crash ends only this process, and the supervisor restarts it. It ends by itself
when the supervisor closes the channel.
"""

from __future__ import annotations

import argparse
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
    Opening,
    Progress,
    Returned,
    Run,
    Started,
    StillLost,
    Stop,
    Swap,
    SwapFailed,
    Swapped,
    ToWorker,
    TrialProgress,
    TryAgain,
)
from edgekit.agent.worker.bundle_counters import AgentSink, BundleCounters, TallyMarks
from edgekit.agent.worker.hosted import Hosted, host
from edgekit.agent.worker.ledger_relay import LedgerRelay
from edgekit.agent.worker.runner import make_loop
from edgekit.base.logs import log_to_stderr
from edgekit.base.signals import die_with_parent
from edgekit.core.errors import ConfigError, EdgekitError, LinkError, ProtocolError, SourceError
from edgekit.core.wire import Alert
from edgekit.pipeline.config import PipelineConfig, parse_config
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.redact import check_redact

if TYPE_CHECKING:
    from edgekit.core.ports import Result
    from edgekit.pipeline.predictor import Predictor
    from edgekit.sync.publishers import Publishers

logger = logging.getLogger(__name__)

MAX_ERRORS = 300
"""Frames in a row that may fail before the process gives up; the supervisor's guards act earlier."""
SOURCE_RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STOP_S = 5.0


class Models:
    """The running bundle, and the previous one while it is kept loaded during a trial.

    Threads: the loop's calls ``counters_of`` and ``fail_over``, the swap's everything else.
    """

    def __init__(self, active: Hosted) -> None:
        self.active = active
        self.kept: Hosted | None = None
        self._coming: Hosted | None = None
        self._lock = threading.Lock()

    def counters_of(self, result: Result) -> BundleCounters:
        """Return the counters of the bundle that a result is from."""
        key = (result.model, result.version, result.variant)
        coming = self._coming
        return coming.counters if coming is not None and coming.key == key else self.active.counters

    def switch(self, new: Hosted, loop: Loop | None) -> tuple[Hosted, float]:
        """Activate a bundle between two frames; return the old one and the gap in milliseconds."""
        self._coming = new
        began_ns = time.monotonic_ns()
        if loop is not None:
            loop.swap(new.predictor)
        gap_ms = (time.monotonic_ns() - began_ns) / 1e6
        with self._lock:
            old, self.active, self._coming = self.active, new, None
        return old, gap_ms

    def replace_lost(self, new: Hosted) -> Hosted:
        """Activate another variant after an accelerator was lost; return the lost one."""
        with self._lock:
            old, self.active = self.active, new
        return old

    def close(self) -> None:
        """Free every model."""
        for hosted in (self.active, self.kept, self._coming):
            if hosted is not None:
                hosted.close()


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
        self._is_waiting = False
        self._swapping: threading.Thread | None = None
        self._trying: threading.Thread | None = None
        self._excluded: dict[str, str] = dict(run.exclude)
        self._marks = TallyMarks()
        self._reported_ns = time.monotonic_ns()
        self._seen_progress = -1

    def run(self) -> None:
        """Load the model and run the pipeline until it ends or ``stop``.

        Raises:
            EdgekitError: The worker cannot continue.
        """
        hosted = self._open(self._run.model, exclude=self._excluded)
        self._models = Models(hosted)
        self._send(Started(running=hosted.running, load_ms=hosted.ready.load_ms))
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

    def _open(self, path: str, **more: Any) -> Hosted:
        """Open a bundle's best variant, announcing each one tried in case it crashes this process."""

        def on_try(variant: str, left: int) -> None:
            self._send(Opening(variant=variant, left=left))

        return host(path, self._config.model, self._run.threads, on_try=on_try, **more)

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
            loop = self._make_loop()
            self._loop, self._is_waiting = loop, False
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
            max_errors=MAX_ERRORS,
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
        """Load the next variant of the same bundle after an accelerator was lost.

        Raises:
            NoVariantError: There is no other.
        """
        models = self._require_models()
        began_ns = time.monotonic_ns()
        self._excluded[predictor.variant.id] = f"lost its accelerator: {lost}"
        predictor.close()
        hosted = self._open(models.active.path, exclude=self._excluded)
        old = models.replace_lost(hosted)
        self._send_progress(old)
        took_ms = (time.monotonic_ns() - began_ns) / 1e6
        self._send(
            FailedOver(lost=old.running.variant, reason=str(lost), running=hosted.running, took_ms=took_ms)
        )
        return hosted.predictor

    # -- the reader's thread

    def take(self, message: Any) -> None:
        """Act on a message of the supervisor; a swap is prepared in a thread of its own."""
        if isinstance(message, Stop):
            self.stop()
        elif isinstance(message, Keep):
            self._drop_kept()
        elif isinstance(message, TryAgain):
            self._trying = threading.Thread(
                target=self._try_again, args=(message.variant,), name=f"try-{message.variant}", daemon=True
            )
            self._trying.start()
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
            models.kept.close()
            models.kept = None

    # -- the swap's thread

    def _try_again(self, variant: str) -> None:
        """Switch back to a lost variant if it works again."""
        models = self._require_models()
        try:
            new = self._open(models.active.path, variant=variant, prove=True, exclude={})
        except EdgekitError as error:
            reason = "; ".join((error.message, *error.reasons))[:2000]
            self._send(StillLost(variant=variant, reason=reason))
            return
        left = models.active.running.left + 1  # what ran until now could take over again
        why = f"{variant}: tried again, and works\n{models.active.running.why}"[:4000]
        new.running = msgspec.structs.replace(new.running, left=left, why=why)
        old, _ = models.switch(new, self._loop)
        self._send_progress(old)
        self._excluded.pop(variant, None)
        old.close()
        self._send(Returned(running=new.running))

    def _swap(self, request: Swap) -> None:
        if self._trying is not None:
            self._trying.join()  # both put another model in place of the active one
        try:
            self._swap_to(request)
        except EdgekitError as error:
            reason = "; ".join((error.message, *error.reasons))[:2000]
            self._send(SwapFailed(swap=request.swap, purpose=request.purpose, code=error.code, reason=reason))

    def _swap_to(self, request: Swap) -> None:
        models = self._require_models()
        kept = models.kept
        if request.purpose == "rollback" and kept is not None:
            new, models.kept = kept, None
        else:
            self._send(TrialProgress(swap=request.swap, stage="loading"))
            new = self._host(request.path)
        self._send(TrialProgress(swap=request.swap, stage="ready"))
        old, gap_ms = models.switch(new, self._loop)
        self._send_progress(old)
        self._excluded = {}
        if request.purpose == "trial":
            models.kept = old
        else:
            old.close()
        self._send(
            Swapped(
                swap=request.swap,
                purpose=request.purpose,
                running=new.running,
                load_ms=new.ready.load_ms,
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
            new.close()
            raise
        return new

    # -- the reporter's thread

    def _report_all(self) -> None:
        while not self._stopping.wait(self._run.progress_s):
            self._report()

    def _report(self) -> None:
        self._relay.flush()
        self._send_progress(self._require_models().active)

    def _send_progress(self, hosted: Hosted) -> None:
        now_ns = time.monotonic_ns()
        progress: Progress = hosted.counters.take(hosted.running, (now_ns - self._reported_ns) / 1e9)
        self._reported_ns = now_ns
        if self._publishers is not None:
            progress = msgspec.structs.replace(progress, brokers=tuple(self._publishers.states()))
        loop = self._loop
        if loop is not None:
            captured, dropped, failovers = self._marks.since(loop.tally)
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
