"""Commands to devices, sent again until the device answers or the command expires."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgekit.core import wire
from edgekit_fleet.broker.downlink import Downlink
from edgekit_fleet.store.audit import FLEET, Actor, Audit
from edgekit_fleet.store.commands import CommandRow, Commands
from edgekit_fleet.store.database import Database
from edgekit_fleet.web.bus import Bus

EXPIRES_S = 300
MAX_EXPIRES_S = 7 * 24 * 3600


class Commanding:
    """The commands of one fleet.

    Args:
        database: Where commands are kept.
        downlink: Sends to devices.
        bus: Gets a change for every answer.
        now_ms: The fleet's clock, Unix milliseconds.
    """

    def __init__(self, database: Database, downlink: Downlink, bus: Bus, now_ms: Callable[[], int]) -> None:
        self._downlink = downlink
        self._bus = bus
        self._now_ms = now_ms
        self._database = database
        self._store, self._audit = Commands(database), Audit(database)

    def command(
        self,
        device: str,
        kind: str,
        args: dict[str, Any],
        expires_s: int = EXPIRES_S,
        *,
        by: Actor = FLEET,
    ) -> CommandRow:
        """Send a command now, and again until the device answers or ``expires_s`` have passed.

        The audit log says ``by`` whom.
        """
        now_ms = self._now_ms()
        with self._database.transaction():
            row = self._store.create(device, kind, args, now_ms, now_ms + expires_s * 1000)
            self._audit.record(by, f"device.{kind}", device, after={"command": row.id, **args})
        self._send([row])
        return row

    def of_device(self, device: str) -> list[CommandRow]:
        """Return a device's commands, the newest first."""
        return self._store.of_device(device, self._now_ms())

    def send_again(self) -> None:
        """Send every command without an answer; called every few seconds."""
        self._send(self._store.waiting(self._now_ms()))

    def take_answers(self, device: str, records: Sequence[wire.Record]) -> None:
        """Record the command answers among a device's new messages, in the transaction that stores them."""
        for record in records:
            if isinstance(record, wire.CommandAnswer):
                self._store.answer(device, record, self._now_ms())

    def announce_answers(self, device: str, records: Sequence[wire.Record]) -> None:
        """Publish a change for each command answer among a device's committed messages."""
        for record in records:
            if isinstance(record, wire.CommandAnswer):
                self._bus.publish("command", {"device": device, "id": record.id, "ok": record.ok})

    def device_appeared(self, device: str, birth: wire.Birth) -> None:
        """Send a device its waiting commands as soon as it is online."""
        if birth.online:
            self._send(self._store.waiting(self._now_ms(), device))

    def _send(self, rows: Iterable[CommandRow]) -> None:
        for row in rows:
            self._downlink.publish(row.device, "cmd", wire.encode(row.to_wire()))
