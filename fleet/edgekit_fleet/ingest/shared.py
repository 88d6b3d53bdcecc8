"""Ingest from any MQTT broker with shared subscriptions: acknowledged by hand, after the commit."""

from __future__ import annotations

import contextlib
import queue
import threading

from edgekit_fleet.broker.mqtt import Access, Delivered, MqttLink
from edgekit_fleet.ingest.intake import Intake, Message, take_until_done
from edgekit_fleet.store.clock import unix_ms

FILTER = "$share/ingest/ek/v1/+/up/#"
BATCH = 500
MAX_WAITING = 5000
_STOP_S = 10.0
_TICK_S = 0.5


class SharedIngest:
    """Subscribes to every device, in a session that the broker keeps while no fleet manager runs.

    Args:
        access: How to reach the broker.
        client_id: Names the session: the same at each start, different for each replica.
        intake: Stores the messages.
    """

    def __init__(self, access: Access, client_id: str, intake: Intake) -> None:
        self._intake = intake
        self._waiting: queue.Queue[tuple[Delivered, int]] = queue.Queue(MAX_WAITING)
        self._stopping = threading.Event()
        self._link = MqttLink(access, client_id, subscribe=FILTER, on_message=self._arrived)
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def start(self) -> None:
        """Connect and start; raises ``LinkError`` if the broker cannot be reached."""
        self._link.start()
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop, and wait for the end; safe twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        self._link.stop()

    def _arrived(self, delivered: Delivered) -> None:
        """Queue a message; a full queue blocks the connection, and so slows the broker down."""
        entry = delivered, unix_ms()
        while not self._stopping.is_set():
            try:
                self._waiting.put(entry, timeout=_TICK_S)
            except queue.Full:  # noqa: PERF203 - the loop is the waiting
                if delivered.qos == 0:
                    self._intake.counters["overrun"] += 1
                    return
            else:
                return

    def _run(self) -> None:
        while not self._stopping.is_set():
            delivered = self._collect()
            messages = [
                Message(message.topic, message.payload, arrived_ms) for message, arrived_ms in delivered
            ]
            if messages and take_until_done(self._intake, messages, self._stopping):
                for message, _ in delivered:
                    self._link.acknowledge(message)

    def _collect(self) -> list[tuple[Delivered, int]]:
        collected: list[tuple[Delivered, int]] = []
        with contextlib.suppress(queue.Empty):
            collected.append(self._waiting.get(timeout=_TICK_S))
            while len(collected) < BATCH:
                collected.append(self._waiting.get_nowait())
        return collected
