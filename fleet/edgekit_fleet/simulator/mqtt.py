"""The packets of MQTT 3.1.1 that a device needs, as bytes.

One asyncio loop holds 10,000 connections; the MQTT library has a thread or a socket pair for each.

Source: OASIS, "MQTT Version 3.1.1", chapters 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.core.errors import ProtocolError

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
PING = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
REFUSALS = {
    1: "protocol version",
    2: "client id",
    3: "server unavailable",
    4: "user or password",
    5: "not authorised",
}
MAX_PACKET_BYTES = 4 << 20


@dataclass(frozen=True)
class Packet:
    """A packet from the broker: its kind, flags and body."""

    kind: int
    flags: int
    body: bytes

    def publication(self) -> tuple[str, bytes]:
        """Return topic and payload of a PUBLISH at QoS 0."""
        length = int.from_bytes(self.body[:2], "big")
        start = 2 + length + (2 if self.flags & 6 else 0)
        return self.body[2 : 2 + length].decode(), self.body[start:]


def connect(client_id: str, will_topic: str, will: bytes, keepalive_s: int) -> bytes:
    """Return a CONNECT with a clean session and a retained will at QoS 1."""
    flags = 0x02 | 0x04 | 0x08 | 0x20
    head = _text("MQTT") + bytes([4, flags]) + keepalive_s.to_bytes(2, "big")
    return _packet(0x10, head + _text(client_id) + _text(will_topic) + len(will).to_bytes(2, "big") + will)


def subscribe(topic: str) -> bytes:
    """Return a SUBSCRIBE to one topic filter at QoS 0."""
    return _packet(0x82, b"\x00\x01" + _text(topic) + b"\x00")


def publish(topic: str, payload: bytes, packet_id: int, *, retain: bool = False) -> bytes:
    """Return a PUBLISH at QoS 1, or at QoS 0 where ``packet_id`` is 0."""
    number = packet_id.to_bytes(2, "big") if packet_id else b""
    first = 0x30 | (0x02 if packet_id else 0) | int(retain)
    return _packet(first, _text(topic) + number + payload)


class Reader:
    """Cuts a stream of bytes into packets."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that are complete with these bytes.

        Raises:
            ProtocolError: A packet is longer than 4 MiB, or has no length.
        """
        self._waiting += data
        while (cut := _length(self._waiting)) is not None:
            start, size = cut
            if len(self._waiting) < start + size:
                return
            first, body = self._waiting[0], bytes(self._waiting[start : start + size])
            del self._waiting[: start + size]
            yield Packet(first >> 4, first & 15, body)


def _length(data: bytearray) -> tuple[int, int] | None:
    """Return where the body of the first packet starts, and its length; None while that is not known."""
    size = 0
    for index in range(1, min(5, len(data))):
        size |= (data[index] & 127) << (7 * (index - 1))
        if not data[index] & 128:
            if size > MAX_PACKET_BYTES:
                raise ProtocolError(f"a packet of {size} bytes")
            return index + 1, size
    if len(data) >= 5:
        raise ProtocolError("a packet without a length")
    return None


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(first: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (128 if size else 0))
        if not size:
            return bytes([first]) + bytes(length) + body
