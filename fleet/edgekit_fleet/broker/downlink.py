"""The way down to devices, by MQTT on every broker: only a broker itself can retain a message."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.core import wire
from edgekit_fleet.broker.mqtt import Access, MqttLink

_SURE = {"desired": 1, "cmd": 1, "ack": 0, "res": 0}


class MqttDownlink:
    """Publishes below devices' ``down``; any thread may call it.

    Args:
        access: How to reach the broker.
        on_connected: Told of each connection: what is retained should be published again.
    """

    def __init__(self, access: Access, client_id: str, on_connected: Callable[[], None]) -> None:
        self._link = MqttLink(access, client_id, on_connected=on_connected)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._link.is_connected

    @property
    def dropped(self) -> int:
        """How many messages were given up because the broker was away or the queue full."""
        return self._link.dropped

    def start(self) -> None:
        """Connect; raises ``LinkError`` when the broker cannot be reached."""
        self._link.start()

    def stop(self) -> None:
        """Disconnect; safe twice."""
        self._link.stop()

    def publish(self, device: str, leaf: str, body: bytes, *, retain: bool = False) -> None:
        """Send ``body`` on a device's ``down/<leaf>`` (see ``services.Downlink``)."""
        self._link.publish(wire.down(device, leaf), body, qos=_SURE[leaf], retain=retain)
