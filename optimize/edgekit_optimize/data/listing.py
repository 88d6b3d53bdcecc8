"""A list of samples not read yet, common to all kinds of data, and checks of a single sample."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, TensorError, UsageError
from edgekit.core.spec import TensorSpec

Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Converts a picture (height, width, 3), uint8, BGR, to the model's input (1, height, width, channels)."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample in the form of the model's logical inputs, without the batch axis.

    ``size`` is the source picture's width and height. ``boxes`` is (k, 5), float32: class, left, top,
    right, bottom in pixels of the source picture.
    """

    inputs: dict[str, NDArray[Any]]
    size: tuple[int, int] | None = None
    boxes: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Listing:
    """Samples in a fixed order, not read yet.

    ``labels`` are class indices or class names, one per sample. ``classes`` are the names of the box
    classes, if the data have them. ``read`` reads a sample by index, and raises if it is invalid.
    ``recordings`` has the recording of each sample; samples of a recording are in order of time.
    """

    source: str
    names: tuple[str, ...]
    read: Callable[[int], Sample]
    labels: tuple[int | str, ...] | None = None
    classes: tuple[str, ...] = ()
    has_boxes: bool = False
    warnings: tuple[str, ...] = ()
    recordings: tuple[int | str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)


def is_image(spec: TensorSpec) -> bool:
    """Return whether a logical input takes pictures: uint8, (1, height, width, channels)."""
    return spec.datatype == "UINT8" and len(spec.shape) == 4


def fit(values: Any, spec: TensorSpec, prepare: Prepare | None, what: str) -> Sample:
    """Return one sample of one input, in the input's shape.

    An image of the model's size is used unchanged, in the model's colour order; other images (height,
    width) or (height, width, 3), uint8, RGB, are converted by ``prepare``. Axes of length 1 may be
    missing or added.

    Raises:
        TensorError: The shape or type is wrong, or a value is not finite.
    """
    array = as_array(values, what)
    shape = spec.shape[1:]
    if array.dtype.kind not in "fiub":
        raise TensorError(f"{what}: want numbers for input {spec.name!r}, got {array.dtype}")
    if (shaped := _reshaped(array, shape)) is not None:
        if is_image(spec):
            return Sample({spec.name: _bytes(shaped, spec, what)}, (shape[1], shape[0]))
        return Sample({spec.name: _floats(shaped, what)})
    if is_image(spec) and prepare is not None and _is_picture(array):
        return fit_picture(_to_bgr(array), spec, prepare, what)
    raise TensorError(
        f"{what}: want shape {list(shape)} for input {spec.name!r}, got {list(array.shape)}",
        hint=_way_out(array, spec),
    )


def as_array(values: Any, what: str) -> NDArray[Any]:
    """Return the user's value as an array.

    Raises:
        TensorError: It is not an array, for example rows of different lengths or a tensor with gradients.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise TensorError(
            f"{what}: cannot convert {type(values).__name__} to an array of numbers: {cause}",
            hint="give a NumPy array, or (array, label)",
        ) from cause


def _way_out(array: NDArray[Any], spec: TensorSpec) -> str:
    shape = spec.shape[1:]
    if is_image(spec) and array.ndim == 3 and array.shape[2] == 4:
        return "remove the fourth channel (transparency)"
    if is_image(spec) and array.ndim == 3 and array.shape[0] in (1, 3):
        return "give images as (height, width, channels)"
    if array.ndim == len(shape) + 1 and _matches(array.shape[1:], shape):
        return f"give one sample at a time, not {len(array)}"
    return "give each sample in the shape of the model's input, before normalising"


def fit_picture(bgr: NDArray[np.uint8], spec: TensorSpec, prepare: Prepare, what: str) -> Sample:
    """Return a picture converted to the model's input, with its original size.

    Args:
        bgr: Shape (height, width, 3), uint8.
        spec: The logical input.
        prepare: The device's resizing.
        what: The picture's name, for errors.

    Raises:
        TensorError: ``prepare`` returns another shape or type than the input's.
    """
    prepared = np.array(prepare(bgr))  # a copy, since preprocessing reuses its output buffer
    if prepared.shape != (1, *spec.shape[1:]) or prepared.dtype != np.uint8:
        raise TensorError(
            f"{what}: want uint8 of shape {[1, *spec.shape[1:]]} for input {spec.name!r},"
            f" preprocessing returns {prepared.dtype} of {list(prepared.shape)}"
        )
    return Sample({spec.name: prepared[0]}, (bgr.shape[1], bgr.shape[0]))


def the_only(inputs: Sequence[TensorSpec], what: str, absent: str = "") -> TensorSpec:
    """Return the only input of a model.

    Args:
        inputs: The model's logical inputs.
        what: The source of the data, for errors.
        absent: Hint for the error; empty for the default.

    Raises:
        ConfigError: The model has several inputs.
    """
    if len(inputs) == 1:
        return inputs[0]
    names = ", ".join(spec.name for spec in inputs)
    raise ConfigError(
        f"{what}: has one array per sample, but the model has {len(inputs)} inputs ({names})",
        hint=absent or "give an NPZ, or a function that returns dictionaries, with one array per input name",
    )


def load_function(text: str, what: str) -> Callable[..., Any]:
    """Return the function named ``module:function``; the module may be in the working folder.

    Args:
        text: For example ``mydata:samples``.
        what: The purpose of the function, for errors.

    Raises:
        UsageError: The function cannot be imported, or is not callable.
    """
    module, _, name = text.partition(":")
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path is a string
    is_added = here not in sys.path
    if is_added:
        sys.path.append(here)
    try:
        loaded = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise UsageError(
            f"{what} {text!r}: {cause}",
            hint="give module:function; the module must be importable from the working folder",
        ) from cause
    except Exception as cause:  # the user's own code may raise anything
        raise UsageError(
            f"{what} {text!r}: importing {module} failed: {type(cause).__name__}: {cause}",
            hint=f"see what python -c 'import {module}' says",
        ) from cause
    finally:
        if is_added:
            sys.path.remove(here)
    if not callable(loaded):
        raise UsageError(f"{what} {text!r} is not a function but {type(loaded).__name__}")
    function: Callable[..., Any] = loaded
    return function


def _reshaped(array: NDArray[Any], target: tuple[int, ...]) -> NDArray[Any] | None:
    if _matches(array.shape, target):
        return array
    if -1 in target or [n for n in array.shape if n != 1] != [n for n in target if n != 1]:
        batched = array.shape[:1] == (1,) and _matches(array.shape[1:], target)
        return array[0] if batched else None
    return array.reshape(target)


def _matches(shape: tuple[int, ...], pattern: tuple[int, ...]) -> bool:
    return len(shape) == len(pattern) and all(w in (-1, n) for n, w in zip(shape, pattern, strict=True))


def _bytes(array: NDArray[Any], spec: TensorSpec, what: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise TensorError(f"{what}: has a value that is not a finite number")
    if (array != np.rint(array)).any() or array.min() < 0 or array.max() > 255:
        raise TensorError(
            f"{what}: want integers from 0 to 255 for image input {spec.name!r},"
            f" got {array.min():g} to {array.max():g}",
            hint="give images as uint8, before normalising",
        )
    return array.astype(np.uint8)


def _floats(array: NDArray[Any], what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = np.asarray(array, np.float32)
    if not np.isfinite(values).all():
        raise TensorError(
            f"{what}: has a value that is not a finite number", hint="remove or repair such samples"
        )
    return values


def _is_picture(array: NDArray[Any]) -> bool:
    return (
        array.dtype == np.uint8
        and min(array.shape, default=0) > 0
        and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3)))
    )


def _to_bgr(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))[:, :, ::-1])
