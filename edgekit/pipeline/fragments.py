"""Images as fragmented MP4: each is encoded once, and any run of fragments from a keyframe on is a video.

A file is ``head`` and fragments. It plays whenever its writer is killed, up to the last whole fragment::

    video = Encoder("h264", 1280, 720)
    for at_s, image in frames:
        for fragment in video.add(image, at_s):
            file.write(fragment.data)  # after video.head
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, StorageError
from edgekit.pipeline.libav import libav
from edgekit.pipeline.packets import VideoPacket
from edgekit.pipeline.pre import vision

TICKS = 90_000
"""Ticks of a second in every file. Source: the clock of MPEG systems, ISO/IEC 13818-1."""
KEY_EVERY_S = 2.0
MARK = "made by edgekit"
"""Stands in the head of every file, so that a quota deletes no other file."""
_MOVFLAGS = "frag_every_frame+empty_moov+default_base_moof"
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "superfast", "tune": "zerolatency", "crf": "26", "forced-idr": "1"}),
    "vp9": (
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0", "lag-in-frames": "0"},
    ),
}
"""The encoder of each codec, and its options: little work for each image, and none held back."""
_COMMON = {"g": "100000", "threads": "1", "colorspace": "smpte170m", "color_range": "tv"}
"""Keyframes are asked for by time; one thread, as others would take the runtime's cores."""


class Fragment(NamedTuple):
    """One image: a box ``moof`` and its ``mdat``. ``at`` is its time in ticks since its encoder's first."""

    data: bytes
    at: int
    is_key: bool

    def moved(self, ticks: int) -> bytes:
        """Return its bytes with its time less ``ticks``, for a file that begins there."""
        where = _time_of(self.data)
        size = where.stop - where.start
        return self.data[: where.start] + (self.at - ticks).to_bytes(size, "big") + self.data[where.stop :]


def _time_of(data: bytes) -> slice:
    """Return where a fragment's time stands. Source: ISO/IEC 14496-12, 8.8.12, the box ``tfdt``."""
    box = data.index(b"tfdt") + 4
    return slice(box + 4, box + (12 if data[box] else 8))


class _Boxes:
    """A file that a muxer writes, taken apart into its boxes."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        """Take bytes of the muxer."""
        self._bytes += data
        return len(data)

    def take(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (type, bytes) of each box that is whole."""
        while len(self._bytes) >= 8:
            size = int.from_bytes(self._bytes[:4], "big")
            if len(self._bytes) < size:
                return
            yield bytes(self._bytes[4:8]), bytes(self._bytes[:size])
            del self._bytes[:size]


class _Muxer:
    """Makes fragments of packets; ``head`` is what stands before them in a file."""

    def __init__(self) -> None:
        self.head = b""
        self._boxes = _Boxes()
        self._container = libav().open(
            self._boxes,
            "w",
            format="mp4",
            options={"movflags": _MOVFLAGS, "video_track_timescale": str(TICKS), "flush_packets": "1"},
        )
        self._container.metadata["comment"] = MARK
        self._keys: deque[bool] = deque()
        self._part = b""

    def mux(self, packets: list[Any]) -> list[Fragment]:
        for packet in packets:
            self._keys.append(packet.is_keyframe)
            self._container.mux(packet)
        return list(self._whole())

    def _whole(self) -> Iterator[Fragment]:
        for kind, data in self._boxes.take():
            if kind in (b"ftyp", b"moov"):
                self.head += data
            elif kind == b"moof":
                self._part = data
            elif kind == b"mdat":
                at = int.from_bytes(self._part[_time_of(self._part)], "big")
                yield Fragment(self._part + data, at, self._keys.popleft())

    def end(self) -> list[Fragment]:
        self._container.close()
        return list(self._whole())


class Encoder(_Muxer):
    """Encodes images of one size, on one thread.

    Args:
        codec: A name of ``CODECS``.
        width: Of the images, in pixels; an odd last column is left out.
        height: An odd last row is left out.

    Raises:
        ConfigError: PyAV is not installed, or lacks the encoder.
    """

    def __init__(self, codec: str, width: int, height: int) -> None:
        super().__init__()
        self._av, self._cv2 = libav(), vision()
        self.width, self.height = width // 2 * 2, height // 2 * 2
        encoder, options = CODECS[codec]
        try:
            self._stream = self._container.add_stream(encoder, rate=30, options={**_COMMON, **options})
        except (self._av.FFmpegError, ValueError) as cause:
            raise ConfigError(
                f"a video of {codec}: this build of PyAV has no encoder {encoder}",
                hint=f"take another codec ({', '.join(CODECS)}), or PyAV's wheel from PyPI",
            ) from cause
        self._stream.width, self._stream.height = self.width, self.height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, TICKS)
        self._last, self._key = -1, -TICKS * KEY_EVERY_S

    def add(self, image: NDArray[Any], at_s: float) -> list[Fragment]:
        """Encode an image, shape (height, width, 3), uint8, BGR; return the fragments that are whole.

        An image's own fragment is whole with the next image. A time that does not grow is put one tick later.
        """
        even = image[: self.height, : self.width]
        planes = self._cv2.cvtColor(even, self._cv2.COLOR_BGR2YUV_I420)
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = self._last = max(self._last + 1, round(at_s * TICKS))
        frame.time_base = Fraction(1, TICKS)
        if frame.pts - self._key >= TICKS * KEY_EVERY_S:
            frame.pict_type, self._key = self._av.video.frame.PictureType.I, frame.pts
        return self.mux(self._stream.encode(frame))

    def close(self) -> list[Fragment]:
        """Return what was held back; nothing can be added any more."""
        return self.mux(self._stream.encode(None)) + self.end()


class Copier(_Muxer):
    """Makes fragments of a camera's packets as they came.

    Args:
        first: A keyframe, of the stream that all packets are of.

    Raises:
        StorageError: MP4 cannot hold this codec.
    """

    def __init__(self, first: VideoPacket) -> None:
        super().__init__()
        self.stream = info = first.stream
        self._av = av = libav()
        try:
            # FFmpeg's demuxer of bare packets is called as the codec: it gives the stream that is copied
            self._template = av.open(io.BytesIO(info.extradata + first.data), format=info.codec)
            template = self._template.streams.video[0]
            self._stream = self._container.add_stream_from_template(template, opaque=True)
        except (av.FFmpegError, ValueError, IndexError) as cause:
            raise StorageError(f"a clip cannot hold the camera's {info.codec}: {cause}") from cause

    def add(self, packet: VideoPacket) -> list[Fragment]:
        """Add the next packet; return the fragments that are whole."""
        made = self._av.Packet(packet.data)
        made.stream, made.time_base = self._stream, self.stream.time_base
        made.pts, made.dts, made.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
        return self.mux([made])

    def close(self) -> list[Fragment]:
        """Return what was held back; nothing can be added any more."""
        fragments = self.end()
        self._template.close()
        return fragments
