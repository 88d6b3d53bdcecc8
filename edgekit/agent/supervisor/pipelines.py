"""One pipeline in the supervisor: keeps a worker process running the target bundle."""

from __future__ import annotations

import logging
import selectors
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from edgekit.agent.config import LimitsTable, PipelinePlan
from edgekit.agent.ipc import (
    AlertOut,
    Ended,
    EventOut,
    FailedOver,
    Fatal,
    Keep,
    LedgerOut,
    Opening,
    Progress,
    Purpose,
    Returned,
    Run,
    Running,
    Started,
    StillLost,
    Swap,
    SwapFailed,
    Swapped,
    Varied,
)
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts, Verdict
from edgekit.agent.supervisor.excluded import Excluded
from edgekit.agent.supervisor.worker_process import WorkerProcess
from edgekit.base.child import exit_reason, is_native_crash
from edgekit.core.errors import BundleError, ConfigError, LinkError, ProtocolError
from edgekit.core.sketch import Histogram
from edgekit.core.wire import PipelineState, Record

logger = logging.getLogger(__name__)

COUNTED = ("frames", "dropped", "errors", "events", "failovers")
RECENT = 60
"""Progress messages kept, one a second: the baseline of a trial."""
State = Literal["starting", "running", "failed", "stopped"]


Happening = Literal["settled", "swap_failed", "refused", "failed_over", "crashed", "gave_up"]
"""The worker runs the target bundle; could not load it and still runs another; does not fit it, and is not
restarted; lost an accelerator, and runs another variant; ended, and is restarted; ended too often."""


class Observer(Protocol):
    """Receives a pipeline's events; each call must return at once."""

    def happened(self, pipeline: Pipeline, what: Happening, reason: str = "") -> None:
        """An event that concerns the update of the pipeline's model."""

    def progressed(self, pipeline: Pipeline, progress: Progress) -> None:
        """A progress message came."""

    def record(self, pipeline: Pipeline, record: Record) -> None:
        """The worker sent a record for the fleet."""

    def left(self, pipeline: Pipeline, message: LedgerOut) -> None:
        """The worker's own gates passed or refused data."""

    def alert(self, level: Literal["info", "warning", "error"], code: str, message: str, name: str) -> None:
        """Alert an operator."""

    def changed(self) -> None:
        """The state to report changed."""


class Pipeline:
    """Keeps one worker process on the target bundle: starts it, swaps the bundle, restarts with backoff.

    Every method belongs on the reactor's thread. The worker reports every ``progress_s`` seconds. What its
    variants were excluded for is kept in a file below ``state``.
    """

    def __init__(
        self,
        plan: PipelinePlan,
        reactor: Reactor,
        limits: LimitsTable,
        environment: Mapping[str, str],
        observer: Observer,
        state: Path,
        progress_s: float = 1.0,
    ) -> None:
        self.plan = plan
        self._progress_s = progress_s
        self.state: State = "starting"
        self.message = ""
        self.running: Running | None = None
        self.recent: deque[Progress] = deque(maxlen=RECENT)
        self._recent_of = ""
        self.brokers: tuple[dict[str, Any], ...] = ()
        self.rechecks: dict[str, int] = {}
        self._since_unix_s = 0.0
        self._setting, self._changes = "", 0
        self.totals = dict.fromkeys((*COUNTED, "malformed", "returns", "failed_returns", "changes"), 0)
        self._reactor, self._limits, self._environment = reactor, limits, environment
        self._observer = observer
        self._restarts = Restarts(
            limit=limits.crashes,
            window_s=limits.crash_window_s,
            backoff_s=limits.backoff_s,
            backoff_max_s=limits.backoff_max_s,
        )
        self._target: Path | None = None
        self._purpose: Purpose = "switch"
        self._actual: Path | None = None
        self._kept: Path | None = None
        self._pending: tuple[int, Path, float] | None = None
        self._swaps = 0
        self._process: WorkerProcess | None = None
        self._given: Path | None = None
        path = state / "excluded" / f"{plan.name}.json"
        self._excluded = Excluded(path, reactor.now_s(), plan.retry_s)
        self._suspect = Opening(digest="", variant="", left=0)
        self._is_suspect_guilty = self._is_inferring = False
        self._end: Ended | Fatal | None = None
        self._why_killed = ""
        self._is_asked = False
        self._starts = 0
        self._is_stopping = False

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.plan.name

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None."""
        return None if self._process is None else self._process.pid

    @property
    def is_settled(self) -> bool:
        """Whether the worker runs the target bundle."""
        return self._target is not None and self._actual == self._target and self.state == "running"

    @property
    def is_on_its_way(self) -> bool:
        """Whether a worker may still reach the target bundle, or crash too often trying."""
        may_come = self._target is not None and not self._is_stopping
        return may_come and not self.is_settled and self.state in ("starting", "running")

    @property
    def restarts(self) -> int:
        """How often the worker ended unexpectedly."""
        return self._restarts.total

    @property
    def excluded(self) -> dict[str, str]:
        """Variants that are not run for now, and why."""
        return self._excluded.reasons(self._suspect.digest or self._recent_of)

    @property
    def fallback(self) -> dict[str, Any]:
        """The running pair's position ``at`` among ``of``, from 0; why, and since when, in Unix seconds."""
        running = self.running
        if running is None:
            return {}
        lost = self.excluded if running.at else {}
        return {
            "at": running.at,
            "of": running.of,
            "reason": "; ".join(f"{variant}: {why}" for variant, why in lost.items()),
            "since": round(self._since_unix_s),
        }

    def run_on(self, target: Path | None, purpose: Purpose = "switch") -> None:
        """Have the worker run a bundle, by a swap if it runs, else by starting it.

        The observer hears ``settled`` when it does, at once if it already does.
        """
        if target != self._target:
            self._restarts.forget()
        self._target, self._purpose = target, purpose
        if target is None:
            self.message = (
                f"waits for a first version of {self.plan.model!r}: the fleet sends one once this device is"
                f" enrolled; 'initial' names a bundle to start with, and ./{self.plan.model} is a path"
            )
            logger.warning("pipeline %s %s", self.name, self.message)
            self._end_for("no version to run")
        self._reconcile()

    def keep(self) -> None:
        """Free the previous bundle, which the worker keeps loaded during a trial."""
        self._kept = None
        if self._process is not None:
            self._process.send(Keep())

    def restart(self) -> None:
        """Restart the worker on request; this is not counted as a crash."""
        self._restarts.forget()
        if self._process is None:
            self._start_after(0.0)
        else:
            self._end_for("restarted on request")

    def stop(self) -> None:
        """Ask the worker to end; ``is_stopped`` becomes true when it has."""
        self._is_stopping = True
        if self._process is None:
            self.state = "stopped"
        else:
            self._process.stop(self._reactor.now_s() + self._limits.stop_s)

    @property
    def is_stopped(self) -> bool:
        """Whether there is no worker, and none will be started."""
        return self._is_stopping and self._process is None

    def tick(self) -> None:
        """Kill the worker if it hangs. Call it each second."""
        process, now_s = self._process, self._reactor.now_s()
        if process is None:
            return
        limits = self._limits
        if process.is_overdue(now_s):
            process.kill()
        elif process.is_stopping:
            return
        elif self.state == "starting" and now_s - process.started_s > limits.start_s:
            self._kill(f"did not start within {limits.start_s:.0f} s", is_suspect_guilty=True)
        elif self._pending is not None and now_s - self._pending[2] > limits.start_s:
            self._kill(f"did not load a bundle within {limits.start_s:.0f} s", is_suspect_guilty=True)
        elif self.state == "running" and now_s - process.progressed_s > limits.hang_s:
            is_silent = now_s - process.heard_s > limits.hang_s / 2
            reason = f"finished no frame for {limits.hang_s:.0f} s though one was due"
            self._kill(reason, is_suspect_guilty=self._is_inferring or is_silent)

    def reported(self) -> PipelineState:
        """Return the pipeline's state to report."""
        running = self.running
        latency = Histogram()
        for progress in self.recent:
            if progress.latency_ms is not None:
                latency.merge(Histogram.from_wire(progress.latency_ms))
        last = list(self.recent)[-10:]
        seconds = sum(progress.period_s for progress in last)
        return PipelineState(
            state=self.state,
            model=running.model if running else self.plan.model,
            version=running.version if running else "",
            variant=running.variant if running else "",
            fps=round(sum(progress.frames for progress in last) / seconds, 2) if seconds else 0.0,
            p95_ms=round(latency.quantile(0.95), 3),
            frames=self.totals["frames"],
            dropped=self.totals["dropped"],
            errors=self.totals["errors"],
            restarts=self.restarts,
            failovers=self.totals["failovers"],
            returns=self.totals["returns"],
            message=self.message,
            setting=self._setting,
            changes=self.totals["changes"],
        )

    # -- reaching the target

    def _reconcile(self) -> None:
        if self._is_stopping or self._target is None:
            return
        if self._process is None:
            self._start_after(self._restarts.delay_s)
        elif self.state == "running" and self._actual == self._target:
            self._observer.changed()
            self._observer.happened(self, "settled")
        elif self.state == "running" and self._pending is None:
            self._swap()

    def _swap(self) -> None:
        target, process = self._target, self._process
        assert target is not None
        assert process is not None
        self._swaps += 1
        self._pending = (self._swaps, target, self._reactor.now_s())
        purpose = "rollback" if target == self._kept else self._purpose
        process.send(Swap(swap=self._swaps, purpose=purpose, path=str(target)))

    def _start_after(self, delay_s: float) -> None:
        """Start the worker after a delay; replaces a start that was scheduled before."""
        self._starts += 1
        number = self._starts
        self._reactor.after(delay_s, lambda: self._start(number))

    def _start(self, number: int) -> None:
        if self._is_stopping or self._process is not None or self._target is None or number != self._starts:
            return
        plan = self.plan
        run = Run(
            pipeline=plan.text,
            what=plan.what,
            folder=str(plan.folder),
            model=str(self._target),
            threads=plan.threads,
            progress_s=self._progress_s,
            exclude=self._excluded.rows,
        )
        self._suspect, self._is_suspect_guilty = Opening(digest="", variant="", left=0), False
        self._given, self._end, self._why_killed = self._target, None, ""
        self._setting, self._changes = "", 0
        try:
            self._process = process = WorkerProcess(run, self._environment, self._reactor.now_s())
        except (OSError, LinkError) as error:
            self._ended(f"could not be started: {error}")
            return
        self.state = "starting"
        self._reactor.watch(process.channel, selectors.EVENT_READ, self._ready)
        logger.info("worker %d starts", process.pid, extra={"pipeline": self.name, "bundle": run.model})

    # -- from the worker

    def _ready(self, _: int) -> None:
        process = self._process
        assert process is not None
        try:
            messages, has_closed = process.channel.receive()
            for message in messages:
                self._take(message, process)
        except ProtocolError as error:
            self.totals["malformed"] += 1
            self._kill(f"does not speak the protocol: {error}")
            has_closed = True
        if has_closed:
            self._collect(process)

    def _take(self, message: Any, process: WorkerProcess) -> None:
        if isinstance(message, Progress):
            self._progressed(message, process)
        elif isinstance(message, EventOut):
            self._observer.record(self, message.record)
        elif isinstance(message, Started):
            self._started(message, process)
        elif isinstance(message, Swapped):
            self._swapped(message)
        elif isinstance(message, SwapFailed):
            self._swap_failed(message)
        elif isinstance(message, (Opening, FailedOver, Returned, StillLost, Varied)):
            self._another_variant(message)
        elif isinstance(message, AlertOut):
            self._observer.record(self, message.alert)
        elif isinstance(message, LedgerOut):
            self._observer.left(self, message)
        elif isinstance(message, (Ended, Fatal)):
            self._end = message

    def _another_variant(self, message: Opening | FailedOver | Returned | StillLost | Varied) -> None:
        """Track which variant runs or is being opened, and which are lost."""
        now_s = self._reactor.now_s()
        if isinstance(message, Opening):
            self._suspect = message
        elif isinstance(message, Varied):
            self._adopt(message.running)
        elif isinstance(message, FailedOver):
            self._excluded.add(message.running.digest, message.lost, message.reason, now_s)
            self._adopt(message.running)
            text = f"variant {message.lost} {message.reason}; {message.running.variant} runs"
            self._observer.alert("warning", "agent.failed_over", text, self.name)
            self._observer.happened(self, "failed_over", text)
        elif isinstance(message, Returned):
            running = message.running
            self._excluded.returned(running.digest, running.variant)
            self.totals["returns"] += 1
            self._adopt(running)
            text = f"variant {running.variant} works again, and runs"
            self._observer.alert("info", "agent.variant_returned", text, self.name)
        else:
            self._excluded.add(message.digest, message.variant, message.reason, now_s)
            self.totals["failed_returns"] += 1
            self._suspect_running()
            self._observer.changed()

    def _suspect_running(self) -> None:
        """Blame a crash on what runs, no longer on what was being opened."""
        if (running := self.running) is not None:
            self._suspect = Opening(digest=running.digest, variant=running.variant, left=running.left)

    def _progressed(self, progress: Progress, process: WorkerProcess) -> None:
        self._is_inferring = progress.inferring
        process.heard_s = self._reactor.now_s()
        if progress.advanced:
            process.progressed_s = self._reactor.now_s()
        for total in COUNTED:
            self.totals[total] += getattr(progress, total)
        self.brokers, self.rechecks = progress.brokers, progress.rechecks
        self.totals["changes"] += progress.changes - self._changes
        self._changes = progress.changes
        if progress.setting != self._setting:
            self._setting = progress.setting
            self._observer.changed()
        if progress.running.digest == self._recent_of:
            self.recent.append(progress)
        self._observer.progressed(self, progress)

    def _started(self, message: Started, process: WorkerProcess) -> None:
        process.progressed_s = self._reactor.now_s()
        self.state, self.message, self._actual = "running", "", self._given
        self._adopt(message.running)
        self._reconcile()

    def _swapped(self, message: Swapped) -> None:
        if self._pending is None or self._pending[0] != message.swap:
            return
        self._kept = self._actual if message.purpose == "trial" else None
        self._actual, self._pending = self._pending[1], None
        self._adopt(message.running)
        logger.info(
            "swapped to %s %s in %.1f ms",
            message.running.model,
            message.running.version,
            message.gap_ms,
            extra={"pipeline": self.name, "purpose": message.purpose},
        )
        self._reconcile()

    def _adopt(self, running: Running) -> None:
        """Store what the worker runs; progress of another bundle must not become a trial's baseline."""
        if running.digest != self._recent_of:
            self.recent.clear()
            self._recent_of = running.digest
        if self.running is None or (running.digest, running.at) != (self.running.digest, self.running.at):
            self._since_unix_s = time.time()
        self.running = running
        self._suspect_running()
        self._observer.changed()

    def _swap_failed(self, message: SwapFailed) -> None:
        pending, self._pending = self._pending, None
        self._suspect_running()
        if pending is not None and pending[1] == self._target:
            logger.warning("a swap failed: %s", message.reason, extra={"pipeline": self.name})
            self._observer.happened(self, "swap_failed", message.reason)
        else:
            self._reconcile()

    # -- when a worker ends

    def _end_for(self, reason: str) -> None:
        if self._process is not None:
            self._is_asked, self._why_killed = True, reason
            self._process.kill()

    def _kill(self, reason: str, *, is_suspect_guilty: bool = False) -> None:
        self._why_killed, self._is_suspect_guilty = reason, is_suspect_guilty
        logger.error("the worker of %s is ended: %s", self.name, reason)
        if self._process is not None:
            self._process.kill()

    def _collect(self, process: WorkerProcess) -> None:
        self._reactor.unwatch(process.channel)
        code = process.reap()
        self._process = self.running = None
        if self._is_stopping:
            self.state = "stopped"
        elif isinstance(self._end, Ended):
            self.state, self.message, self._actual = "stopped", self._end.reason, None
            logger.info("pipeline %s: %s", self.name, self._end.reason)
            self._observer.changed()
        else:
            fatal = self._end.message if isinstance(self._end, Fatal) else ""
            if not self._why_killed and is_native_crash(code):
                self._is_suspect_guilty = True
            self._ended(self._why_killed or fatal or exit_reason(code))

    def _ended(self, reason: str) -> None:
        self._actual = self._kept = self._pending = None
        if self._is_asked:
            self.state, self._is_asked = "starting", False
            self._start_after(0.0)
            return
        self.message = reason
        if isinstance(self._end, Fatal) and self._end.code == ConfigError.code:
            self.state = "failed"  # the same configuration would fail again
            self._observer.alert("error", self._end.code, reason, self.name)
            self._observer.happened(self, "refused", reason)
            self._observer.changed()
            return
        if self._is_suspect_guilty and self._exclude_suspect(reason):
            return
        if self._is_suspect_guilty or isinstance(self._end, Fatal):
            self._excluded.forget()  # whatever is left did not help: begin again with the best
        is_bundle_at_fault = isinstance(self._end, Fatal) and self._end.code == BundleError.code
        # no restart mends a bundle; it is tried again slowly, for a disk that is mounted late
        is_final = is_bundle_at_fault and self.state == "starting"
        verdict = self._restarts.crashed(self._reactor.now_s(), is_final=is_final)
        self.state = "failed" if verdict is Verdict.GIVE_UP else "starting"
        logger.error("the worker of %s ended: %s", self.name, reason)
        self._observer.alert("error", "agent.worker_ended", reason, self.name)
        self._observer.happened(self, "crashed", reason)
        if verdict is Verdict.GIVE_UP:
            self._observer.happened(self, "gave_up", reason)
        self._observer.changed()
        self._start_after(self._restarts.delay_s)

    def _exclude_suspect(self, reason: str) -> bool:
        """Restart at once without the variant that crashed the worker; return False if no other is left.

        This does not count towards giving up: another variant of the same version runs.
        """
        variant = self._suspect.variant
        if not variant or self._suspect.left < 1:
            return False
        self._excluded.add(self._suspect.digest, variant, reason, self._reactor.now_s())
        self._restarts.total += 1
        self.state, self.message = "starting", f"variant {variant} is excluded: {reason}"
        logger.error("the worker of %s ended, variant %s is excluded: %s", self.name, variant, reason)
        self._observer.alert("error", "agent.variant_excluded", self.message, self.name)
        self._observer.happened(self, "crashed", reason)
        self._observer.changed()
        self._start_after(0.0)
        return True
