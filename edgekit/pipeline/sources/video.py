"""A video file."""

from __future__ import annotations

import logging
import threading
import time
from typing import Annotated, Any

import msgspec

from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import DUE_S, Pacer, stamp

logger = logging.getLogger(__name__)


class VideoOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a video file.

    ``realtime``: play it at its own rate (or at ``fps``) like a camera, and the latest frame wins; else
    every frame, as fast as possible. ``loop``: start again at the end.
    """

    uri: str
    loop: bool = False
    realtime: bool = False
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0


class VideoSource:
    """Frames of a video file."""

    Options = VideoOptions

    def __init__(self, options: VideoOptions, context: SourceContext) -> None:
        self._options = options
        self._path = context.path(options.uri)
        self.is_live = options.realtime
        self.fps = 0.0
        self._closing = threading.Event()
        self._in_use = threading.Lock()
        self._capture: Any = None
        self._pacer: Pacer | None = None
        self._seq = self._round_frames = 0
        self._round_s = self._media_s = 0.0

    @property
    def due_s(self) -> float:
        """Seconds within which a frame is due."""
        return DUE_S if self._pacer is None else self._pacer.due_s

    def open(self) -> None:
        """Open the file."""
        self._capture = self._opened()
        cv2 = vision()
        stated = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = self._options.fps or (stated if 0 < stated <= 1000 else 25.0)
        if self._options.realtime:
            self._pacer = Pacer(self.fps, self._closing)

    def _opened(self) -> Any:
        if not self._path.is_file():
            raise SourceError(f"video {str(self._path)!r}: there is no such file")
        capture = vision().VideoCapture(str(self._path))
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"video {str(self._path)!r}: is not a video that OpenCV can decode")
        return capture

    def read(self) -> Frame | None:
        """Return the next frame, when it is due; None at the end or after ``close``."""
        if self._pacer is not None:
            self._pacer.wait()
        captured_ns, unix_ms = stamp()
        pixels = self._next_pixels()
        if pixels is None:
            return None
        decoded_ns, meta = time.monotonic_ns(), {}
        if self._pacer is None:
            captured_ns = decoded_ns  # decoding is no part of its latency
        else:
            meta["capture_ms"] = (decoded_ns - captured_ns) / 1e6
        self._seq += 1
        meta["media_s"] = self._media_s
        return Frame(pixels, self._seq - 1, captured_ns, unix_ms, meta)

    def _next_pixels(self) -> Any:
        with self._in_use:
            while not self._closing.is_set() and self._capture is not None:
                is_there, pixels = self._capture.read()
                if is_there:
                    self._clock()
                    self._round_frames += 1
                    return pixels
                self._check_round()
                if not self._options.loop:
                    return None
                self._capture.release()
                self._capture = self._opened()
                self._round_frames = 0
                self._round_s = self._media_s + 1 / self.fps
        return None

    def _clock(self) -> None:
        """Note the frame's time in the recording, by its own timestamp, else by the rate."""
        rate_s = self._round_s + self._round_frames / self.fps
        own_s = self._round_s + self._capture.get(vision().CAP_PROP_POS_MSEC) / 1e3
        is_whole = not self._seq or own_s > self._media_s
        self._media_s = own_s if is_whole and not self._options.fps else max(rate_s, self._media_s)

    def _check_round(self) -> None:
        """Warn of a file with fewer frames than its header states; refuse one with none."""
        if self._round_frames == 0:
            raise SourceError(f"video {str(self._path)!r}: not one frame of it can be decoded")
        stated = int(self._capture.get(vision().CAP_PROP_FRAME_COUNT))
        if self._round_frames < stated * 0.9:
            fields = {"source": str(self._path), "stated": stated, "decoded": self._round_frames}
            logger.warning("the video is damaged or states a wrong length", extra=fields)

    def close(self) -> None:
        """Free the file."""
        self._closing.set()
        with self._in_use:
            if self._capture is not None:
                self._capture.release()
            self._capture = None
