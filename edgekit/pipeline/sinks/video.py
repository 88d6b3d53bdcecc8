"""Video files with the items drawn in, as fragmented MP4: they play after a kill, and in a browser.

Without PyAV they are VP8 in WebM, by OpenCV.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import StorageError, TensorError
from edgekit.core.ports import Result
from edgekit.core.spec import Item, Mask, Prediction, corners
from edgekit.pipeline.check import Options
from edgekit.pipeline.fragments import TICKS, Encoder, Fragment
from edgekit.pipeline.masks import cells_of
from edgekit.pipeline.plain_video import PlainVideo
from edgekit.pipeline.pre import vision
from edgekit.pipeline.recording import Recording, keep_quota
from edgekit.pipeline.sinks import SinkContext

logger = logging.getLogger(__name__)

Color = tuple[int, int, int]
_COLORS: tuple[Color, ...] = (
    (80, 200, 60),
    (60, 120, 240),
    (230, 160, 40),
    (200, 80, 200),
    (40, 200, 230),
    (90, 90, 240),
)
_SHARE = 0.25
"""A file ends at this share of ``max_mb``, so that the oldest can go while there are newer ones."""
_LOOK_EVERY_TICKS = 10 * TICKS


class VideoOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of video files.

    ``path``: the first file, ``.mp4``; where it is there already, and for each following one, a number is
    put behind its name. ``codec``: ``h264`` or ``vp9``. ``fps`` 0 keeps the frames' own times. ``draw`` puts
    the items in. A new file begins each ``minutes`` (0: at ``max_mb`` alone); the oldest are deleted over
    ``max_mb`` in all.
    """

    path: str
    codec: Literal["h264", "vp9"] = "h264"
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    draw: bool = True
    minutes: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    max_mb: Annotated[float, msgspec.Meta(ge=0.1)] = 10_000.0

    def problems(self) -> Iterator[str]:
        """Report a path that is not an MP4 file's."""
        if Path(self.path).suffix != ".mp4":
            yield f"path: want a file name that ends in .mp4, got {self.path!r}"


class VideoSink:
    """Encodes each frame once; frames of another size begin another file.

    Raises:
        ConfigError: PyAV has no such encoder, or cannot be loaded.
    """

    Options = VideoOptions

    def __init__(self, options: VideoOptions, context: SinkContext) -> None:
        self._options = options
        self._path = context.path(options.path)
        self._clock = FrameClock(context, options.fps)
        self._rate = context.source_fps
        self._plain: PlainVideo | None = None
        if importlib.util.find_spec("av") is None:
            self._plain = PlainVideo(self._path, options.minutes * 60, options.max_mb * 1e6)
            logger.warning(
                "%s: PyAV is not installed, so videos are VP8 in .webm; for H.264 in .mp4: %s",
                self._path,
                install_hint("rtsp"),
            )
        else:
            prove(options.codec)
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._file: Recording | None = None
        self._looked = 0

    def write(self, result: Result) -> None:
        """Draw and encode one frame.

        Raises:
            TensorError: It is no image.
            StorageError: The file cannot be written; another one begins with the next keyframe.
        """
        pixels = result.frame.data
        if pixels.ndim != 3:
            raise TensorError(f"{self._path}: want images, got a window of shape {pixels.shape}")
        size = (pixels.shape[1], pixels.shape[0])
        image = draw(pixels, result.prediction) if self._options.draw else pixels
        if self._plain is not None:
            self._plain.add(image, self._options.fps or self._rate())
            return
        if self._encoder is None or size != self._size:
            self.close()
            self._encoder, self._size = Encoder(self._options.codec, *size), size
        for fragment in self._encoder.add(image, self._clock.at_s(result)):
            self._store(fragment)

    def _store(self, fragment: Fragment) -> None:
        assert self._encoder is not None
        if self._file is None and not fragment.is_key:
            return  # after a full disk
        if self._file is not None and fragment.is_key and self._is_full(self._file, fragment):
            self._end_file()
        try:
            if self._file is None:
                self._file, self._looked = Recording(self._path, self._encoder.head), fragment.at
                self._keep_quota()
            self._file.add(fragment)
        except StorageError:
            self._end_file()
            raise
        if fragment.at - self._looked > _LOOK_EVERY_TICKS:
            self._looked = fragment.at
            self._keep_quota()

    def _is_full(self, file: Recording, fragment: Fragment) -> bool:
        options = self._options
        length_s = (fragment.at - (file.begins or 0)) / TICKS
        return (0 < options.minutes * 60 <= length_s) or file.size > options.max_mb * 1e6 * _SHARE

    def _keep_quota(self) -> None:
        name = re.compile(re.escape(self._path.stem) + r"(-\d+)?")
        paths = (path for path in self._path.parent.glob("*.mp4") if name.fullmatch(path.stem))
        keep_quota(paths, self._options.max_mb * 1e6, self._file.path if self._file else None)

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        if self._plain is not None:
            self._plain.close()
        if self._encoder is None:
            return
        try:
            for fragment in self._encoder.close():
                self._store(fragment)
        finally:
            self._encoder = None
            self._end_file()


class FrameClock:
    """Gives the times of frames: by a constant rate, a file's own rate, or when they were captured."""

    def __init__(self, context: SinkContext, fps: float = 0.0) -> None:
        self._context, self._fps = context, fps
        self._number = 0
        self._first_ns: int | None = None

    def at_s(self, result: Result) -> float:
        """Return the time of the next frame in seconds, from about 0."""
        frame, self._number = result.frame, self._number + 1
        if self._fps:
            return (self._number - 1) / self._fps
        rate = 0.0 if self._context.is_live() else self._context.source_fps()
        if rate:
            return frame.seq / rate
        if self._first_ns is None:
            self._first_ns = frame.captured_ns
        return max(0, frame.captured_ns - self._first_ns) / 1e9


def prove(codec: str) -> None:
    """Encode one image, so that a missing encoder is an error before the first frame.

    Raises:
        ConfigError: PyAV is not installed, or lacks the encoder.
    """
    encoder = Encoder(codec, 64, 64)
    encoder.add(np.zeros((64, 64, 3), np.uint8), 0.0)
    encoder.close()


def draw(pixels: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
    """Return a copy of a BGR image, shape (height, width, 3), uint8, with a prediction drawn in.

    Items without a position in the image are lines of text at the top.
    """
    cv2 = vision()
    out: NDArray[Any] = pixels.copy()
    row = 0
    for item in prediction.items:
        color = _COLORS[item.index % len(_COLORS)]
        if (extent := item.extent()) is None:
            row += 1
            _write(cv2, out, _caption(item), (4, 4 + 18 * row), color)
            continue
        _outline(cv2, out, item, color)
        _write(cv2, out, _caption(item), (round(extent[0]), max(12, round(extent[1]) - 4)), color)
    return out


def _caption(item: Item) -> str:
    score = "" if item.score is None else f"{item.score:.2f}"
    number = "" if item.track is None else f"#{item.track}"
    return " ".join(part for part in (item.label, number, item.text, score) if part)


def _outline(cv2: Any, out: NDArray[Any], item: Item, color: Color) -> None:
    if item.mask is not None:
        _tint(cv2, out, item.mask, color)
    if item.oriented_box is not None:
        edges = np.array(corners(item.oriented_box)).round().astype(np.int32)
        cv2.polylines(out, [edges], True, color, 2)
    elif item.box is not None:
        left, top, right, bottom = (round(edge) for edge in item.box)
        cv2.rectangle(out, (left, top), (right, bottom), color, 2)
    for x, y in item.points:
        cv2.circle(out, (round(x), round(y)), 2, color, -1)


def _tint(cv2: Any, out: NDArray[Any], mask: Mask, color: Color) -> None:
    height, width = out.shape[:2]
    left, top, right, bottom = mask.area
    scale = (mask.width / max(right - left, 1e-6), mask.height / max(bottom - top, 1e-6))
    to_cells = np.array([[scale[0], 0, -left * scale[0]], [0, scale[1], -top * scale[1]]])
    # pixel centres map to cell centres
    to_cells[:, 2] += (to_cells[:, :2].sum(axis=1) - 1) / 2
    cells = cells_of(mask).astype(np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    covered = cv2.warpAffine(cells, to_cells, (width, height), flags=flags).astype(bool)
    out[covered] = out[covered] // 2 + np.array(color, np.uint8) // 2


def _write(cv2: Any, out: NDArray[Any], text: str, at: tuple[int, int], color: Color) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    cv2.rectangle(out, (at[0], at[1] - height - 3), (at[0] + width, at[1] + 3), color, -1)
    cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
