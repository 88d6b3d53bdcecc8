"""Measurement jobs of the fleet: a bundle is fetched, run beside the pipelines, and removed again.

A job touches no slot: its files are in ``measuring/`` of the state folder, which is removed when the job
ends and whenever an agent starts. It is stored before it begins, so that it survives the agent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from edgekit.agent.children import MeasureTask, MeasuringChild
from edgekit.agent.jobs import Jobs
from edgekit.agent.measuring.order import MeasureOrder, parse_order
from edgekit.agent.reactor import Reactor
from edgekit.base.disk import LocalDisk
from edgekit.base.files import write_durably
from edgekit.base.kept import read_kept
from edgekit.core.errors import BackendError, EdgekitError, LinkError, StorageError, UsageError
from edgekit.core.ports import Clock
from edgekit.core.wire import MeasurementRecord
from edgekit.update.contract import UpdaterResult
from edgekit.update.slots import Slots
from edgekit.version import __version__

logger = logging.getLogger(__name__)

MAX_AREA_BYTES = 1 << 30
"""Disk space for candidates, and at most half of the free space."""
MAX_STARTS = 2
"""After so many ends of the agent during one job, the job may be the cause, and fails."""
MAX_FETCHES = 5
LOOK_AGAIN_S = 5.0
FETCH_S = 600.0
PATIENCE = 5
"""Consecutive checks with a hindrance that end a measurement; an update ends it at once."""
Phase = Literal["idle", "waiting", "fetching", "measuring"]


class Saved(msgspec.Struct):
    """``measuring.json``: the job, and how often it was started."""

    order: MeasureOrder
    starts: int = 0
    fetches: int = 0


class Host(Protocol):
    """What a job needs of the supervisor."""

    def hindrance(self) -> str:
        """Return why nothing should be measured now, or ""."""

    def is_updating(self) -> bool:
        """Return whether an update is under way."""

    def fetch_to_measure(
        self,
        order: MeasureOrder,
        area: Path,
        max_bytes: int,
        timeout_s: float,
        done: Callable[[UpdaterResult | EdgekitError], None],
    ) -> None:
        """Fetch a bundle into ``area``; ``done`` is called on the reactor."""

    def tell(self, record: MeasurementRecord) -> None:
        """Put a record into the outbox, durably."""

    def take_reports(self) -> int:
        """Put measurements of other processes into the outbox; return how many."""


class Measuring:
    """The device's one measurement job, on the supervisor's thread; ``begin`` starts its child."""

    def __init__(
        self,
        state: Path,
        reactor: Reactor,
        clock: Clock,
        host: Host,
        begin: Callable[[MeasureTask], MeasuringChild],
    ) -> None:
        self._path, self._area = state / "measuring.json", state / "measuring"
        self._reactor, self._clock, self.host = reactor, clock, host
        self._begin = begin
        self._jobs = Jobs(reactor.post, "measuring")
        self._saved: Saved | None = None
        self._child: MeasuringChild | None = None
        self._phase: Phase = "idle"
        self._is_resumed = False
        self._next_s = 0.0
        self._hindered = 0
        self._why = ""

    def resume(self) -> None:
        """Report what other processes measured, clean up, and resume an unfinished job."""
        self.host.take_reports()
        self._clean()
        self._jobs.start()
        self._is_resumed = True
        self._saved = saved = read_kept(self._path, Saved, None, "its measurement is given up")
        if saved is None:
            self._path.unlink(missing_ok=True)
            return
        self._phase = "waiting"
        if saved.starts >= MAX_STARTS:
            self._fail(
                BackendError(
                    f"the agent ended {saved.starts} times while it measured; the bundle may be the cause"
                )
            )

    def stop(self) -> None:
        """Stop the job; it resumes at the next start."""
        if self._child is not None:
            self._child.kill()
        if self._saved is not None and self._phase == "measuring":
            self._take_back_start()
        self._phase = "idle"
        self._jobs.stop()

    def status(self) -> dict[str, str]:
        """Return the job's status for people; empty without a job."""
        if self._saved is None:
            return {}
        return {"job": self._saved.order.job, "state": self._phase, "why": self._why}

    def take(self, args: Mapping[str, object]) -> str:
        """Accept a job and return a message for its sender.

        Raises:
            UsageError: It is not valid, has expired, or another one is under way.
            StorageError: It cannot be stored.
        """
        order = parse_order(args)
        if self._saved is not None:
            if self._saved.order.job == order.job:
                return f"{order.job} is under way"
            raise UsageError(f"another measurement is under way: {self._saved.order.job}")
        if self._clock.unix_ms() > order.expires_unix_ms:
            raise UsageError(f"{order.job} has expired")
        self._saved = Saved(order)
        try:
            self._save()
        except StorageError:
            self._saved = None
            raise
        self._phase, self._next_s, self._why = "waiting", 0.0, ""
        self._reactor.after(0.0, self.tick)
        return f"measures {order.model} {order.version}"

    def tick(self) -> None:
        """Do what is due; call it every second."""
        saved = self._saved
        if saved is None or not self._is_resumed or self._phase in ("idle", "fetching"):
            return
        if self._clock.unix_ms() > saved.order.expires_unix_ms:
            self._fail(LinkError(f"it expired{f': {self._why}' if self._why else ''}"))
        elif self._phase == "measuring":
            self._watch()
        elif self._reactor.now_s() >= self._next_s:
            self._look()

    # -- steps

    def _look(self) -> None:
        assert self._saved is not None
        if why := self.host.hindrance():
            self._postpone(why, LOOK_AGAIN_S)
            return
        self._phase, order = "fetching", self._saved.order
        self._saved.fetches += 1
        try:
            self._save()
            disk = os.statvfs(self._path.parent)
            room = disk.f_bavail * disk.f_frsize // 2
        except (StorageError, OSError) as error:
            self._fail(StorageError(f"the disk is broken: {error}"))
            return
        self.host.fetch_to_measure(
            order, self._area, min(room, MAX_AREA_BYTES), min(FETCH_S, self._left_s()), self._fetched
        )

    def _fetched(self, outcome: UpdaterResult | EdgekitError) -> None:
        if self._saved is None or self._phase != "fetching":
            return  # the agent stops
        if isinstance(outcome, LinkError) and outcome.retryable and self._saved.fetches < MAX_FETCHES:
            self._phase = "waiting"
            self._postpone(outcome.message, LOOK_AGAIN_S * self._saved.fetches)
            return
        if not isinstance(outcome, UpdaterResult):
            self._fail(outcome)
            return
        self._saved.fetches = 0
        if why := self.host.hindrance():
            self._phase = "waiting"
            self._postpone(why, LOOK_AGAIN_S)
            return
        self._measure(outcome)

    def _measure(self, fetched: UpdaterResult) -> None:
        assert self._saved is not None
        order = self._saved.order
        self._saved.starts += 1
        try:
            self._save()
            folder = Slots(self._area).stage(order.model, order.version, order.sha256)
            task = MeasureTask(
                bundle=str(folder),
                sha256=order.sha256,
                job=order.job,
                threads=order.threads,
                seconds=order.seconds,
                rejected=fetched.rejected,
            )
            self._child = child = self._begin(task)
        except EdgekitError as error:
            self._fail(error)
            return
        self._phase, self._hindered = "measuring", 0
        logger.info("measuring %s %s", order.model, order.version, extra={"job": order.job})
        left_s = self._left_s() + LOOK_AGAIN_S  # until the expiry ends it
        self._jobs.submit(lambda: child.run(left_s), lambda outcome: self._measured(child, outcome))

    def _watch(self) -> None:
        """End a measurement that disturbs the pipelines."""
        why = self.host.hindrance()
        self._hindered = self._hindered + 1 if why else 0
        if why and (self.host.is_updating() or self._hindered >= PATIENCE):
            self._take_back_start()
            self._phase = "waiting"
            self._end_child()
            self._postpone(why, LOOK_AGAIN_S)

    def _measured(self, child: MeasuringChild, outcome: MeasurementRecord | EdgekitError) -> None:
        if self._saved is None or child is not self._child:
            return  # it was ended
        self._child = None
        if isinstance(outcome, MeasurementRecord):
            self._end(outcome)
        else:
            self._fail(outcome)

    # -- ends

    def _postpone(self, why: str, wait_s: float) -> None:
        self._next_s = self._reactor.now_s() + wait_s
        if why != self._why:
            self._why = why
            logger.info("a measurement waits: %s", why)
            self.host.tell(self._record("postponed", "", why))

    def _fail(self, error: EdgekitError) -> None:
        self._end_child()
        reason = error.one_line()[:2000]
        logger.warning("a measurement failed: %s", reason)
        self._end(self._record("failed", error.code, reason))

    def _end(self, record: MeasurementRecord) -> None:
        self.host.tell(record)  # before the job is forgotten
        self._saved, self._phase, self._why = None, "idle", ""
        try:
            LocalDisk().remove(self._path)
        except OSError as cause:
            logger.warning("%s stays, the job will be done again: %s", self._path, cause)
        self._clean()

    def _record(self, state: Literal["postponed", "failed"], code: str, reason: str) -> MeasurementRecord:
        assert self._saved is not None
        order = self._saved.order
        return MeasurementRecord(
            mono_ns=self._clock.monotonic_ns(),
            unix_ms=self._clock.unix_ms(),
            origin="job",
            state=state,
            job=order.job,
            code=code,
            reason=reason,
            model=order.model,
            version=order.version,
            bundle_sha256=order.sha256,
            threads=order.threads,
            seconds=order.seconds,
            agent=__version__,
        )

    # -- small things

    def _left_s(self) -> float:
        assert self._saved is not None
        return max(1.0, (self._saved.order.expires_unix_ms - self._clock.unix_ms()) / 1e3)

    def _take_back_start(self) -> None:
        """Note that this start was ended on purpose, and did not end the agent."""
        if self._saved is not None:
            self._saved.starts -= 1
            try:
                self._save()
            except StorageError as error:
                logger.warning("%s", error)

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _clean(self) -> None:
        try:
            LocalDisk().remove(self._area)
        except OSError as cause:
            logger.warning("%s cannot be removed, it is tried again: %s", self._area, cause)

    def _save(self) -> None:
        try:
            write_durably(self._path, msgspec.json.encode(self._saved))
        except OSError as cause:
            raise StorageError(f"{self._path}: cannot be written: {cause.strerror}") from cause
