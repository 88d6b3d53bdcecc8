"""Synthetic frames, the same for the same seed: moving shapes, or sine waves with anomalies."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.sources.timing import DUE_S, Pacer, stamp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.pipeline.sources import SourceContext


class SyntheticOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of synthetic frames: images, or windows if the model takes windows.

    ``frames``: how many; 0 is endless. ``realtime``: at ``fps``, and the latest frame wins; else every
    frame, as fast as possible. ``shapes``: moving boxes. ``anomaly_every``: one burst in so many samples of
    each wave; 0 is none. ``noise``: of the waves.
    """

    seed: int = 0
    frames: Annotated[int, msgspec.Meta(ge=0)] = 0
    realtime: bool = False
    fps: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 30.0
    width: Annotated[int, msgspec.Meta(ge=8, le=8192)] = 640
    height: Annotated[int, msgspec.Meta(ge=8, le=8192)] = 480
    shapes: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    anomaly_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    noise: Annotated[float, msgspec.Meta(ge=0)] = 0.05


class SyntheticSource:
    """Frames that depend only on the seed and their number."""

    Options = SyntheticOptions

    def __init__(self, options: SyntheticOptions, context: SourceContext) -> None:
        self._options = self._full = options
        self._context = context
        self.is_live = options.realtime
        self.fps = options.fps
        self._closing = threading.Event()
        self._pacer = Pacer(options.fps, self._closing) if options.realtime else None
        self._seq = 0

    @property
    def due_s(self) -> float:
        """Seconds within which a frame is due."""
        return DUE_S if self._pacer is None else self._pacer.due_s

    def open(self) -> None:
        """Do nothing."""

    def halve(self, times: int) -> None:
        """Make images of the configured size, halved so many times, from the next one on."""
        sides = (max(8, side >> times) for side in (self._full.width, self._full.height))
        self._options = msgspec.structs.replace(
            self._full, **dict(zip(("width", "height"), sides, strict=True))
        )

    def read(self) -> Frame | None:
        """Return the next frame, when it is due; None at the end or after ``close``."""
        if self._pacer is not None:
            self._pacer.wait()
        if self._closing.is_set() or (self._options.frames and self._seq >= self._options.frames):
            return None
        captured_ns, unix_ms = stamp()
        context = self._context
        if context.window:
            first = self._seq * context.hop
            data: NDArray[Any] = waves(self._options, context.channels, first, context.window)
        else:
            data = shapes(self._options, self._seq)
        self._seq += 1
        return Frame(data, self._seq - 1, captured_ns, unix_ms)

    def close(self) -> None:
        """End a wait."""
        self._closing.set()


def shapes(options: SyntheticOptions, seq: int) -> NDArray[np.uint8]:
    """Return image ``seq``, shape (height, width, 3), uint8, BGR: boxes that bounce over grey."""
    import numpy as np

    rng = np.random.default_rng(options.seed)
    pixels = np.full((options.height, options.width, 3), 96, np.uint8)
    for _ in range(options.shapes):
        size = rng.integers(max(2, options.height // 12), max(3, options.height // 4), 2)
        room = np.maximum([options.width, options.height] - size, 1)
        start, step = rng.integers(0, room), rng.integers(1, 6, 2)
        color = rng.integers(0, 256, 3)
        x, y = room - np.abs((start + step * seq) % (2 * room) - room)  # a triangle wave bounces
        pixels[y : y + size[1], x : x + size[0]] = color
    return pixels


def waves(options: SyntheticOptions, channels: int, first: int, count: int) -> NDArray[np.float32]:
    """Return ``count`` samples from ``first`` of one sine wave per channel: (count, channels), float32.

    A sample's noise depends only on its number, so overlapping windows agree. An anomaly is a burst of 12
    samples at three times the wave's amplitude.
    """
    import numpy as np

    rng = np.random.default_rng(options.seed)
    period, phase = rng.uniform(20, 60, channels), rng.uniform(0, 2 * np.pi, channels)
    at = np.arange(first, first + count)
    values = np.sin(2 * np.pi * at[:, None] / period + phase)
    # a hash instead of a generator: no window depends on those before it
    scrambled = (
        np.sin((at[:, None] * 12.9898 + np.arange(channels) * 78.233 + options.seed) % 1e4) * 43758.5453
    )
    values += options.noise * 2 * (scrambled - np.floor(scrambled) - 0.5)
    if options.anomaly_every:
        in_burst = (at % options.anomaly_every) >= max(0, options.anomaly_every - 12)
        values[in_burst] = 3.0
    return np.asarray(values, np.float32)
