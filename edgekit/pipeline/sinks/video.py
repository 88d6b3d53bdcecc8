"""A video file with the boxes drawn in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgekit.core.errors import StorageError, TensorError
from edgekit.pipeline.check import Options
from edgekit.pipeline.pre import vision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core.ports import Result
    from edgekit.core.spec import Prediction
    from edgekit.pipeline.sinks import SinkContext

_COLORS = ((80, 200, 60), (60, 120, 240), (230, 160, 40), (200, 80, 200), (40, 200, 230), (90, 90, 240))


class VideoOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a video file; ``fps`` 0 is the source's rate; ``draw`` puts the boxes in."""

    path: str
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    fourcc: Annotated[str, msgspec.Meta(pattern="^.{4}$")] = "mp4v"
    draw: bool = True


class VideoSink:
    """Writes each frame; the first one's size is the file's.

    Args:
        options: The ``[[sink]]`` table.
        context: Where relative paths start, and the source's rate.
    """

    Options = VideoOptions

    def __init__(self, options: VideoOptions, context: SinkContext) -> None:
        self._cv2 = vision()
        self._options = options
        self._path = context.path(options.path)
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
            raise StorageError(f"{self._path}: OpenCV cannot write {self._options.fourcc!r} video there")
        return writer

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
        self._writer = None


def draw(pixels: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
    """Return a copy of an image with what was found in it.

    Args:
        pixels: Shape (height, width, 3), uint8, BGR.
        prediction: Boxes are drawn where they are, anything else as a line of text on top.
    """
    cv2 = vision()
    out: NDArray[Any] = pixels.copy()
    row = 0
    for item in prediction.items:
        color = _COLORS[item.index % len(_COLORS)]
        text = f"{item.label} {item.score:.2f}"
        if item.box is None:
            row += 1
            _write(cv2, out, text, (4, 4 + 18 * row), color)
            continue
        left, top, right, bottom = (round(edge) for edge in item.box)
        cv2.rectangle(out, (left, top), (right, bottom), color, 2)
        _write(cv2, out, text, (left, max(12, top - 4)), color)
        for x, y in item.points:
            cv2.circle(out, (round(x), round(y)), 2, color, -1)
    return out


def _write(cv2: Any, out: NDArray[Any], text: str, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    cv2.rectangle(out, (at[0], at[1] - height - 3), (at[0] + width, at[1] + 3), color, -1)
    cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
