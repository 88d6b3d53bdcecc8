"""The compressed packets of a camera's stream: the last seconds of it, for clips without encoding again.

A source fills the ring, a sink takes packets from it::

    ring.keep(10)  # the sink, before the source is open
    ring.add(packet)  # the source
    for run in ring.take(event_ns - 5e9, event_ns):  # the sink
        write_clip(path, run)  # edgekit.pipeline.libav
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

MAX_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class StreamInfo:
    """The parameters of one connection's stream; two connections are two streams.

    ``codec`` is FFmpeg's name (``h264``, ``hevc``, ``mjpeg``), ``time_base`` the seconds of one tick,
    ``extradata`` the codec's header.
    """

    codec: str
    width_px: int
    height_px: int
    time_base: Fraction
    extradata: bytes = b""


@dataclass(frozen=True, slots=True)
class VideoPacket:
    """One compressed picture. ``pts`` and ``dts`` are ticks, ``captured_ns`` is on ``Frame``'s clock."""

    data: bytes
    pts: int
    dts: int
    is_keyframe: bool
    captured_ns: int
    stream: StreamInfo


class PacketRing:
    """Keeps the last ``seconds`` of a stream from a keyframe on, within ``max_bytes``; for any thread.

    It keeps nothing until ``keep`` is called. ``dropped`` counts the packets that the limit of bytes cost;
    what is left begins at a later keyframe then.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.seconds = 0.0
        self.dropped = 0
        self._max_bytes, self._bytes = max_bytes, 0
        self._packets: deque[VideoPacket] = deque()
        self._keyframes: deque[int] = deque()  # captured_ns of each keyframe that is kept
        self._lock = threading.Lock()

    def keep(self, seconds: float) -> None:
        """Keep at least so many seconds."""
        with self._lock:
            self.seconds = max(self.seconds, seconds)

    def add(self, packet: VideoPacket) -> None:
        """Add the stream's next packet; one that no keyframe precedes is useless, and left out."""
        with self._lock:
            if not self.seconds or not (packet.is_keyframe or self._follows(packet)):
                return
            self._packets.append(packet)
            self._bytes += len(packet.data)
            if packet.is_keyframe:
                self._keyframes.append(packet.captured_ns)
            oldest_ns = packet.captured_ns - self.seconds * 1e9
            while len(self._keyframes) > 1 and self._keyframes[1] <= oldest_ns:
                self._forget()
            while self._bytes > self._max_bytes:
                self.dropped += self._forget()

    def _follows(self, packet: VideoPacket) -> bool:
        return bool(self._packets) and self._packets[-1].stream is packet.stream

    def _forget(self) -> int:
        """Remove the first keyframe and what depends on it; return how many packets that were."""
        before = len(self._packets)
        self._keyframes.popleft()
        while self._packets:
            self._bytes -= len(self._packets.popleft().data)
            if self._packets and self._packets[0].is_keyframe:
                break
        return before - len(self._packets)

    def take(self, from_ns: float, to_ns: float) -> tuple[tuple[VideoPacket, ...], ...]:
        """Return the packets of a time, as one run for each connection to the camera.

        Args:
            from_ns: The first picture's time, as ``Frame.captured_ns``. A run begins at the last keyframe
                until then, or at the first one that is kept.
            to_ns: The last picture's time; a caller that wants what comes waits until then.

        Returns:
            The runs in order of time, each beginning with a keyframe and of one ``stream``, to be written
            without decoding; none where nothing of that time is kept.
        """
        with self._lock:
            packets = [packet for packet in self._packets if packet.captured_ns <= to_ns]
        keyframes = [at for at, packet in enumerate(packets) if packet.is_keyframe]
        first = max((at for at in keyframes if packets[at].captured_ns <= from_ns), default=0)
        runs: list[list[VideoPacket]] = []
        for packet in packets[first:]:
            if not runs or runs[-1][0].stream is not packet.stream:
                runs.append([])
            runs[-1].append(packet)
        return tuple(tuple(run) for run in runs if run[-1].captured_ns >= from_ns)
