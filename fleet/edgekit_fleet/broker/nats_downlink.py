"""Messages to devices of the embedded broker: acknowledgements and answers by NATS, the rest by MQTT.

The MQTT library wakes its thread by a system call for each message. That gave the interpreter up once for
each of 500 acknowledgements a second, and each got it back behind the pages that were being rendered.

Source: docs.nats.io "MQTT", "Topics and Subjects": a core NATS message reaches MQTT subscribers at QoS 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from edgekit.core import wire
from edgekit_fleet.broker.downlink import MqttDownlink
from edgekit_fleet.broker.mqtt import MAX_QUEUED
from edgekit_fleet.broker.nats_thread import NatsAccess, NatsThread

if TYPE_CHECKING:
    from nats.aio.client import Client

_BY_NATS = frozenset({"ack", "res"})
"""At QoS 0 and not retained."""
_GATHER_S = 0.005
"""The acknowledgements of a pull are sent together: each wake of the thread is a system call, too."""


class NatsDownlink:
    """The ``Downlink`` of the embedded broker.

    Args:
        mqtt: Sends what is retained, or at QoS 1.
        access: How to reach the broker by NATS.
    """

    def __init__(self, mqtt: MqttDownlink, access: NatsAccess) -> None:
        self._mqtt = mqtt
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, bytes]] = []
        self._dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._thread = NatsThread("downlink", access, self._work)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._mqtt.is_connected

    @property
    def dropped(self) -> int:
        """The number of messages dropped because there was no connection, or the queue was full."""
        return self._mqtt.dropped + self._dropped

    def start(self) -> None:
        """Connect.

        Raises:
            LinkError: The broker cannot be reached.
        """
        self._thread.start()
        self._mqtt.start()

    def stop(self) -> None:
        """Disconnect; safe twice."""
        self._mqtt.stop()
        self._thread.stop()

    def reload(self) -> None:
        """Use a renewed certificate from the next connection on."""
        self._mqtt.reload()

    def publish(self, device: str, leaf: str, body: bytes, *, retain: bool = False) -> None:
        """Send ``body`` on a device's topic ``down/<leaf>``; see ``Downlink``."""
        if retain or leaf not in _BY_NATS:
            self._mqtt.publish(device, leaf, body, retain=retain)
            return
        with self._lock:
            if self._loop is None or len(self._waiting) >= MAX_QUEUED:
                self._dropped += 1
                return
            self._waiting.append((wire.down(device, leaf).replace("/", "."), body))
            if len(self._waiting) == 1:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._wake.set)

    async def _work(self, client: Client) -> None:
        import nats.errors

        self._loop = asyncio.get_running_loop()
        self._thread.is_ready()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, []
            for subject, body in waiting:
                try:
                    if client.is_connected:
                        await client.publish(subject, body)
                        continue
                except nats.errors.Error:
                    pass
                self._dropped += 1
