"""Egress: every record passes its pipeline's gate, then waits in the outbox for the link."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgekit.agent.config import OutboxTable, PipelinePlan
from edgekit.agent.ipc import LedgerOut
from edgekit.core.errors import EdgekitError
from edgekit.core.ports import Clock, nothing
from edgekit.core.wire import Alert, EventRecord, Record
from edgekit.sync.gate import Gate, enter_sent
from edgekit.sync.ledger import Ledger
from edgekit.sync.outbox import Outbox, Quota

logger = logging.getLogger(__name__)

ALERT_EVERY_S = 60.0
"""The shortest time between two alerts of one code and pipeline."""
MAX_ALERT_KEYS = 256


class KeptEvents:
    """Hands the numbers of events that are kept to the reactor's thread, the last of each pipeline.

    ``say`` is called there with the last number by pipeline.
    """

    def __init__(
        self, offer: Callable[[Callable[[], None]], bool], say: Callable[[Mapping[str, int]], object]
    ) -> None:
        self._offer, self._say = offer, say
        self._lock = threading.Lock()
        self._last: dict[str, int] = {}
        self._is_offered = False

    def add(self, pipeline: str, number: int) -> None:
        """Note an event that is kept; on any thread, and it never waits."""
        with self._lock:
            self._last[pipeline] = number
            if not self._is_offered:
                self._is_offered = self._offer(self._hand_on)

    def _hand_on(self) -> None:
        with self._lock:
            last, self._last, self._is_offered = self._last, {}, False
        self._say(last)


class Egress:
    """Outbox, ledger, and one gate per pipeline.

    Raises:
        StorageError: The outbox cannot be opened.
    """

    def __init__(self, state: Path, plans: Iterable[PipelinePlan], quota: OutboxTable, clock: Clock) -> None:
        self._clock = clock
        limits = Quota(rows=quota.max_rows, bytes=quota.max_bytes, age_s=quota.max_age_s)
        self.outbox = Outbox(state / "outbox.sqlite", clock, limits)
        self.ledger = Ledger(state / "ledger.sqlite", clock)
        self._gates: dict[str, Gate] = {}
        self.guard(plans)
        self._own = Gate("", (), self.ledger)
        self._alerted: dict[tuple[str, str], tuple[float, int]] = {}
        self._dropped = 0

    def guard(self, plans: Iterable[PipelinePlan]) -> None:
        """Have one gate for each of these pipelines, and none for others."""
        self._gates = {plan.name: Gate(plan.name, plan.egress, self.ledger) for plan in plans}

    def put(self, record: Record, pipeline: str = "") -> None:
        """Queue a record if the gate of its pipeline lets it pass."""
        passed = self._gates.get(pipeline, self._own).check(record)
        if passed is not None:
            self.outbox.put(passed)

    def put_event(
        self,
        record: EventRecord,
        pipeline: str,
        key: str = "",
        *,
        is_again: bool = False,
        on_kept: Callable[[], object] = nothing,
    ) -> None:
        """Queue an event; ``on_kept`` is called on any thread once it is on disk, or given up."""
        passed = self._gates.get(pipeline, self._own).check(record)
        if passed is None:
            on_kept()
        else:
            self.outbox.put(passed, key=key, is_again=is_again, on_kept=on_kept)

    def alert(
        self, level: Literal["info", "warning", "error"], code: str, message: str, pipeline: str = ""
    ) -> None:
        """Queue an alert; repeats within a minute are counted and reported with the next one."""
        now_s = self._clock.monotonic_ns() / 1e9
        last_s, held = self._alerted.get((code, pipeline), (-ALERT_EVERY_S, 0))
        if now_s - last_s < ALERT_EVERY_S:
            self._alerted[code, pipeline] = last_s, held + 1
            return
        if len(self._alerted) >= MAX_ALERT_KEYS:
            self._alerted.clear()
        self._alerted[code, pipeline] = now_s, 0
        text = f"{message} (and {held} more since)" if held else message
        self.put(
            Alert(
                mono_ns=self._clock.monotonic_ns(),
                unix_ms=self._clock.unix_ms(),
                level=level,
                code=code,
                message=text[:1000],
                pipeline=pipeline,
            ),
            pipeline,
        )

    def failure(self, error: EdgekitError, pipeline: str = "") -> None:
        """Alert an operator of an error with all its reasons."""
        self.alert("error", error.code, error.one_line(), pipeline)

    def sent(self, body: bytes, records: Sequence[bytes]) -> None:
        """Enter what the link sends in the ledger; called on the link's thread."""
        enter_sent(self.ledger, body, records)

    def left(self, pipeline: str, message: LedgerOut) -> None:
        """Enter what a worker sent to the brokers of its own sinks in the ledger."""
        for entry in message.entries:
            self.ledger.add(
                pipeline, entry.data_class, entry.destination, entry.decision, entry.bytes, entry.count
            )

    def check_quota(self) -> None:
        """Send an alert if messages were dropped since the last call: over quota, or the disk is full."""
        dropped = self.outbox.state().dropped
        if dropped > self._dropped:
            self.alert("warning", "outbox.dropped", f"{dropped - self._dropped} messages were dropped")
        self._dropped = dropped

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        self.outbox.close()
        self.ledger.close()
