"""Reads data from an NPZ file, or from a Python function that returns an iterator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, EdgekitError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.data.listing import Listing, Prepare, Sample, as_array, fit, load_function, the_only
from edgekit_optimize.data.npz import load_npz

_PICTURE_AXES = 2
_LABELS = ("y", "labels", "label")
RECORDING = "recording"
"""The array or dictionary key with the recording of each sample."""


def list_npz(
    path: Path, inputs: Sequence[TensorSpec], prepare: Prepare | None, max_bytes: int, absent: str = ""
) -> Listing:
    """Return the samples of an NPZ file: one array per input, samples along the first axis.

    For a model with one input that is the array of its name, else ``x``, else the only array. ``y`` or
    ``labels`` has the class index or name of each sample, ``recording`` its recording.

    Raises:
        ConfigError: The file is damaged, lacks an array, or is compressed and larger than ``max_bytes``.
        TensorError: Arrays have different numbers of samples.
    """
    arrays = load_npz(path, max_bytes)
    input_names = {spec.name for spec in inputs}
    label_array = next((name for name in _LABELS if name in arrays and name not in input_names), "")
    classes = arrays.pop(label_array, None)
    marks = arrays.pop(RECORDING, None) if RECORDING not in input_names else None
    by_input = {spec.name: _array_for(spec, inputs, arrays, path, absent) for spec in inputs}
    lengths = {name: len(array) for name, array in by_input.items()}
    if len(set(lengths.values())) > 1:
        raise TensorError(f"{path}: arrays have different numbers of samples: {lengths}")
    count = next(iter(lengths.values()))
    labels = None if classes is None else _labels(classes, count, f"{path}: {label_array!r}")
    recordings = None if marks is None else _labels(marks, count, f"{path}: {RECORDING!r}", "recordings")

    def read(index: int) -> Sample:
        what = f"{path.name}[{index}]"
        return _merge(fit(by_input[spec.name][index], spec, prepare, what) for spec in inputs)

    names = tuple(f"{path.name}[{index}]" for index in range(count))
    used = {id(array) for array in by_input.values()}
    unused = [repr(name) for name, array in arrays.items() if id(array) not in used]
    warnings = (
        (f"{path}: arrays not used, since the model has no such input: {', '.join(unused)}",)
        if unused
        else ()
    )
    return Listing(str(path), names, read, labels=labels, warnings=warnings, recordings=recordings)


def list_function(
    text: str,
    inputs: Sequence[TensorSpec],
    prepare: Prepare | None,
    limit: int,
    max_bytes: int,
    absent: str = "",
) -> Listing:
    """Return the samples from ``module:function``, an iterator of arrays, or of dictionaries by input name.

    A sample may be a pair with its label: a class index, a class name, or boxes (k, 5) as class, left,
    top, right, bottom in pixels of the given picture. A dictionary may also have the key ``recording``:
    the number or name of the sample's recording.

    Args:
        text: ``module:function``; it is called without arguments.
        inputs: The model's logical inputs.
        prepare: The device's resizing, for pictures (height, width, 3), uint8, RGB.
        limit: The maximum number of samples to read.
        max_bytes: The maximum size of all samples in memory.
        absent: Hint for the error if an input is missing; empty for the default.

    Raises:
        UsageError: The function cannot be imported.
        ConfigError: The function failed, returned no samples, or more than ``max_bytes``.
        TensorError: A sample does not match the inputs.
    """
    samples: list[Sample] = []
    labels: list[int | str] = []
    recordings: list[int | str] = []
    size = 0
    for index, item in enumerate(_items(text, limit)):
        what = f"{text}[{index}]"
        data, label = _pair(item, what)
        data, mark = _without_recording(data, inputs, what)
        recordings += [] if mark is None else [mark]
        sample = _sample(data, inputs, prepare, what, absent)
        if label is not None:
            label = _label(label, what)
            if isinstance(label, np.ndarray):
                sample = Sample(sample.inputs, sample.size, label)
            else:
                labels.append(label)
        samples.append(_copied(sample))
        size += sum(array.nbytes for array in sample.inputs.values())
        if size > max_bytes:
            raise ConfigError(
                f"{text}: {size / 1e6:.0f} MB after {index + 1} samples, at most {max_bytes / 1e6:.0f} MB",
                hint="ask for fewer samples with --samples and --calibration-samples",
            )
    return _listing(text, samples, labels, recordings)


def gives_pictures(text: str) -> bool:
    """Return whether the first sample of ``module:function`` is a picture: uint8, two axes or more.

    Raises:
        UsageError: The function cannot be imported.
        ConfigError: The function failed.
    """
    for item in _items(text, 1):
        data, _ = _pair(item, f"{text}[0]")
        arrays = data.values() if isinstance(data, Mapping) else (data,)
        converted = (as_array(values, f"{text}[0]") for values in arrays)
        return any(array.dtype == np.uint8 and array.ndim >= _PICTURE_AXES for array in converted)
    return False


def _pair(item: Any, what: str) -> tuple[Any, Any]:
    """Return a sample and its label, or None without a label."""
    if not isinstance(item, tuple):
        return item, None
    if len(item) != 2:
        raise TensorError(
            f"{what}: want a sample or a pair (sample, label), got a tuple of {len(item)}",
            hint="for a model with several inputs give a dictionary by input name",
        )
    return item


def _copied(sample: Sample) -> Sample:
    """Return a copy of a sample: the function may reuse one array for all samples."""
    inputs = {name: np.array(array) for name, array in sample.inputs.items()}
    return Sample(inputs, sample.size, sample.boxes)


def _listing(
    text: str, samples: list[Sample], labels: list[int | str], recordings: list[int | str]
) -> Listing:
    if not samples:
        raise ConfigError(f"{text}: returned no samples")
    if len(recordings) not in (0, len(samples)):
        raise ConfigError(
            f"{text}: only {len(recordings)} of {len(samples)} samples have the key {RECORDING!r}",
            hint="give it for every sample or for none",
        )
    boxed = sum(sample.boxes is not None for sample in samples)
    if len({len(samples), *(n for n in (len(labels), boxed) if n)}) > 1:
        raise ConfigError(
            f"{text}: {len(labels)} class labels and {boxed} arrays of boxes for {len(samples)} samples",
            hint="give every sample a label of the same kind, or none of them",
        )
    if len({isinstance(label, str) for label in labels}) > 1:
        raise ConfigError(f"{text}: labels mix numbers and names", hint="use one of the two")
    names = tuple(f"{text}[{index}]" for index in range(len(samples)))
    return Listing(
        text,
        names,
        samples.__getitem__,
        labels=tuple(labels) or None,
        has_boxes=boxed > 0,
        recordings=tuple(recordings) or None,
    )


def _items(text: str, limit: int) -> Iterator[Any]:
    function = load_function(text, "data")
    count = 0
    try:
        for item in itertools.islice(function(), limit):
            yield item
            count += 1
    except EdgekitError:
        raise
    except (Exception, SystemExit) as cause:  # the user's own code may raise anything
        after = f" after {count} samples" if count else ""
        raise ConfigError(
            f"{text}: failed{after}: {type(cause).__name__}: {cause}",
            hint="the function is called without arguments and must return an iterator of samples",
        ) from cause


def _without_recording(data: Any, inputs: Sequence[TensorSpec], what: str) -> tuple[Any, int | str | None]:
    """Return a sample's arrays, and its recording or None."""
    is_named = isinstance(data, Mapping) and RECORDING in data
    if not is_named or any(spec.name == RECORDING for spec in inputs):
        return data, None
    mark = data[RECORDING]
    array = np.asarray(mark)
    if not isinstance(mark, str) and (array.dtype.kind not in "iu" or array.size != 1):
        raise TensorError(f"{what}: {RECORDING!r} must be an integer or a name, got {mark!r:.80}")
    arrays = {name: value for name, value in data.items() if name != RECORDING}
    return arrays, mark if isinstance(mark, str) else int(array.reshape(-1)[0])


def _sample(
    data: Any, inputs: Sequence[TensorSpec], prepare: Prepare | None, what: str, absent: str
) -> Sample:
    if not isinstance(data, Mapping):
        return fit(data, the_only(inputs, what, absent), prepare, what)
    if set(data) != {spec.name for spec in inputs}:
        raise TensorError(
            f"{what}: want arrays {sorted(spec.name for spec in inputs)}, got {sorted(map(str, data))}",
            hint=absent or "name each array as the model's input",
        )
    return _merge(fit(data[spec.name], spec, prepare, what) for spec in inputs)


def _merge(parts: Iterator[Sample]) -> Sample:
    inputs: dict[str, NDArray[Any]] = {}
    size = None
    for part in parts:
        inputs |= part.inputs
        size = part.size or size
    return Sample(inputs, size)


def _label(label: Any, what: str) -> int | str | NDArray[np.float32]:
    if isinstance(label, str):
        return label
    array = as_array(label, f"{what}: label")
    if array.dtype.kind in "iu" and array.size == 1:
        return int(array.reshape(-1)[0])
    if array.dtype.kind in "fiu" and array.ndim == 2 and array.shape[1] == 5 and np.isfinite(array).all():
        return array.astype(np.float32)
    raise TensorError(
        f"{what}: a label must be a class index, a name, or boxes (k, 5), got {type(label).__name__} of"
        f" {array.dtype} {list(array.shape)}"
    )


# ---------------------------------------------------------------------------------------------
# Arrays of an NPZ


def _array_for(
    spec: TensorSpec, inputs: Sequence[TensorSpec], arrays: dict[str, NDArray[Any]], path: Path, absent: str
) -> NDArray[Any]:
    is_only_input = len(inputs) == 1
    names = [spec.name, "x"] if is_only_input else [spec.name]
    array = next((arrays[name] for name in names if name in arrays), None)
    if array is None and is_only_input and len(arrays) == 1:
        array = next(iter(arrays.values()))
    if array is None:
        raise ConfigError(
            f"{path}: has no array {spec.name!r}, only {', '.join(map(repr, sorted(arrays))) or 'none'}",
            hint=absent or "name each array as the model's input, samples along the first axis",
        )
    if array.ndim < 1 or not len(array):
        raise ConfigError(f"{path}: array for input {spec.name!r} has no samples, shape {list(array.shape)}")
    return array


def _labels(values: NDArray[Any], count: int, what: str, kind: str = "labels") -> tuple[int | str, ...]:
    flat = values.reshape(-1)
    is_labels = kind == "labels"
    if len(flat) != count or values.shape[:1] != (count,):
        raise TensorError(
            f"{what}: want {count} {kind}, one per sample, got shape {list(values.shape)}",
            hint="give class indices, not one-hot rows" if is_labels else "",
        )
    if flat.dtype.kind in "US":
        return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in flat.tolist())
    is_whole = flat.dtype.kind == "f" and bool((np.isfinite(flat) & (flat == np.rint(flat))).all())
    if flat.dtype.kind in "iub" or is_whole:
        return tuple(int(value) for value in flat.tolist())
    raise TensorError(
        f"{what}: want {'class indices' if is_labels else 'integers'} or names, got {flat.dtype}"
    )
