"""One model in one worker process: kept on its target bundle, for all pipelines that use it there."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Literal, Protocol

from edgekit.agent.config import LimitsTable
from edgekit.agent.ipc import (
    Drop,
    FailedOver,
    Host,
    Keep,
    ModelFailed,
    ModelProgress,
    Opened,
    Opening,
    Progress,
    Purpose,
    Returned,
    Running,
    StillLost,
    Swap,
    SwapFailed,
    Swapped,
    Varied,
)
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Verdict
from edgekit.agent.supervisor.excluded import Excluded
from edgekit.agent.supervisor.grouping import ModelPlan
from edgekit.agent.supervisor.pipelines import Observer, Pipeline, restarts_of

logger = logging.getLogger(__name__)

Phase = Literal["away", "opening", "open"]
Blame = Literal["none", "charged", "guilty"]
"""A process ended for no fault of this model; perhaps for it; for the variant that it opened or ran."""


class Process(Protocol):
    """A worker, as its models see it."""

    name: str
    restarts: int
    malformed: int
    is_stopping: bool

    def require(self) -> bool:
        """Return whether a process is there to take messages; start it if there is none.

        Raises:
            OSError: It cannot be started.
        """

    def send(self, message: Any) -> bool:
        """Send a message; return False if the process is gone."""

    def end(self, pipeline: Pipeline) -> None:
        """Ask for a pipeline's end."""

    def release(self) -> None:
        """Ask the process to end if it has nothing to do."""


class HostedModel:
    """Keeps a model of a worker on the target bundle: opens it, swaps it, opens it again with backoff.

    Every method belongs on the reactor's thread. What its variants were excluded for is kept in the file
    ``excluded``.
    """

    def __init__(
        self,
        plan: ModelPlan,
        worker: Process,
        reactor: Reactor,
        limits: LimitsTable,
        observer: Observer,
        excluded: Path,
    ) -> None:
        self.plan, self.worker = plan, worker
        self.users: dict[str, Pipeline] = {}
        self.running: Running | None = None
        self.rechecks: dict[str, int] = {}
        self.queue, self.p95_ms = 0, 0.0
        self.busy_s = self.worked_s = 0.0
        """For how long it was at work, at its last message: on the same frame; since the one before."""
        self.totals = dict.fromkeys(("failovers", "returns", "failed_returns"), 0)
        self.failures = 0
        """How often it could not be opened, or no variant was left."""
        self._reactor, self._limits, self._observer = reactor, limits, observer
        self._restarts = restarts_of(limits)
        self._excluded = Excluded(excluded, reactor.now_s(), plan.fallback.retry_s)
        self._phase: Phase = "away"
        self._since_s = 0.0
        self._since_unix_s = 0.0
        self._target: Path | None = None
        self._purpose: Purpose = "switch"
        self._given: Path | None = None
        self._actual: Path | None = None
        self._kept: Path | None = None
        self._pending: tuple[int, Path, float] | None = None
        self._swaps = self._starts = 0
        self._suspect = Opening(model="", digest="", variant="", left=0)
        self._recent_of = ""
        self._has_failed = False

    @property
    def key(self) -> str:
        """Its name in messages to its worker."""
        return self.plan.key

    @property
    def may_pause(self) -> bool:
        """Whether neither a swap nor a trial is under way."""
        return self._pending is None and self._kept is None

    @property
    def managed(self) -> str:
        """The name under which the agent keeps it up to date; empty for a pinned one."""
        return self.plan.managed

    def send(self, message: Any) -> bool:
        """Send a message to its worker; return False if the process is gone."""
        return self.worker.send(message)

    def end(self, user: Pipeline) -> None:
        """Ask the worker for a pipeline's end."""
        self.worker.end(user)

    @property
    def restarts(self) -> int:
        """How often it was opened again after an unexpected end, of its process or its own."""
        return self.failures + self.worker.restarts

    @property
    def is_hosted(self) -> bool:
        """Whether the worker's process has it, open or about to be."""
        return self._phase != "away"

    @property
    def is_wanted(self) -> bool:
        """Whether it has a bundle to run, and a pipeline that is to run on it."""
        return self._target is not None and not all(user.is_over for user in self.users.values())

    @property
    def is_settled(self) -> bool:
        """Whether the target bundle runs."""
        return self._phase == "open" and self._target is not None and self._actual == self._target

    @property
    def is_on_its_way(self) -> bool:
        """Whether it may still reach the target bundle, or crash too often trying."""
        may_come = self.is_wanted and not self.worker.is_stopping and not self._has_failed
        return may_come and not self.is_settled

    @property
    def makes_frames(self) -> bool:
        """Whether a pipeline runs on it."""
        return any(user.state == "running" for user in self.users.values())

    @property
    def is_opening_variant(self) -> bool:
        """Whether a variant is being opened, which may take the process with it."""
        suspect, running = self._suspect, self.running
        return bool(suspect.variant) and (
            running is None or (suspect.digest, suspect.variant) != (running.digest, running.variant)
        )

    @property
    def is_on_trial(self) -> bool:
        """Whether a version runs that is not trusted yet."""
        return self._purpose == "trial" and self.is_settled

    @property
    def recent(self) -> list[Progress]:
        """The last progress messages of every user, of the bundle that runs."""
        return [progress for user in self.users.values() for progress in user.recent(self)]

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

    def overdue(self, now_s: float) -> str:
        """Return why its worker counts as hung: opening a bundle takes too long; empty if it does not."""
        limit_s = self._limits.start_s
        if self._phase == "opening" and now_s - self._since_s > limit_s:
            return f"did not start within {limit_s:.0f} s"
        if self._pending is not None and now_s - self._pending[2] > limit_s:
            return f"did not load a bundle within {limit_s:.0f} s"
        return ""

    # -- reaching the target

    def run_on(self, target: Path | None, purpose: Purpose = "switch") -> None:
        """Run a bundle, by a swap if another one runs, else by opening it.

        The observer hears ``settled`` when it runs, at once if it already does.
        """
        if target != self._target:
            self._restarts.forget()
            for user in self.users.values():
                user.revive()
        self._target, self._purpose = target, purpose
        if target is None:
            text = (
                f"waits for a first version of {self.plan.name!r}: the fleet sends one once this device is"
                f" enrolled; 'initial' names a bundle to start with, and ./{self.plan.name} is a path"
            )
            for user in self.users.values():
                user.message = text
                logger.warning("pipeline %s %s", user.name, text)
            self.drop()
        self.reconcile()

    def keep(self) -> None:
        """Free the previous bundle, which the worker keeps loaded during a trial."""
        self._kept = None
        if self.is_hosted:
            self.send(Keep(model=self.key))

    def add(self, user: Pipeline) -> None:
        """Have a pipeline run on this model, which is one of its ``models``."""
        self.users[user.name] = user
        if self._target is None:
            return
        if self.is_hosted:
            user.start()
        else:
            self.reconcile()

    def remove(self, user: Pipeline) -> None:
        """Forget a pipeline that no longer runs here."""
        if self.users.get(user.name) is user:
            del self.users[user.name]

    def drop(self) -> None:
        """Free it, with its pipelines."""
        if self.is_hosted:
            self.send(Drop(model=self.key))
            self._away()
            self.worker.release()

    def reopen(self) -> None:
        """Open the target bundle anew, since a swap to it failed; its pipelines are ended and started."""
        if self.is_hosted:
            self.send(Drop(model=self.key))
            self._away()
        self._host_after(0.0)

    def forgive(self) -> None:
        """Forget earlier crashes."""
        self._restarts.forget()

    def reconcile(self) -> None:
        """Do the next step towards the target bundle."""
        if self.worker.is_stopping or not self.is_wanted:
            return
        if self._phase == "away":
            self._host_after(self._restarts.delay_s)
        elif self.is_settled:
            self._observer.changed()
            self._observer.happened(self, "settled")
        elif self._phase == "open" and self._pending is None:
            self._swap()

    def _swap(self) -> None:
        target = self._target
        assert target is not None
        self._swaps += 1
        self._pending = (self._swaps, target, self._reactor.now_s())
        purpose = "rollback" if target == self._kept else self._purpose
        self.send(Swap(model=self.key, swap=self._swaps, purpose=purpose, path=str(target)))

    def _host_after(self, delay_s: float) -> None:
        """Open it after a delay; replaces what was scheduled before."""
        self._starts += 1
        number = self._starts
        self._reactor.after(delay_s, lambda: self._host(number))

    def _host(self, number: int) -> None:
        if number != self._starts or self._phase != "away" or not self.is_wanted:
            return
        try:
            if self.worker.is_stopping or not self.worker.require():
                return
        except OSError as error:
            self._charge(f"could not be started: {error}", "agent.worker_ended")
            return
        self._suspect = Opening(model=self.key, digest="", variant="", left=0)
        self._given, self._phase, self._since_s = self._target, "opening", self._reactor.now_s()
        self._has_failed = False
        self.send(self.request())
        for user in self.users.values():
            user.start()

    def request(self) -> Host:
        """Return the request to open the target bundle."""
        plan = self.plan
        return Host(
            model=self.key,
            path=str(self._target),
            variant=plan.variant,
            threads=plan.threads,
            batch=plan.batch,
            fallback=plan.fallback,
            exclude=self._excluded.rows,
        )

    def moved(self, running: Running) -> None:
        """Note that another process has it open from now on."""
        self.busy_s = self.worked_s = 0.0
        self._adopt(running)

    # -- from the worker

    def take(self, message: Any) -> None:
        """Act on a message about this model."""
        if isinstance(message, ModelProgress):
            self.rechecks, self.queue, self.p95_ms = message.rechecks, message.queue, message.p95_ms
            self.busy_s, self.worked_s = message.busy_s, message.worked_s
        elif isinstance(message, Opened):
            self._phase, self._actual = "open", self._given
            self._adopt(message.running)
            self.reconcile()
        elif isinstance(message, ModelFailed):
            self._failed(message)
        elif isinstance(message, Swapped):
            self._swapped(message)
        elif isinstance(message, SwapFailed):
            self._swap_failed(message)
        else:
            self._another_variant(message)

    def _another_variant(self, message: Any) -> None:
        """Track which variant runs or is being opened, and which are lost."""
        now_s = self._reactor.now_s()
        if isinstance(message, Opening):
            self._suspect = message
        elif isinstance(message, Varied):
            self._adopt(message.running)
        elif isinstance(message, FailedOver):
            self._excluded.add(message.running.digest, message.lost, message.reason, now_s)
            self.totals["failovers"] += 1
            self._adopt(message.running)
            text = f"variant {message.lost} {message.reason}; {message.running.variant} runs"
            self._alert("warning", "agent.failed_over", text)
            self._observer.happened(self, "failed_over", text)
        elif isinstance(message, Returned):
            running = message.running
            self._excluded.returned(running.digest, running.variant)
            self.totals["returns"] += 1
            self._adopt(running)
            self._alert("info", "agent.variant_returned", f"variant {running.variant} works again, and runs")
        elif isinstance(message, StillLost):
            self._excluded.add(message.digest, message.variant, message.reason, now_s)
            self.totals["failed_returns"] += 1
            self._suspect_running()
            self._observer.changed()

    def _suspect_running(self) -> None:
        """Blame a crash on what runs, no longer on what was being opened."""
        if (running := self.running) is not None:
            self._suspect = Opening(
                model=self.key, digest=running.digest, variant=running.variant, left=running.left
            )

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
            extra={"model": self.key, "purpose": message.purpose},
        )
        for user in self.users.values():
            user.start()  # one that did not fit the bundle before
        self.reconcile()

    def _swap_failed(self, message: SwapFailed) -> None:
        pending, self._pending = self._pending, None
        self._suspect_running()
        if pending is not None and pending[1] == self._target:
            logger.warning("a swap failed: %s", message.reason, extra={"model": self.key})
            self._observer.happened(self, "swap_failed", message.reason)
        else:
            self.reconcile()

    def _adopt(self, running: Running) -> None:
        """Store what runs; progress of another bundle must not become a trial's baseline."""
        if running.digest != self._recent_of:
            for user in self.users.values():
                user.forget(self)
            self._recent_of = running.digest
        if self.running is None or (running.digest, running.at) != (self.running.digest, self.running.at):
            self._since_unix_s = time.time()
        self.running = running
        self._suspect_running()
        self._observer.changed()

    def _alert(self, level: Literal["info", "warning", "error"], code: str, text: str) -> None:
        for user in self.users.values():
            self._observer.alert(level, code, text, user.name)

    # -- when it ends

    def _away(self) -> None:
        self._phase, self.running = "away", None
        self.busy_s = self.worked_s = 0.0
        self._actual = self._kept = self._pending = None

    def _failed(self, message: ModelFailed) -> None:
        """Open it again after a while."""
        self._away()
        self.send(Drop(model=self.key))
        self.failures += 1
        self._excluded.forget()  # whatever is left did not help: begin again with the best
        for user in list(self.users.values()):
            user.gone(message.reason)
        # no restart mends a bundle; it is tried again slowly, for a disk that is mounted late
        self._charge(message.reason, "agent.model_failed", is_final=message.is_final)
        self.worker.release()

    def process_ended(self, reason: str, blame: Blame, delay_s: float = 0.0) -> None:
        """Act on the end of the worker's process, which had this model."""
        was_hosted = self.is_hosted
        self._away()
        for user in list(self.users.values()):
            if user.is_in_worker:
                user.gone(reason)
        if not was_hosted or (blame == "guilty" and self._exclude_suspect(reason)):
            return
        if blame == "none":
            if reason:
                self._alert("error", "agent.worker_ended", reason)
                self._observer.happened(self, "interrupted", reason)
                self._observer.changed()
            self._host_after(delay_s)
            return
        if blame == "guilty":
            self._excluded.forget()
        self._charge(reason, "agent.worker_ended")

    def _charge(self, reason: str, code: str, *, is_final: bool = False) -> None:
        """Count a crash, and open it again with backoff."""
        verdict = self._restarts.crashed(self._reactor.now_s(), is_final=is_final)
        logger.error("model %s ended: %s", self.key, reason)
        self._alert("error", code, reason)
        self._observer.happened(self, "crashed", reason)
        if verdict is Verdict.GIVE_UP:
            self._give_up(reason)
        self._observer.changed()
        self._host_after(self._restarts.delay_s)

    def _give_up(self, reason: str) -> None:
        self._has_failed = True
        for user in self.users.values():
            user.failed(reason)
        self._observer.happened(self, "gave_up", reason)

    def blame_for(self, user: Pipeline, reason: str) -> None:
        """Count a pipeline's end by an error of the model or its runtime."""
        verdict = self._restarts.crashed(self._reactor.now_s())
        self._observer.happened(self, "crashed", f"{user.name}: {reason}")
        if verdict is Verdict.GIVE_UP:
            self._observer.happened(self, "gave_up", f"{user.name}: {reason}")

    def refused_by(self, reason: str) -> None:
        """Note that a pipeline does not fit the bundle."""
        self._observer.happened(self, "refused", reason)

    def _exclude_suspect(self, reason: str) -> bool:
        """Start again at once without the variant that took the process with it; False if no other is left.

        This does not count towards giving up: another variant of the same version runs.
        """
        variant = self._suspect.variant
        if not variant or self._suspect.left < 1:
            return False
        self._excluded.add(self._suspect.digest, variant, reason, self._reactor.now_s())
        text = f"variant {variant} is excluded: {reason}"
        for user in self.users.values():
            user.message = text
        logger.error("model %s: variant %s is excluded: %s", self.key, variant, reason)
        self._alert("error", "agent.variant_excluded", text)
        self._observer.happened(self, "crashed", reason)
        self._observer.changed()
        self._host_after(0.0)
        return True
