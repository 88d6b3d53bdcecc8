"""One connection to a network camera: a thread that receives its packets and never waits for their user."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.errors import SourceError
from edgekit.pipeline.libav import Connection
from edgekit.pipeline.packets import StreamInfo, VideoPacket
from edgekit.pipeline.sources.rtsp_address import Address
from edgekit.pipeline.sources.timing import StreamClock
from edgekit.pipeline.sources.tls_relay import TlsRelay

_BEFORE_FIRST = -1000
"""Ticks; whatever has no time of its own comes one tick after what came before."""
MAX_WAITING = 512
"""Packets that may wait for the decoder: 10 to 20 s of a stream; beyond, those before a keyframe go."""


@dataclass(frozen=True)
class Access:
    """How a camera is reached; times in seconds."""

    address: Address
    transport: str
    open_s: float
    stall_s: float
    fingerprint: str = ""
    ca: Path | None = None

    def options(self) -> Mapping[str, str]:
        """Return FFmpeg's options: a stream is probed briefly, and little is waited for lost packets."""
        return {
            "rtsp_transport": self.transport,
            "analyzeduration": "500000",
            "fpsprobesize": "0",
            "reorder_queue_size": "64" if self.transport == "udp" else "0",
            "max_delay": "200000",
        }


class Session:
    """Connects in its own thread at once. ``on_packet`` is called there with each packet.

    ``keeps``: packets also wait for ``take``, in a queue of bounded length.
    """

    def __init__(
        self, access: Access, *, keeps: bool, on_packet: Callable[[VideoPacket], object] = lambda _: None
    ) -> None:
        self._access, self._keeps, self._on_packet = access, keeps, on_packet
        self._changed = threading.Condition()
        self._waiting: deque[VideoPacket] = deque()
        self._is_closing = self._is_over = False
        self._missing = 0
        self._error: Exception | None = None
        self.info: StreamInfo | None = None
        """Of the stream; None until the connection is open."""
        self._thread = threading.Thread(target=self._run, name="rtsp", daemon=True)
        self._thread.start()

    # -- its user

    def wait_open(self, closing: threading.Event) -> StreamInfo | None:
        """Return the stream's parameters once it is open; None when ``closing``.

        Raises:
            SourceError: It cannot be opened.
        """
        with self._changed:
            while self.info is None and not self._is_over and not closing.is_set():
                self._changed.wait(0.1)
            if self.info is not None:
                return self.info
            if self._error is not None and not closing.is_set():
                raise self._error
            return None

    def take(self) -> tuple[list[VideoPacket], int]:
        """Wait for packets; return them, and how many before them were dropped.

        Empty at the end of the stream, whose reason ``lost`` returns, and after ``close``.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over or self._is_closing)
            packets, missing = list(self._waiting), self._missing
            self._waiting.clear()
            self._missing = 0
            return packets, missing

    def lost(self) -> SourceError | None:
        """Wait for the stream's end and return what ended it; None after ``close``.

        Raises:
            Exception: A bug ended it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._is_closing)
            if self._is_closing or self._error is None:
                return None
            if not isinstance(self._error, SourceError):
                raise self._error
            return self._error

    def close(self, wait_s: float = 0.0) -> None:
        """Have it end, which takes it until its next packet or time-out; safe to call twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(wait_s)

    # -- its thread

    def _run(self) -> None:
        relay = None
        try:
            relay = self._relay()
            self._receive(relay.port if relay else 0)
            self._end(SourceError("the camera ended the stream", fault="CONNECTION_FAILED"))
        except Exception as error:  # noqa: BLE001 - handed to the thread that reads
            self._end(error)
        finally:
            if relay is not None:
                relay.close()

    def _relay(self) -> TlsRelay | None:
        access, address = self._access, self._access.address
        if address.scheme != "rtsps":
            return None
        return TlsRelay(
            address.host,
            address.port,
            fingerprint=access.fingerprint,
            ca=access.ca,
            timeout_s=access.open_s,
        )

    def _receive(self, relay_port: int) -> None:
        access = self._access
        try:
            socket.getaddrinfo(access.address.host, access.address.port)
        except OSError as cause:
            raise SourceError(
                f"its name is not known: {cause.strerror}", fault="CONNECTION_FAILED"
            ) from cause
        url = access.address.url(relay_port)
        connection = Connection(url, access.options(), access.open_s, access.stall_s)
        try:
            with self._changed:
                self.info = info = connection.info
                self._changed.notify_all()
            clock, ticks_ns = StreamClock(), 1e9 * float(info.time_base)
            last = _BEFORE_FIRST
            for data, pts, dts, is_keyframe in connection.packets():
                if self._is_closing:
                    return
                arrived_ns = time.monotonic_ns()
                at = pts if pts is not None else dts
                if at is None:  # the first one often has no time, and the others begin near 0
                    at = last + 1
                last = at
                captured_ns = clock.captured_ns(int(at * ticks_ns), arrived_ns)
                self._put(VideoPacket(data, at, at if dts is None else dts, is_keyframe, captured_ns, info))
        finally:
            connection.close()

    def _put(self, packet: VideoPacket) -> None:
        self._on_packet(packet)
        if not self._keeps:
            return
        with self._changed:
            self._waiting.append(packet)
            if len(self._waiting) > MAX_WAITING:
                self._drop()
            self._changed.notify_all()

    def _drop(self) -> None:
        """Drop what waits before the newest keyframe; all of it where that is the first, or there is none."""
        before = len(self._waiting)
        newest = max((at for at, packet in enumerate(self._waiting) if packet.is_keyframe), default=0)
        for _ in range(newest or before):
            self._waiting.popleft()
        self._missing += before - len(self._waiting)

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._error, self._is_over = error, True
            self._changed.notify_all()
