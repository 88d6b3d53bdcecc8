"""A video of the seconds before and after each event, as fragmented MP4, with the event's document beside it.

A network camera's packets are written as they came, where nothing is to be hidden or drawn. Else each frame
is encoded once, redacted, and its fragments wait in memory for an event. A clip is a file from its first
byte on: it plays whenever the process is killed.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Protocol

import msgspec

from edgekit.core.errors import StorageError, TensorError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.fragments import Copier, Encoder, Fragment
from edgekit.pipeline.packets import PacketRing, VideoPacket
from edgekit.pipeline.recording import Recording, keep_quota
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.document import event_documents
from edgekit.pipeline.sinks.video import FrameClock, draw, prove

Seconds = Annotated[float, msgspec.Meta(ge=0, le=600)]
ENDINGS = frozenset({"vanished", "ended", "counted", "left"})
"""Kinds of events that need no clip unless they are named: they follow one that has a clip."""
_MAX_WAITING_BYTES = 64 << 20
"""Of fragments in memory."""
MAX_EARLY = 100
COPIED = "h264"
"""The camera's codec that browsers play."""


class ClipsOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of clips.

    ``path``: their folder. ``on``: kinds of events, by default those that begin something. A clip that
    another event falls into becomes longer, up to ``max_s``. ``codec``, ``draw``: as for ``video``. The
    oldest clips are deleted over ``max_mb``.
    """

    path: str
    before_s: Seconds = 5.0
    after_s: Seconds = 10.0
    max_s: Seconds = 120.0
    on: tuple[str, ...] = ()
    codec: Literal["h264", "vp9"] = "h264"
    draw: bool = False
    max_mb: Annotated[float, msgspec.Meta(ge=0.1)] = 2000.0


class Maker(Protocol):
    """Where a clip's fragments come from. ``number`` grows where one file cannot hold what follows."""

    number: int

    def take(self, result: Result) -> list[Fragment]:
        """Return the fragments that are whole with a frame, for a clip that is open."""

    def begin(self, from_ns: int) -> tuple[bytes, list[Fragment]]:
        """Return the head of a file and the fragments up to now, from a keyframe before a time on."""

    def end(self) -> list[Fragment]:
        """Return what is held back at the end of a clip."""

    def close(self) -> None:
        """Free everything."""


class ClipsSink:
    """Writes one clip at a time.

    Raises:
        ConfigError: PyAV is not installed, or has no such encoder.
    """

    Options = ClipsOptions

    def __init__(self, options: ClipsOptions, context: SinkContext) -> None:
        self._options, self._folder = options, context.path(options.path)
        prove(options.codec)
        self._maker: Maker = Encoded(options, context)
        if context.packets is not None and not (options.draw or context.hides):
            self._maker = Copied(context.packets, self._maker, options.before_s)
        self._clip: Recording | None = None
        self._number = 0
        self._documents: list[dict[str, Any]] = []
        self._early: list[dict[str, Any]] = []
        """Events before the first whole image."""
        self._began_ns = self._ends_ns = 0

    def write(self, result: Result) -> None:
        """Take a frame, and begin or lengthen a clip where it has an event.

        Raises:
            StorageError: The clip cannot be written.
        """
        frame = result.frame
        fragments = self._maker.take(result)
        if self._clip is not None and self._number != self._maker.number:
            self._end()
        self._add(fragments)
        events = [event for event in event_documents(result) if self._is_for(event["kind"])]
        if result.is_again:
            events = [event for event in events if not self._has(event["key"])]
        events, self._early = self._early + events, []
        if events:
            if self._clip is None:
                self._begin(events[0], frame.captured_ns, frame.captured_unix_ms)
            self._note(events, frame.captured_ns)
        if self._clip is not None and frame.captured_ns >= self._ends_ns:
            rest = self._maker.end()
            self._add(rest)
            self._end()

    def _is_for(self, kind: str) -> bool:
        return kind in self._options.on if self._options.on else kind not in ENDINGS

    def _has(self, key: str) -> bool:
        """Return whether an earlier run noted an event beside its last clips."""
        return any(key.encode() in path.read_bytes() for path in sorted(self._folder.glob("*.json"))[-2:])

    def _begin(self, event: dict[str, Any], now_ns: int, unix_ms: int) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_ms / 1e3))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{stamp}-{event['kind']}-{event['label']}-{event['id']}")
        head, before = self._maker.begin(now_ns - int(self._options.before_s * 1e9))
        if not before:
            return  # an image is whole with the next one
        self._documents, self._began_ns, self._number = [], now_ns, self._maker.number
        self._clip = Recording(self._folder / f"{name}.mp4", head)
        self._add(before)
        keep_quota(self._folder.glob("*.mp4"), self._options.max_mb * 1e6, self._clip.path)

    def _note(self, events: list[dict[str, Any]], now_ns: int) -> None:
        """Lengthen the clip, and write its events beside it as JSON: whoever reads it finds a whole list."""
        if self._clip is None:
            self._early = events[-MAX_EARLY:]
            return
        longest_ns = self._began_ns + int(self._options.max_s * 1e9)
        self._ends_ns = min(now_ns + int(self._options.after_s * 1e9), longest_ns)
        self._documents += events
        path = self._clip.path.with_suffix(".json")
        part = path.with_suffix(".part")
        try:
            part.write_bytes(msgspec.json.encode(self._documents))
            part.replace(path)
        except OSError as cause:
            raise StorageError(f"{path}: cannot be written: {cause.strerror}") from cause

    def _add(self, fragments: list[Fragment]) -> None:
        if self._clip is None:
            return
        try:
            for fragment in fragments:
                if self._clip.begins is not None or fragment.is_key:
                    self._clip.add(fragment)
        except StorageError:
            self._end()
            raise

    def _end(self) -> None:
        if self._clip is not None:
            self._clip.close()
        self._clip = None

    def close(self) -> None:
        """Finish the clip; safe to call twice."""
        try:
            if self._clip is not None:
                self._add(self._maker.end())
        finally:
            self._end()
            self._maker.close()


class Encoded:
    """Fragments of the frames as they reach the sinks, redacted: the last seconds, from a keyframe on."""

    def __init__(self, options: ClipsOptions, context: SinkContext) -> None:
        self._options, self._clock = options, FrameClock(context)
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._kept: deque[tuple[int, Fragment]] = deque()
        self._bytes = 0
        self.number = 0

    def take(self, result: Result) -> list[Fragment]:
        """Encode a frame; return the fragments that are whole with it."""
        pixels = result.frame.data
        if pixels.ndim != 3:
            raise TensorError(f"a clip: want images, got a window of shape {pixels.shape}")
        size = (pixels.shape[1], pixels.shape[0])
        if self._encoder is None or size != self._size:
            self.close()
            self._encoder, self._size, self.number = (
                Encoder(self._options.codec, *size),
                size,
                self.number + 1,
            )
        image = draw(pixels, result.prediction) if self._options.draw else pixels
        fragments = self._encoder.add(image, self._clock.at_s(result))
        for fragment in fragments:
            self._keep(fragment, result.frame.captured_ns)
        return fragments

    def _keep(self, fragment: Fragment, now_ns: int) -> None:
        self._kept.append((now_ns, fragment))
        self._bytes += len(fragment.data)
        oldest_ns = now_ns - self._options.before_s * 1e9
        while second := self._second_key():
            if self._kept[second][0] > oldest_ns and self._bytes <= _MAX_WAITING_BYTES:
                return
            for _ in range(second):
                self._bytes -= len(self._kept.popleft()[1].data)

    def _second_key(self) -> int:
        """Return where the second keyframe stands; 0 where there is none."""
        return next((at for at, (_, kept) in enumerate(self._kept) if at and kept.is_key), 0)

    def begin(self, from_ns: int) -> tuple[bytes, list[Fragment]]:
        """Return the head of a file and what is kept, which is no more than is asked for."""
        del from_ns
        return self._encoder.head if self._encoder else b"", [fragment for _, fragment in self._kept]

    def end(self) -> list[Fragment]:
        """Return nothing: the last image is whole with the next one, and belongs to the next clip too."""
        return []

    def close(self) -> None:
        """Free the encoder, and forget what is kept."""
        if self._encoder is not None:
            self._encoder.close()
        self._encoder = None
        self._kept.clear()
        self._bytes = 0


class Copied:
    """Fragments of a camera's packets as they came; of frames, where browsers do not play its codec."""

    def __init__(self, ring: PacketRing, otherwise: Maker, before_s: float) -> None:
        self._ring, self._otherwise = ring, otherwise
        self._copier: Copier | None = None
        self._last: VideoPacket | None = None
        self._copies: bool | None = None
        self.number = 0
        ring.keep(max(1.0, before_s))

    def take(self, result: Result) -> list[Fragment]:
        """Return the fragments of the packets that came since the last call."""
        if self._copies is None:
            runs = self._ring.take(0, math.inf)
            self._copies = None if not runs else runs[-1][0].stream.codec == COPIED
        if self._copies is False:
            fragments = self._otherwise.take(result)
            self.number = self._otherwise.number
            return fragments
        if self._copier is None or self._last is None:
            return []
        runs = self._ring.take(self._last.captured_ns, math.inf)
        if runs and runs[-1][0].stream is not self._last.stream:
            self.number += 1  # the camera was connected again
        return self._add(self._copier, [packet for run in runs for packet in run])

    def _add(self, copier: Copier, packets: Iterable[VideoPacket]) -> list[Fragment]:
        fragments: list[Fragment] = []
        for packet in packets:
            if packet.stream is copier.stream and (self._last is None or packet.dts > self._last.dts):
                fragments += copier.add(packet)
                self._last = packet
        return fragments

    def begin(self, from_ns: int) -> tuple[bytes, list[Fragment]]:
        """Return the head of a file and the fragments up to now, from a keyframe before a time on."""
        if self._copies is False:
            return self._otherwise.begin(from_ns)
        runs = self._ring.take(from_ns, math.inf)
        if not runs:
            return b"", []
        self.end()
        self._copier = copier = Copier(runs[-1][0])
        fragments = self._add(copier, runs[-1])
        return copier.head, fragments

    def end(self) -> list[Fragment]:
        """Return what is held back, and end the copy."""
        copier, self._copier, self._last = self._copier, None, None
        return copier.close() if copier is not None else []

    def close(self) -> None:
        """Free everything."""
        self.end()
        self._otherwise.close()
