"""What every kind of data looks like before it is read: a list of samples and how to read one."""

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
"""A picture (height, width, 3), uint8, BGR, to the model's image input (1, height, width, channels)."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample as the model's logical inputs take it, without the batch axis.

    ``size`` is the source picture's width and height. ``boxes`` is (k, 5), float32: class, left, top,
    right, bottom in pixels of the source picture.
    """

    inputs: dict[str, NDArray[Any]]
    size: tuple[int, int] | None = None
    boxes: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Listing:
    """Samples in a fixed order, not read yet.

    ``labels`` are class indices or names of classes, one for each sample. ``classes`` are the names
    that the class numbers of boxes stand for, where the data say so. ``read`` reads a sample by its
    place and raises what is wrong with it. ``recordings`` names the recording that each sample is of;
    the samples of one stand in order of time.
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
    """Whether a logical input takes pictures: bytes, (1, height, width, channels)."""
    return spec.datatype == "UINT8" and len(spec.shape) == 4


def fit(values: Any, spec: TensorSpec, prepare: Prepare | None, what: str) -> Sample:
    """Return one sample of one input as the model takes it.

    An image of the model's own size is taken as it is, in the colours that the model wants; any other
    one (height, width) or (height, width, 3), uint8, RGB, goes through ``prepare``. Axes of length 1
    may be missing or too many.

    Raises:
        TensorError: It has another shape or type, or a value that is not finite.
    """
    array = as_array(values, what)
    wanted = spec.shape[1:]
    if array.dtype.kind not in "fiub":
        raise TensorError(f"{what}: want numbers for input {spec.name!r}, got {array.dtype}")
    if (shaped := _reshaped(array, wanted)) is not None:
        if is_image(spec):
            return Sample({spec.name: _bytes(shaped, spec, what)}, (wanted[1], wanted[0]))
        return Sample({spec.name: _floats(shaped, what)})
    if is_image(spec) and prepare is not None and _is_picture(array):
        return fit_picture(_to_bgr(array), spec, prepare, what)
    raise TensorError(
        f"{what}: want shape {list(wanted)} for input {spec.name!r}, got {list(array.shape)}",
        hint=_way_out(array, spec),
    )


def as_array(values: Any, what: str) -> NDArray[Any]:
    """Return what the user gave as an array.

    Raises:
        TensorError: It is none, such as rows of different lengths, or a tensor that records gradients.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise TensorError(
            f"{what}: a {type(values).__name__} is no array of numbers: {cause}",
            hint="give a NumPy array, or (array, label)",
        ) from cause


def _way_out(array: NDArray[Any], spec: TensorSpec) -> str:
    wanted = spec.shape[1:]
    if is_image(spec) and array.ndim == 3 and array.shape[2] == 4:
        return "leave the fourth channel, transparency, out"
    if is_image(spec) and array.ndim == 3 and array.shape[0] in (1, 3):
        return "give images as (height, width, channels)"
    if array.ndim == len(wanted) + 1 and _matches(array.shape[1:], wanted):
        return f"give samples one by one, not {len(array)} at a time"
    return "give each sample as the model's input takes it, before normalising"


def fit_picture(bgr: NDArray[np.uint8], spec: TensorSpec, prepare: Prepare, what: str) -> Sample:
    """Return a picture as the model takes it, and its size.

    Args:
        bgr: Shape (height, width, 3), uint8.
        spec: The logical input.
        prepare: The device's own resizing.
        what: The picture's name, for errors.

    Raises:
        TensorError: ``prepare`` makes something else than the input takes.
    """
    made = np.array(prepare(bgr))  # a copy: preprocessing hands out its own scratch memory
    if made.shape != (1, *spec.shape[1:]) or made.dtype != np.uint8:
        raise TensorError(
            f"{what}: want uint8 of shape {[1, *spec.shape[1:]]} for input {spec.name!r},"
            f" preprocessing gives {made.dtype} of {list(made.shape)}"
        )
    return Sample({spec.name: made[0]}, (bgr.shape[1], bgr.shape[0]))


def the_only(inputs: Sequence[TensorSpec], what: str, absent: str = "") -> TensorSpec:
    """Return a model's one input.

    Args:
        inputs: The model's logical inputs.
        what: What gives one array for each sample, for errors.
        absent: The way out where there are more, in place of the usual one.

    Raises:
        ConfigError: It has more.
    """
    if len(inputs) == 1:
        return inputs[0]
    names = ", ".join(spec.name for spec in inputs)
    raise ConfigError(
        f"{what}: one array for each sample, but the model has {len(inputs)} inputs ({names})",
        hint=absent
        or "give an NPZ, or a function that returns dictionaries, with one array for each input name",
    )


def load_function(text: str, what: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names; the working folder's modules count.

    Args:
        text: Such as ``mydata:samples``.
        what: What it is for, for errors.

    Raises:
        UsageError: It names no function that can be imported.
    """
    module, _, name = text.partition(":")
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path is a string
    is_added = here not in sys.path
    if is_added:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), name)
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
    if not callable(found):
        raise UsageError(f"{what} {text!r} is not a function but {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _reshaped(array: NDArray[Any], wanted: tuple[int, ...]) -> NDArray[Any] | None:
    if _matches(array.shape, wanted):
        return array
    if -1 in wanted or [n for n in array.shape if n != 1] != [n for n in wanted if n != 1]:
        batched = array.shape[:1] == (1,) and _matches(array.shape[1:], wanted)
        return array[0] if batched else None
    return array.reshape(wanted)


def _matches(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, n) for n, w in zip(shape, wanted, strict=True))


def _bytes(array: NDArray[Any], spec: TensorSpec, what: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise TensorError(f"{what}: has a value that is not a finite number")
    if (array != np.rint(array)).any() or array.min() < 0 or array.max() > 255:
        raise TensorError(
            f"{what}: want whole numbers from 0 to 255 for image input {spec.name!r},"
            f" got {array.min():g} to {array.max():g}",
            hint="give images as bytes, before normalising",
        )
    return array.astype(np.uint8)


def _floats(array: NDArray[Any], what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        held = np.asarray(array, np.float32)
    if not np.isfinite(held).all():
        raise TensorError(
            f"{what}: has a value that is not a finite number", hint="leave such samples out, or mend them"
        )
    return held


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
