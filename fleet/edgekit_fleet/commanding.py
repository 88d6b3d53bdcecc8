"""Sending commands to devices, again and again until they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgekit.core import wire
from edgekit_fleet.bus import Bus
from edgekit_fleet.services import Downlink, Hooks
from edgekit_fleet.store.commands import CommandRow, Commands
from edgekit_fleet.store.database import Database

EXPIRES_S = 300
MAX_EXPIRES_S = 7 * 24 * 3600


class Commanding:
    """The commands of one fleet.

    Args:
        database: Where they are kept.
        downlink: The way down.
        hooks: Where answers and returning devices are heard of.
        bus: Where answers are told.
        now_ms: The fleet's clock, Unix milliseconds.
    """

    def __init__(
        self, database: Database, downlink: Downlink, hooks: Hooks, bus: Bus, now_ms: Callable[[], int]
    ) -> None:
        self._downlink = downlink
        self._bus = bus
        self._now_ms = now_ms
        self._store = Commands(database)
        hooks.on_committed.append(self._answered)
        hooks.on_state.append(self._appeared)

    def command(self, device: str, kind: str, args: dict[str, Any], expires_s: int = EXPIRES_S) -> CommandRow:
        """Command a device; it is sent now, and again until it answers or ``expires_s`` have passed."""
        now_ms = self._now_ms()
        row = self._store.create(device, kind, args, now_ms, now_ms + expires_s * 1000)
        self._send([row])
        return row

    def of_device(self, device: str) -> list[CommandRow]:
        """Return a device's commands, the newest first."""
        return self._store.of_device(device, self._now_ms())

    def send_again(self) -> None:
        """Send what is not answered; called every few seconds."""
        self._send(self._store.waiting(self._now_ms()))

    def _send(self, rows: Iterable[CommandRow]) -> None:
        for row in rows:
            self._downlink.publish(row.device, "cmd", wire.encode(row.to_wire()))

    def _answered(self, device: str, records: Sequence[wire.Record]) -> None:
        for record in records:
            if isinstance(record, wire.CommandAnswer):
                self._store.answer(device, record, self._now_ms())
                self._bus.publish("command", {"device": device, "id": record.id, "ok": record.ok})

    def _appeared(self, device: str, birth: wire.Birth) -> None:
        if birth.online:
            self._send(self._store.waiting(self._now_ms(), device))
