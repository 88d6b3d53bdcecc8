"""Egress: every record passes its pipeline's gate, then waits in the outbox for the link."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from edgekit.agent.config import OutboxTable, PipelinePlan
from edgekit.agent.ipc import LedgerOut
from edgekit.core.errors import EdgekitError
from edgekit.core.ports import Clock
from edgekit.core.wire import Alert, Record
from edgekit.sync.gate import Gate, enter_sent
from edgekit.sync.ledger import Ledger
from edgekit.sync.outbox import Outbox, Quota

logger = logging.getLogger(__name__)

ALERT_EVERY_S = 60.0
"""The shortest time between two alerts of one code and pipeline."""
MAX_ALERT_KEYS = 256


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
