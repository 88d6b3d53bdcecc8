"""A video file."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.libav import AvFile, is_interlaced
from edgekit.pipeline.picture_files import readable
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import DUE_S, Pacer, Player, stamp
from edgekit.pipeline.sources.video_file import PEEK_FRAMES, OpenCvFile, VideoFile, shows_nothing

logger = logging.getLogger(__name__)


class VideoOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a video file.

    ``realtime``: play it by its own timestamps (or at ``fps``) like a camera, and the latest frame wins;
    else every frame, as fast as possible. ``loop``: start again at the end. ``threads``: the most that decode
    it; 0: as many as there are cores.
    """

    uri: str
    loop: bool = False
    realtime: bool = False
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0


class VideoSource:
    """Frames of a video file; ``media_s`` in a frame's ``meta`` is its time, growing on when it is looped."""

    Options = VideoOptions

    def __init__(self, options: VideoOptions, context: SourceContext) -> None:
        self._options = options
        self.path = context.path(options.uri)
        self.is_live = options.realtime
        self.fps = 0.0
        self._closing = threading.Event()
        self._in_use = threading.Lock()
        self._decoder: Callable[[Path, int], VideoFile] = OpenCvFile
        self._video: VideoFile | None = None
        self._pacer: Pacer | Player | None = None
        self._seq = self._round_frames = 0
        self._round_s = self._media_s = 0.0

    @property
    def due_s(self) -> float:
        """Seconds within which a frame is due."""
        return DUE_S if self._pacer is None else self._pacer.due_s

    def open(self) -> None:
        """Open the file."""
        self._decoder = decoder_of(self.path)
        self._video = self._decoder(self.path, self._options.threads)
        stated = self._video.fps
        self.fps = self._options.fps or (stated if 0 < stated <= 1000 else 25.0)
        if self._options.realtime and self._options.fps:
            self._pacer = Pacer(self.fps, self._closing)
        elif self._options.realtime:
            self._pacer = Player(self._closing)

    def read(self) -> Frame | None:
        """Return the next frame, when it is due; None at the end or after ``close``."""
        began_ns = time.monotonic_ns()
        pixels = self._next_pixels()
        if pixels is None:
            return None
        meta = {"capture_ms": (time.monotonic_ns() - began_ns) / 1e6, "media_s": self._media_s}
        if isinstance(self._pacer, Player):
            self._pacer.wait_until(self._media_s)
        elif self._pacer is not None:
            self._pacer.wait()
        if self._closing.is_set():
            return None
        captured_ns, unix_ms = stamp()  # decoding is no part of its latency
        self._seq += 1
        return Frame(pixels, self._seq - 1, captured_ns, unix_ms, meta)

    def _next_pixels(self) -> Any:
        with self._in_use:
            while not self._closing.is_set() and self._video is not None:
                picture = self._video.next()
                if picture is not None:
                    self._clock(picture[1])
                    self._round_frames += 1
                    return picture[0]
                self._check_round(self._video)
                if not self._options.loop:
                    return None
                self._video.close()
                self._video = self._decoder(self.path, self._options.threads)
                self._round_frames = 0
                self._round_s = self._media_s + 1 / self.fps
        return None

    def _clock(self, media_s: float) -> None:
        """Note the frame's time in the recording, by its own timestamp, else by the rate."""
        rate_s = self._round_s + self._round_frames / self.fps
        own_s = self._round_s + media_s
        is_whole = not self._seq or own_s > self._media_s
        self._media_s = own_s if is_whole and not self._options.fps else max(rate_s, self._media_s)

    def _check_round(self, video: VideoFile) -> None:
        """Warn of a file with fewer frames than its header states; refuse one with none."""
        if self._round_frames == 0:
            raise SourceError(f"video {readable(self.path)!r}: not one frame of it can be decoded")
        if self._round_frames < video.stated_frames * 0.9:
            fields = {
                "source": readable(self.path),
                "stated": video.stated_frames,
                "decoded": self._round_frames,
            }
            logger.warning("the video is damaged or states a wrong length", extra=fields)

    def close(self) -> None:
        """Free the file."""
        self._closing.set()
        with self._in_use:
            if self._video is not None:
                self._video.close()
            self._video = None


def decoder_of(path: Path) -> Callable[[Path, int], VideoFile]:
    """Return what opens a file: OpenCV, or PyAV where OpenCV cannot show it, which is interlaced video.

    OpenCV 4.13 to 5.0 give black frames for that, or old memory, and no error.

    Raises:
        SourceError: There is no such file, it is no video, or it needs PyAV, which is not installed.
    """
    if not path.is_file():
        raise SourceError(f"video {readable(path)!r}: there is no such file")
    OpenCvFile(path).close()
    if importlib.util.find_spec("av") is not None:
        return AvFile if is_interlaced(path) else OpenCvFile
    if shows_nothing(path):
        raise SourceError(
            f"video {readable(path)!r}: its first frames ({PEEK_FRAMES}, or all) are black or"
            f" random: OpenCV {vision().__version__} shows interlaced video so",
            hint=f"PyAV decodes it: {install_hint('rtsp')}",
        )
    return OpenCvFile
