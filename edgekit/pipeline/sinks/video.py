"""A video file with the items drawn in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, StorageError, TensorError
from edgekit.core.ports import Result
from edgekit.core.spec import Item, Mask, Prediction, corners
from edgekit.pipeline.check import Options
from edgekit.pipeline.masks import cells_of
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sinks import SinkContext

Color = tuple[int, int, int]
_COLORS: tuple[Color, ...] = (
    (80, 200, 60),
    (60, 120, 240),
    (230, 160, 40),
    (200, 80, 200),
    (40, 200, 230),
    (90, 90, 240),
)


class VideoOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a video file; ``fps`` 0 is the source's rate; ``draw`` puts the items in."""

    path: str
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    fourcc: Annotated[str, msgspec.Meta(pattern="^.{4}$")] = "mp4v"
    draw: bool = True

    def problems(self) -> Iterator[str]:
        """Report a path without a container's suffix."""
        if not Path(self.path).suffix:
            yield f"path: want a file name that ends in its container, such as .mp4, got {self.path!r}"


class VideoSink:
    """Writes each frame; the first one's size is the file's.

    Raises:
        ConfigError: OpenCV writes no such video here.
    """

    Options = VideoOptions

    def __init__(self, options: VideoOptions, context: SinkContext) -> None:
        self._cv2 = vision()
        self._options = options
        self._path = context.path(options.path)
        self._prove()
        self._source_fps = context.source_fps
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, result: Result) -> None:
        """Draw and encode one frame.

        Raises:
            TensorError: It is no image, or of another size than the first.
            StorageError: The file cannot be written.
        """
        pixels = result.frame.data
        if pixels.ndim != 3:
            raise TensorError(f"{self._path}: want images, got a window of shape {pixels.shape}")
        size = (pixels.shape[1], pixels.shape[0])
        if self._writer is None:
            self._writer, self._size = self._opened(size), size
        if size != self._size:
            raise TensorError(f"{self._path}: want frames of {self._size}, got {size}")
        self._writer.write(draw(pixels, result.prediction) if self._options.draw else pixels)

    def _opened(self, size: tuple[int, int]) -> Any:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise StorageError(f"{self._path}: cannot be written: {cause.strerror}") from cause
        code = self._cv2.VideoWriter.fourcc(*self._options.fourcc)
        fps = self._options.fps or self._source_fps() or 15.0
        writer = self._cv2.VideoWriter(str(self._path), code, fps, size)
        if not writer.isOpened():
            raise StorageError(f"{self._path}: OpenCV cannot write a video there")
        return writer

    def _prove(self) -> None:
        """Write a frame to a temporary file, to prove that OpenCV has the codec for the container."""
        suffix, fourcc = self._path.suffix, self._options.fourcc
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(folder) / f"trial{suffix}"
            writer = self._cv2.VideoWriter(str(trial), self._cv2.VideoWriter.fourcc(*fourcc), 15.0, (64, 64))
            is_open = writer.isOpened()
            if is_open:
                writer.write(np.zeros((64, 64, 3), np.uint8))
            writer.release()
            if not (is_open and trial.exists() and trial.stat().st_size):
                raise ConfigError(
                    f"sink 'video': OpenCV writes no {fourcc!r} video to {suffix or 'no'} files here",
                    hint='fourcc "mp4v" with .mp4 and "MJPG" with .avi always work',
                )

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
        self._writer = None


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
