"""Data as arrays: an NPZ file, or a Python function that returns an iterator."""

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
"""The array, or the key of a dictionary, that names the recording of each sample."""


def list_npz(
    path: Path, inputs: Sequence[TensorSpec], prepare: Prepare | None, max_bytes: int, absent: str = ""
) -> Listing:
    """List the samples of an NPZ file: an array for each input, samples along the first axis.

    A model of one input takes the array of its name, or ``x``, or the only one. ``y`` or ``labels``
    has a class for each sample: an index or a name. ``recording`` names the recording of each.

    Raises:
        ConfigError: It is not such a file, lacks an array, or is larger than ``max_bytes``.
        TensorError: Arrays have different numbers of samples.
    """
    arrays = load_npz(path, max_bytes)
    own = {spec.name for spec in inputs}
    named = next((name for name in _LABELS if name in arrays and name not in own), "")
    classes = arrays.pop(named, None)
    marks = arrays.pop(RECORDING, None) if RECORDING not in own else None
    found = {spec.name: _array_for(spec, inputs, arrays, path, absent) for spec in inputs}
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        raise TensorError(f"{path}: arrays have different numbers of samples: {lengths}")
    count = next(iter(lengths.values()))
    labels = None if classes is None else _labels(classes, count, f"{path}: {named!r}")
    recordings = None if marks is None else _labels(marks, count, f"{path}: {RECORDING!r}", "recordings")

    def read(place: int) -> Sample:
        what = f"{path.name}[{place}]"
        return _merge(fit(found[spec.name][place], spec, prepare, what) for spec in inputs)

    names = tuple(f"{path.name}[{place}]" for place in range(count))
    taken = {id(array) for array in found.values()}
    unused = [repr(name) for name, array in arrays.items() if id(array) not in taken]
    told = (f"{path}: not used, since the model has no such input: {', '.join(unused)}",) if unused else ()
    return Listing(str(path), names, read, labels=labels, warnings=told, recordings=recordings)


def list_function(
    text: str,
    inputs: Sequence[TensorSpec],
    prepare: Prepare | None,
    limit: int,
    max_bytes: int,
    absent: str = "",
) -> Listing:
    """List what ``module:function`` returns: an iterator of arrays, or of dictionaries by input name.

    Each may come in a pair with its label: a class index, the name of a class, or boxes (k, 5) as
    class, left, top, right, bottom in pixels of the picture given. A dictionary may have
    ``recording`` beside the inputs: the number or name of the recording that the sample is of.

    Args:
        text: Names the function; it is called without arguments.
        inputs: The model's logical inputs.
        prepare: The device's own resizing, for pictures (height, width, 3), uint8, RGB.
        limit: At most so many samples are taken.
        max_bytes: At most so many bytes are held.
        absent: The way out where an input is missing, in place of the usual one.

    Raises:
        UsageError: There is no such function.
        ConfigError: It failed, gives nothing, or too much.
        TensorError: A sample does not fit the inputs.
    """
    samples: list[Sample] = []
    labels: list[int | str] = []
    recordings: list[int | str] = []
    held = 0
    for place, given in enumerate(_taken(text, limit)):
        what = f"{text}[{place}]"
        data, label = _pair(given, what)
        data, mark = _without_recording(data, inputs, what)
        recordings += [] if mark is None else [mark]
        sample = _sample(data, inputs, prepare, what, absent)
        if label is not None:
            label = _label(label, what)
            if isinstance(label, np.ndarray):
                sample = Sample(sample.inputs, sample.size, label)
            else:
                labels.append(label)
        samples.append(_own(sample))
        held += sum(array.nbytes for array in sample.inputs.values())
        if held > max_bytes:
            raise ConfigError(
                f"{text}: {held / 1e6:.0f} MB after {place + 1} samples, at most {max_bytes / 1e6:.0f} MB",
                hint="ask for fewer samples with --samples and --calibration-samples",
            )
    return _listing(text, samples, labels, recordings)


def gives_pictures(text: str) -> bool:
    """Return whether the first sample of ``module:function`` has bytes of two axes or more.

    Raises:
        UsageError: There is no such function.
        ConfigError: It failed.
    """
    for given in _taken(text, 1):
        data, _ = _pair(given, f"{text}[0]")
        arrays = data.values() if isinstance(data, Mapping) else (data,)
        found = (as_array(values, f"{text}[0]") for values in arrays)
        return any(array.dtype == np.uint8 and array.ndim >= _PICTURE_AXES for array in found)
    return False


def _pair(given: Any, what: str) -> tuple[Any, Any]:
    """Return a sample and its label, or None where there is none."""
    if not isinstance(given, tuple):
        return given, None
    if len(given) != 2:
        raise TensorError(
            f"{what}: want a sample, or a pair of a sample and its label, got a tuple of {len(given)}",
            hint="give the inputs of a model that has several as a dictionary by name",
        )
    return given


def _own(sample: Sample) -> Sample:
    """Return a sample in memory of its own: a function may fill the same array again and again."""
    inputs = {name: np.array(array) for name, array in sample.inputs.items()}
    return Sample(inputs, sample.size, sample.boxes)


def _listing(
    text: str, samples: list[Sample], labels: list[int | str], recordings: list[int | str]
) -> Listing:
    if not samples:
        raise ConfigError(f"{text}: gave no samples")
    if len(recordings) not in (0, len(samples)):
        raise ConfigError(
            f"{text}: {len(recordings)} of {len(samples)} samples name their {RECORDING!r}",
            hint="name it for every sample, or for none",
        )
    boxed = sum(sample.boxes is not None for sample in samples)
    if len({len(samples), *(n for n in (len(labels), boxed) if n)}) > 1:
        raise ConfigError(
            f"{text}: {len(labels)} class labels and {boxed} arrays of boxes for {len(samples)} samples",
            hint="give a label of one kind with every sample, or with none",
        )
    if len({isinstance(label, str) for label in labels}) > 1:
        raise ConfigError(f"{text}: labels are partly numbers, partly names", hint="use one of the two")
    names = tuple(f"{text}[{place}]" for place in range(len(samples)))
    return Listing(
        text,
        names,
        samples.__getitem__,
        labels=tuple(labels) or None,
        has_boxes=boxed > 0,
        recordings=tuple(recordings) or None,
    )


def _taken(text: str, limit: int) -> Iterator[Any]:
    function = load_function(text, "data")
    taken = 0
    try:
        for given in itertools.islice(function(), limit):
            yield given
            taken += 1
    except EdgekitError:
        raise
    except (Exception, SystemExit) as cause:  # the user's own code may raise anything
        after = f" after {taken} samples" if taken else ""
        raise ConfigError(
            f"{text}: failed{after}: {type(cause).__name__}: {cause}",
            hint="it is called without arguments and returns an iterator of samples",
        ) from cause


def _without_recording(data: Any, inputs: Sequence[TensorSpec], what: str) -> tuple[Any, int | str | None]:
    """Return a sample's arrays, and the recording that a dictionary names beside them."""
    is_named = isinstance(data, Mapping) and RECORDING in data
    if not is_named or any(spec.name == RECORDING for spec in inputs):
        return data, None
    mark = data[RECORDING]
    array = np.asarray(mark)
    if not isinstance(mark, str) and (array.dtype.kind not in "iu" or array.size != 1):
        raise TensorError(f"{what}: {RECORDING!r} is a whole number or a name, got {mark!r:.80}")
    rest = {name: value for name, value in data.items() if name != RECORDING}
    return rest, mark if isinstance(mark, str) else int(array.reshape(-1)[0])


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
        f"{what}: a label is a class index, a name, or boxes (k, 5), got {type(label).__name__} of"
        f" {array.dtype} {list(array.shape)}"
    )


# ---------------------------------------------------------------------------------------------
# Arrays of an NPZ


def _array_for(
    spec: TensorSpec, inputs: Sequence[TensorSpec], arrays: dict[str, NDArray[Any]], path: Path, absent: str
) -> NDArray[Any]:
    alone = len(inputs) == 1
    names = [spec.name, "x"] if alone else [spec.name]
    found = next((arrays[name] for name in names if name in arrays), None)
    if found is None and alone and len(arrays) == 1:
        found = next(iter(arrays.values()))
    if found is None:
        raise ConfigError(
            f"{path}: has no array {spec.name!r}, but {', '.join(map(repr, sorted(arrays))) or 'none'}",
            hint=absent or "name each array as the model's input, samples along the first axis",
        )
    if found.ndim < 1 or not len(found):
        raise ConfigError(f"{path}: array for input {spec.name!r} has no samples, shape {list(found.shape)}")
    return found


def _labels(values: NDArray[Any], count: int, what: str, are: str = "labels") -> tuple[int | str, ...]:
    flat = values.reshape(-1)
    is_labels = are == "labels"
    if len(flat) != count or values.shape[:1] != (count,):
        raise TensorError(
            f"{what}: want {count} {are}, one for each sample, got shape {list(values.shape)}",
            hint="give class indices, not one-hot rows" if is_labels else "",
        )
    if flat.dtype.kind in "US":
        return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in flat.tolist())
    is_whole = flat.dtype.kind == "f" and bool((np.isfinite(flat) & (flat == np.rint(flat))).all())
    if flat.dtype.kind in "iub" or is_whole:
        return tuple(int(value) for value in flat.tolist())
    raise TensorError(
        f"{what}: want {'class indices' if is_labels else 'whole numbers'} or names, got {flat.dtype}"
    )
