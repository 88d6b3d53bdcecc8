"""Preprocessing as the manifest declares it: from a frame to a model's input.

An image is resized as bytes, then one table of 256 entries normalises and quantises into the backend's
input memory. Sensor windows are normalised channel by channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.base.dtypes import DTYPES
from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.spec import Pre, TensorSpec

if TYPE_CHECKING:
    from edgekit.pipeline.sound import Features


_NOT_IN_LUT = (np.float16, np.int64, np.uint32, np.uint64)
"""Types that OpenCV's LUT does not have in every release."""


@lru_cache(maxsize=1)
def vision() -> Any:
    """Return OpenCV's module.

    Raises:
        ConfigError: It is not installed, or a library that it needs is missing.
    """
    try:
        import cv2
    except ImportError as cause:
        if isinstance(cause, ModuleNotFoundError) and cause.name == "cv2":
            message, hint = "images need OpenCV, which is not installed", install_hint("vision")
            raise ConfigError(message, hint=hint) from cause
        raise ConfigError(
            f"images need OpenCV, which is installed and cannot be loaded: {cause}",
            hint="install that library (libGL.so.1: sudo apt install libgl1), or only opencv-python-headless",
        ) from cause
    return cv2


@dataclass(frozen=True)
class Placement:
    """The position of a source image in a model's input.

    Input pixel (x, y) is source pixel ((x - left) / scale_x, (y - top) / scale_y). ``width`` and
    ``height`` are the source's, in pixels.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    width: int
    height: int

    def to_source(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes of the input to the source, clipped at its edges.

        >>> place("letterbox", (640, 480), (320, 320)).to_source(np.float32([[0, 40, 320, 280]]))
        array([[  0.,   0., 640., 480.]], dtype=float32)

        Args:
            boxes: Shape (n, 4), left, top, right, bottom in pixels.
        """
        moved = self.points_to_source(boxes.reshape(-1, 2, 2))
        np.minimum(np.maximum(moved, np.float32(0), out=moved), self._size, out=moved)
        return moved.reshape(-1, 4)

    def of_whole(self, corner: tuple[int, int], size: tuple[int, int]) -> Placement:
        """Return the placement of the picture of ``size`` from which this one was cut at ``corner``."""
        left, top = self.left - corner[0] * self.scale_x, self.top - corner[1] * self.scale_y
        return Placement(self.scale_x, self.scale_y, left, top, *size)

    def points_to_source(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map points, shape (..., 2), x and y in pixels, to the source; not clipped."""
        return np.asarray((points - self._offset) / self._scale, np.float32)

    # once for all frames of a size

    @cached_property
    def _offset(self) -> NDArray[np.float32]:
        return np.array([self.left, self.top], np.float32)

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        return np.array([self.scale_x, self.scale_y], np.float32)

    @cached_property
    def _size(self) -> NDArray[np.float32]:
        return np.array([self.width, self.height], np.float32)


@lru_cache(maxsize=64)
def place(
    resize: str,
    source: tuple[int, int],
    target: tuple[int, int],
    crop_ratio: float = 1.0,
    align: str = "centre",
) -> Placement:
    """Return the position of a source image in a model's input.

    Args:
        resize: ``letterbox`` fits the image and pads, ``crop`` fills the input with its centre,
            ``stretch`` ignores its aspect ratio, ``none`` keeps its size.
        source: Width and height of the image in pixels.
        target: Width and height of the input in pixels.
        crop_ratio: The share of the centre that ``crop`` keeps, above 0 and at most 1.
        align: Where ``letterbox`` puts the image: "centre" or "top-left".

    Raises:
        TensorError: The image is empty, or with ``none`` of another size than the input.
    """
    (width, height), (wide, high) = source, target
    if min(width, height) < 1:
        raise TensorError(f"frame: want an image of at least 1 x 1 pixel, got {width} x {height}")
    if resize == "none" and source != target:
        raise TensorError(f"frame: want {wide} x {high} pixels (resize is 'none'), got {width} x {height}")
    if resize in ("stretch", "none"):
        return Placement(wide / width, high / height, 0.0, 0.0, width, height)
    if resize == "letterbox":
        scale = min(wide / width, high / height)
        inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = ((wide - inner_w) // 2, (high - inner_h) // 2) if align == "centre" else (0, 0)
        return Placement(inner_w / width, inner_h / height, left, top, width, height)
    scale = max(wide / width, high / height) / crop_ratio
    cut_w, cut_h = min(width, max(1, round(wide / scale))), min(height, max(1, round(high / scale)))
    scale_x, scale_y = wide / cut_w, high / cut_h
    x, y = (width - cut_w) // 2, (height - cut_h) // 2
    return Placement(scale_x, scale_y, -x * scale_x, -y * scale_y, width, height)


def resize_image(
    pixels: NDArray[np.uint8],
    resize: str,
    out: NDArray[np.uint8],
    pad: int = 114,
    crop_ratio: float = 1.0,
    align: str = "centre",
) -> Placement:
    """Scale an image to a model's input size; return its position there.

    >>> square = np.empty((320, 320, 3), np.uint8)
    >>> placement = resize_image(np.zeros((480, 640, 3), np.uint8), "letterbox", square)
    >>> placement.top, int(square[0, 0, 0]), int(square[40, 0, 0])
    (40, 114, 0)

    Args:
        pixels: Image, shape (height, width, 3), uint8.
        resize: As for ``place``.
        out: Receives the result, shape (height, width, 3), uint8, contiguous.
        pad: Grey of the padding. Source: 114 is what the YOLO families are trained with.
        crop_ratio: As for ``place``.
        align: As for ``place``.

    Raises:
        TensorError: ``pixels`` is not such an image, or does not fit.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise TensorError(
            f"frame: want uint8 of shape (height, width, 3), got {pixels.dtype} of {pixels.shape}"
        )
    cv2 = vision()
    high, wide = out.shape[:2]
    placement = place(resize, (pixels.shape[1], pixels.shape[0]), (wide, high), crop_ratio, align)
    if resize == "letterbox":
        left, top = int(placement.left), int(placement.top)
        inner_w = round(placement.scale_x * placement.width)
        inner_h = round(placement.scale_y * placement.height)
        inner = out[top : top + inner_h, left : left + inner_w]
        out[:top], out[top + inner_h :], out[:, :left], out[:, left + inner_w :] = pad, pad, pad, pad
        cv2.resize(pixels, (inner_w, inner_h), dst=inner, interpolation=cv2.INTER_LINEAR)
        return placement
    if resize == "crop":
        x, y = round(-placement.left / placement.scale_x), round(-placement.top / placement.scale_y)
        cut_w, cut_h = round(wide / placement.scale_x), round(high / placement.scale_y)
        pixels = pixels[y : y + cut_h, x : x + cut_w]
    cv2.resize(pixels, (wide, high), dst=out, interpolation=cv2.INTER_LINEAR)
    return placement


def value_tables(pre: Pre, spec: TensorSpec, channels: int) -> NDArray[Any]:
    """Return the input's value for each byte of each channel, shape (channels, 256), the input's dtype.

    It is ``(byte - mean) / std``, quantised with the tensor's scale and zero point. An integer input without
    a scale takes the bytes unchanged: such a file normalises inside.

    Args:
        pre: The manifest's preprocessing.
        spec: The input as the backend reports it, with its quantisation.
        channels: 1 or 3.

    Raises:
        TensorError: ``mean`` or ``std`` has neither one value nor one per channel, or the input is INT8
            without a scale.
    """
    dtype = DTYPES[spec.datatype]
    levels = np.broadcast_to(np.arange(256, dtype=np.float64), (channels, 256))
    if np.issubdtype(dtype, np.integer) and spec.quantization is None:
        if dtype == np.int8:
            raise TensorError(f"input {spec.name!r}: {spec.datatype} without a scale cannot take an image")
        return np.ascontiguousarray(levels.astype(dtype))
    mean, std = _per_channel(pre.mean, channels, "mean"), _per_channel(pre.std, channels, "std")
    return quantize((levels - mean[:, None]) / std[:, None], spec)


def taken_off(tables: NDArray[Any]) -> tuple[int, int] | None:
    """Return what every table takes off a byte below 128, and off a higher one, modulo 256.

    None if that is not all they do, or if the two differ by more than 1. It is all that int8 files ask for
    which are trained on -1 to 1, or on the bytes less 128: 127 and 128 where the middle is 127.5.
    """
    if tables.itemsize != 1:
        return None
    differences = np.arange(256, dtype=np.uint8) - tables.view(np.uint8)
    low, high = int(differences[0, 0]), int(differences[0, 128])
    is_all = (differences[:, :128] == low).all() and (differences[:, 128:] == high).all()
    return (low, high) if is_all and high - low in (0, 1) else None


def take_off(values: NDArray[np.uint8], low: int, high: int, out: NDArray[np.uint8]) -> None:
    """Take ``low`` off each byte below 128, and ``high``, the same or one more, off each other one.

    Four times as fast as a table, in as many passes as are needed.
    """
    if not high:
        np.copyto(out, values)
    elif low == high:
        np.subtract(values, low, out=out)
    else:
        np.right_shift(values, 7, out=out)
        np.add(out, low, out=out)
        np.subtract(values, out, out=out)


def quantize(real: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Return real numbers in a tensor's dtype: quantised, rounded half to even, clipped to its range."""
    dtype = DTYPES[spec.datatype]
    if not np.issubdtype(dtype, np.integer):
        return np.ascontiguousarray(real, dtype)
    if spec.quantization is not None:
        real = real / spec.quantization.scale + spec.quantization.zero_point
    limits = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(np.rint(real), limits.min, limits.max), dtype)


def dequantize(held: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """Return a tensor's values as real numbers, float32; a float32 array unchanged."""
    if spec.quantization is None:
        return np.asarray(held, np.float32)
    real = held.astype(np.float32)
    real -= np.float32(spec.quantization.zero_point)
    real *= np.float32(spec.quantization.scale)
    return real


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without its axes of length 1."""
    return tuple(length for length in shape if length != 1)


def _per_channel(values: tuple[float, ...], channels: int, name: str) -> NDArray[np.float64]:
    if len(values) not in (1, channels):
        raise TensorError(f"pre.{name}: want 1 or {channels} values, got {len(values)}")
    return np.broadcast_to(np.array(values, np.float64), (channels,))


class ImagePre:
    """Turns images into one model's input (``spec``, in the file's ``layout``), in one thread at a time.

    Raises:
        TensorError: The input is not one image of fixed size, with 1 or 3 channels.
        ConfigError: OpenCV is not installed.
    """

    def __init__(self, pre: Pre, spec: TensorSpec, layout: str) -> None:
        shape = spec.shape if len(spec.shape) != 3 else (1, *spec.shape)  # a file may have no batch axis
        if layout != "NHWC" and len(shape) == 4:
            shape = (shape[0], *shape[2:], shape[1])
        if len(shape) != 4 or shape[0] not in (1, -1) or min(shape[1:]) < 1 or shape[3] not in (1, 3):
            raise TensorError(
                f"input {spec.name!r}: want one {layout} image of fixed size, got shape {list(spec.shape)}"
            )
        if (shape[3] == 1) != (pre.color == "GRAY"):
            raise TensorError(
                f"input {spec.name!r}: pre.color is {pre.color}, the file has {shape[3]} channels"
            )
        self._cv2 = vision()
        self._pre = pre
        self.height, self.width, self.channels = shape[1:]
        if pre.is_transposed:
            self.height, self.width = self.width, self.height
        self._tables = value_tables(pre, spec, self.channels)
        self._taken = taken_off(self._tables)
        self._one_table = bool((self._tables == self._tables[0]).all())
        self._shape = (1, *(shape[1:] if layout == "NHWC" else (shape[3], *shape[1:3])))
        planes = (self.channels, *shape[1:3])
        self._planes = np.empty(planes, np.uint8) if layout == "NCHW" else None
        self._bgr = np.empty((self.height, self.width, 3), np.uint8)
        self._colored = np.empty((self.height, self.width, self.channels), np.uint8)

    @property
    def logical_shape(self) -> tuple[int, int, int, int]:
        """Shape (1, height, width, channels) of what ``fill`` takes."""
        return (1, self.height, self.width, self.channels)

    def resize(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Placement]:
        """Return a BGR image in the model's size and colours, and its position there.

        The image has shape (height, width, channels), uint8, and is valid until the next call.

        Raises:
            TensorError: It is no such image.
        """
        pre = self._pre
        placement = resize_image(pixels, pre.resize, self._bgr, pre.pad, pre.crop_ratio, pre.align)
        if self._pre.color == "BGR":
            return self._bgr, placement
        code = self._cv2.COLOR_BGR2RGB if self._pre.color == "RGB" else self._cv2.COLOR_BGR2GRAY
        colored = self._colored if self.channels == 3 else self._colored[:, :, 0]
        self._cv2.cvtColor(self._bgr, code, dst=colored)
        return self._colored, placement

    def fill(self, resized: NDArray[np.uint8], view: NDArray[Any]) -> None:
        """Write an image that ``resize`` returned into ``view``, the backend's input memory."""
        view = view.reshape(self._shape)
        if self._pre.is_transposed:
            resized = np.ascontiguousarray(resized.transpose(1, 0, 2))
        if self._planes is not None:
            for channel in range(self.channels):
                self._cv2.extractChannel(resized, channel, dst=self._planes[channel])
                if not self._one_table:
                    self._look_up(self._planes[channel], channel, view[0, channel])
            if self._one_table:
                rows = self.channels * self._planes.shape[1]
                self._look_up(self._planes.reshape(rows, -1), 0, view.reshape(rows, -1))
        elif self._one_table:
            self._look_up(resized, 0, view[0])
        elif self._tables.dtype in _NOT_IN_LUT:
            for channel in range(self.channels):
                self._look_up(resized[:, :, channel], channel, view[0, :, :, channel])
        else:
            tables = np.ascontiguousarray(self._tables.T).reshape(1, 256, self.channels)
            self._cv2.LUT(resized, tables, dst=view[0])

    def tensor(self, resized: NDArray[np.uint8]) -> NDArray[Any]:
        """Return a resized image as the backend's input holds it, in memory of its own."""
        tensor = np.empty(self._shape, self._tables.dtype)
        self.fill(resized, tensor)
        return tensor

    def _look_up(self, values: NDArray[np.uint8], channel: int, out: NDArray[Any]) -> None:
        if self._taken is not None:
            take_off(values.reshape(out.shape), *self._taken, out.view(np.uint8))
        elif self._tables.dtype in _NOT_IN_LUT:
            np.take(self._tables[channel], values.reshape(out.shape), out=out)
        else:
            target = out if out.ndim == 2 or out.shape[2] > 1 else out[:, :, 0]
            self._cv2.LUT(values.reshape(target.shape), self._tables[channel], dst=target)


class WindowPre:
    """Turns sensor or sound windows into one model's input, after the last ``pre.context`` samples.

    Args:
        pre: The manifest's preprocessing.
        spec: The input as the backend reports it; its size is (context + window) x channels, or frames x
            bands of ``pre.front_end``, in that order or, with layout NCHW or if only that fits, turned.
        layout: The file's layout.

    Raises:
        TensorError: The input has no fixed size, not a whole number of channels, or not the features' size.
        BundleError: The settings of the front end contradict each other.
    """

    def __init__(self, pre: Pre, spec: TensorSpec, layout: str) -> None:
        length = pre.window + pre.context
        size = int(np.prod([abs(n) for n in spec.shape]))
        is_whole = pre.front_end is not None or (length > 0 and not size % length)
        if length < 1 or min(spec.shape[1:] or spec.shape, default=0) < 1 or not is_whole:
            raise TensorError(
                f"input {spec.name!r}: want a multiple of {length} values (pre.window + context), "
                f"got shape {list(spec.shape)}"
            )
        self.length, self.channels = length, size // length
        rows, width = length, self.channels
        self._features: Features | None = None
        if pre.front_end is not None:
            self._features, (rows, width) = _features(pre, length)
            self.channels = 1
            if rows * width != size:
                raise TensorError(
                    f"input {spec.name!r}: pre.front_end makes {rows} frames of {width} numbers of a window, "
                    f"the file takes shape {list(spec.shape)}"
                )
        self._pre, self._spec = pre, spec
        inner, wide = squeezed(spec.shape[1:] or spec.shape), squeezed((rows, width))
        self._is_planar = layout == "NCHW" or (inner == wide[::-1] and inner != wide)
        self._mean = _per_channel(pre.mean, width, "mean").astype(np.float32)
        self._std = _per_channel(pre.std, width, "std").astype(np.float32)
        self._context = np.zeros((pre.context, self.channels), np.float32)
        self._shapes = {squeezed((count, self.channels)) for count in (pre.window, length)}
        if len(inner) < 2:  # the file itself is flat
            self._shapes |= {squeezed((count * self.channels,)) for count in (pre.window, length)}

    def reset(self) -> None:
        """Forget the previous samples."""
        self._context[:] = 0

    def normalize(self, window: NDArray[Any], *, keep: bool = True) -> NDArray[np.float32]:
        """Return a window after its context, normalised: (context + window, channels), float32.

        With a front end its features, (frames, bands).

        Args:
            window: Shape (window, channels), ignoring axes of length 1, any number type; flat if the
                file's input is. A window that already has its context is used unchanged.
            keep: Whether its end becomes the next window's context.

        Raises:
            TensorError: It has another shape, no real numbers, or one that is not finite.
        """
        if squeezed(window.shape) not in self._shapes or window.dtype.kind not in "fiu":
            shape = (self._pre.window, self.channels)
            raise TensorError(
                f"window: want {shape[0]} samples of {shape[1]} channels, shape {shape}, "
                f"got {window.dtype} {window.shape}",
                hint="turn it: window.T" if window.shape == shape[::-1] else "one row is one sample in time",
            )
        values = np.asarray(window, np.float32).reshape(-1, self.channels)
        if not np.isfinite(values).all():
            raise TensorError("window: has a value that is not a finite number")
        if len(values) < self.length:
            values = np.concatenate([self._context, values])
        if keep and self._pre.context:
            self._context[:] = values[-self._pre.context :]
        if self._features is not None:
            values = self._features(values[:, 0])
        return (values - self._mean) / self._std

    def fill(self, normalized: NDArray[np.float32], view: NDArray[Any]) -> None:
        """Write a normalised window into the backend's input memory."""
        quantized = quantize(normalized.T if self._is_planar else normalized, self._spec)
        np.copyto(view, quantized.reshape(view.shape))


def _features(pre: Pre, samples: int) -> tuple[Features, tuple[int, int]]:
    """Return the front end of a model of sound, and the shape of its features."""
    from edgekit.pipeline.sound import Features  # only such models need it

    assert pre.front_end is not None
    features = Features(pre.front_end, pre.rate_hz)
    return features, features.shape(samples)
