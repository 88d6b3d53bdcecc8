"""FFmpeg's libraries through PyAV: the one file that knows them.

``Connection`` receives the compressed pictures of a network stream, ``Decoder`` turns them into images, and
``write_clip`` writes them as they came. ``AvFile`` decodes a video file.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, SourceError, StorageError
from edgekit.pipeline.packets import StreamInfo, VideoPacket
from edgekit.pipeline.picture_files import readable, utf8_name

PROBED_FRAMES = 8

# PyAV's class of an error: the fault it is; any other one is CONNECTION_FAILED
_FAULTS = {
    "HTTPUnauthorizedError": ("AUTH_FAILED", "the camera refuses the user name or password"),
    "HTTPForbiddenError": ("AUTH_FAILED", "the camera refuses access to this stream"),
    "HTTPNotFoundError": ("NOT_FOUND", "the camera has no stream of this path"),
    "ExitError": ("TIMEOUT", "no answer in time"),
    "TimeoutError": ("TIMEOUT", "no answer in time"),
    "InvalidDataError": ("CONNECTION_FAILED", "what answers does not speak RTSP"),
    "DecoderNotFoundError": ("CODEC_UNSUPPORTED", "there is no decoder for this stream"),
}


@lru_cache(maxsize=1)
def libav() -> Any:
    """Return PyAV's module, with FFmpeg's own messages off: they contain addresses with passwords.

    Raises:
        ConfigError: It is not installed, or cannot be loaded.
    """
    try:
        import av
        import av.logging
    except ImportError as cause:
        is_absent = isinstance(cause, ModuleNotFoundError) and cause.name == "av"
        why = "is not installed" if is_absent else f"cannot be loaded: {cause}"
        raise ConfigError(
            f"network cameras and clips need PyAV, which {why}", hint=install_hint("rtsp")
        ) from cause
    av.logging.set_level(None)
    return av


class Connection:
    """One open stream of compressed pictures; opened by its constructor, used by one thread.

    Args:
        url: Its address, which may have credentials: no error contains it.
        options: FFmpeg's options of the protocol.
        open_s: Within this time each step of opening must be done.
        stall_s: Within this time there must be the next picture.

    Raises:
        ConfigError: PyAV is not installed.
        SourceError: It cannot be opened; ``fault`` says why.
    """

    def __init__(self, url: str, options: Mapping[str, str], open_s: float, stall_s: float) -> None:
        self._av, self._stall_s = libav(), stall_s
        began_s = time.monotonic()
        try:
            self._container = self._av.open(url, options=dict(options), timeout=(open_s, stall_s))
        except (self._av.FFmpegError, OSError, ValueError) as cause:
            if time.monotonic() - began_s >= open_s:  # whatever the interrupted step made of it
                raise _timeout() from None
            raise _fault(cause) from None  # the cause names the address
        try:
            self._stream, self.info = self._video()
        except SourceError:
            self.close()
            raise

    def _video(self) -> tuple[Any, StreamInfo]:
        streams = self._container.streams.video
        if not streams:
            raise SourceError("there is no video in this stream", fault="CODEC_UNSUPPORTED")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise SourceError("there is no decoder for this stream's video", fault="CODEC_UNSUPPORTED")
        header = bytes(context.extradata or b"")
        return stream, StreamInfo(
            context.codec.canonical_name, context.width, context.height, stream.time_base, header
        )

    def packets(self) -> Iterator[tuple[bytes, int | None, int | None, bool]]:
        """Yield (bytes, pts, dts, whether it is a keyframe) of each picture, until the stream ends.

        Raises:
            SourceError: The stream broke, or stalled.
        """
        stalled = SourceError(f"no picture came for {self._stall_s:g} s", fault="STALLED")
        came_s = time.monotonic()
        try:
            for packet in self._container.demux():
                now_s = time.monotonic()
                if packet.stream_index == self._stream.index and packet.size:
                    came_s = now_s
                    yield bytes(packet), packet.pts, packet.dts, packet.is_keyframe
                elif now_s - came_s > self._stall_s:  # while sound goes on
                    raise stalled
        except (self._av.FFmpegError, OSError, ValueError) as cause:
            fault = _fault(cause)
            raise stalled if fault.fault == "TIMEOUT" else fault from None

    def close(self) -> None:
        """Close it."""
        self._container.close()


def _timeout() -> SourceError:
    return SourceError(_FAULTS["ExitError"][1], fault="TIMEOUT")


def _fault(cause: Exception) -> SourceError:
    name = type(cause).__name__
    if name in _FAULTS:
        fault, text = _FAULTS[name]
    else:
        fault, text = "CONNECTION_FAILED", str(getattr(cause, "strerror", "") or name)
    return SourceError(text, fault=fault)


class Decoder:
    """Turns the packets of one stream into images, on one thread.

    Raises:
        SourceError: FFmpeg has no decoder for it.
    """

    def __init__(self, info: StreamInfo) -> None:
        self._av = av = libav()
        try:
            self._context = av.CodecContext.create(info.codec, "r")
        except (av.FFmpegError, ValueError) as cause:
            raise SourceError(f"there is no decoder for {info.codec!r}", fault="CODEC_UNSUPPORTED") from cause
        self._context.thread_count = 1  # a frame's thread each would be a frame's delay each
        if info.extradata:
            self._context.extradata = info.extradata
        # PyAV 17 and later scale with every core unless told not to
        self._scaling = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

    def decode(self, packet: VideoPacket) -> list[Any]:
        """Return the whole pictures that a packet completes, often one; none of damaged data."""
        made = self._av.Packet(packet.data)
        made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.stream.time_base
        try:
            return [picture for picture in self._context.decode(made) if not picture.is_corrupt]
        except (self._av.FFmpegError, ValueError):
            return []

    def forget(self) -> None:
        """Forget earlier packets: the next one is a keyframe."""
        self._context.flush_buffers()

    def image(self, picture: Any, halvings: int = 0) -> NDArray[Any]:
        """Return a picture as (height, width, 3), uint8, BGR, each side halved so many times."""
        size = {"width": picture.width >> halvings, "height": picture.height >> halvings} if halvings else {}
        image: NDArray[Any] = picture.to_ndarray(format="bgr24", **size, **self._scaling)
        return image


class AvFile:
    """A video file, turned as its display matrix says, decoded by so many threads (0: one for each core).

    Interlaced frames keep both fields, woven.

    ``fps`` and ``stated_frames`` are what its header says, 0 if it says nothing.

    Raises:
        SourceError: FFmpeg cannot open it, or it has no pictures.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._av, name = libav(), f"video {readable(path)!r}"
        try:
            with utf8_name(path) as opened:
                self._container = self._av.open(opened)
        except (self._av.FFmpegError, OSError, ValueError) as cause:
            raise SourceError(f"{name}: is not a video that FFmpeg can decode: {cause}") from cause
        if not self._container.streams.video:
            self.close()
            raise SourceError(f"{name}: has no pictures")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.thread_count = threads
        self.fps = float(stream.average_rate or 0)
        self.stated_frames = int(stream.frames)
        self._packets = self._container.demux(stream)
        self._decoded: deque[Any] = deque()
        self._start_s: float | None = None

    def _frame(self) -> Any:
        """Return the next decoded frame; None at the end. A packet that cannot be decoded is left out."""
        while not self._decoded:
            try:
                self._decoded.extend(next(self._packets).decode())
            except self._av.error.InvalidDataError:  # noqa: PERF203 - each packet by itself
                continue
            except (StopIteration, self._av.FFmpegError):
                return None
        return self._decoded.popleft()

    def next(self) -> tuple[NDArray[Any], float] | None:
        """Return the next frame, (height, width, 3), uint8, BGR, and its seconds from the start."""
        frame = self._frame()
        if frame is None:
            return None
        at_s = float(frame.time or 0.0)
        self._start_s = at_s if self._start_s is None else self._start_s
        pixels: NDArray[Any] = frame.to_ndarray(format="bgr24")
        if turns := round(frame.rotation / 90) % 4:
            import numpy as np

            pixels = np.ascontiguousarray(np.rot90(pixels, turns))
        return pixels, at_s - self._start_s

    def shows_interlaced(self) -> bool:
        """Return whether one of the next few frames is interlaced; they are used up."""
        frames = (self._frame() for _ in range(PROBED_FRAMES))
        return any(frame is not None and frame.interlaced_frame for frame in frames)

    def close(self) -> None:
        """Free it."""
        self._container.close()


def is_interlaced(path: Path) -> bool:
    """Return whether one of a file's first frames is; False for a file that FFmpeg cannot open."""
    try:
        video = AvFile(path)
    except SourceError:
        return False
    try:
        return video.shows_interlaced()
    finally:
        video.close()


def write_clip(path: Path, run: Sequence[VideoPacket]) -> None:
    """Write the packets of one run of ``PacketRing.take`` as a video that begins at 0 s.

    Args:
        path: A file that is replaced; its suffix is the container (``.mp4``, ``.mkv``).
        run: At least one packet, the first one a keyframe, all of one stream.

    Raises:
        ConfigError: PyAV is not installed.
        StorageError: The file cannot be written, or a container cannot hold this codec.
    """
    av, info, first = libav(), run[0].stream, run[0].dts
    head = io.BytesIO(info.extradata + run[0].data)
    try:
        # FFmpeg's demuxer of bare packets is called as the codec: it gives the stream that the muxer copies
        with av.open(head, format=info.codec) as template, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(template.streams.video[0], opaque=True)
            for packet in run:
                output.mux(_for_muxer(av, packet, first, stream))
    except (av.FFmpegError, OSError, ValueError) as cause:
        raise StorageError(f"clip {str(path)!r}: cannot be written: {cause}") from cause


def _for_muxer(av: Any, packet: VideoPacket, first: int, stream: Any) -> Any:
    made = av.Packet(packet.data)
    made.stream, made.time_base = stream, packet.stream.time_base
    made.pts, made.dts = packet.pts - first, packet.dts - first
    made.is_keyframe = packet.is_keyframe
    return made
