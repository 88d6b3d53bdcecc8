"""Messages to devices by MQTT, as every broker has it: only the broker itself can retain a message.

The embedded broker gets what is not retained by its own protocol: ``nats_downlink``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgekit.core import wire
from edgekit_fleet.broker.mqtt import Access, MqttLink

_QOS = {"desired": 1, "cmd": 1, "ack": 0, "res": 0}


class Downlink(Protocol):
    """Sends messages to devices; any thread may call it, and it does not wait."""

    def publish(self, device: str, leaf: str, body: bytes, *, retain: bool = False) -> None:
        """Send ``body`` on a device's topic ``down/<leaf>``; ``desired`` and ``cmd`` at QoS 1, else 0.

        Messages are dropped and counted while there is no connection to the broker. Nothing is lost by
        it: after each connection the retained documents are published again, commands are sent again
        until they are answered, and devices ask again for the rest.
        """


class MqttDownlink:
    """The ``Downlink`` over one MQTT connection.

    Args:
        access: How to reach the broker.
        client_id: Unique among the broker's clients.
        on_connected: Called after each connection: retained documents should be published again.
    """

    def __init__(self, access: Access, client_id: str, on_connected: Callable[[], None]) -> None:
        self._link = MqttLink(access, client_id, on_connected=on_connected)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._link.is_connected

    @property
    def dropped(self) -> int:
        """The number of messages dropped because there was no connection, or the queue was full."""
        return self._link.dropped

    def start(self) -> None:
        """Connect.

        Raises:
            LinkError: The broker cannot be reached.
        """
        self._link.start()

    def stop(self) -> None:
        """Disconnect; safe twice."""
        self._link.stop()

    def reload(self) -> None:
        """Use a renewed certificate from the next connection on."""
        self._link.reload()

    def publish(self, device: str, leaf: str, body: bytes, *, retain: bool = False) -> None:
        """Send ``body`` on a device's topic ``down/<leaf>``; see ``Downlink``."""
        self._link.publish(wire.down(device, leaf), body, qos=_QOS[leaf], retain=retain)
