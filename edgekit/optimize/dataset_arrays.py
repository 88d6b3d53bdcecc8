"""Data as arrays: an NPZ file, or a Python function that returns an iterator."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, EdgekitError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit.optimize.dataset_listing import Listing, Prepare, Sample, fit, load_function, the_only

_LABELS = ("y", "labels", "label")
# What the standard library and NumPy raise on a damaged archive; RuntimeError where it is encrypted.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error)


def list_npz(path: Path, inputs: Sequence[TensorSpec], prepare: Prepare | None, max_bytes: int) -> Listing:
    """List the samples of an NPZ file: an array for each input, samples along the first axis.

    A model of one input takes the array of its name, or ``x``, or the only one. ``y`` or ``labels``
    has a class for each sample: an index or a name.

    Raises:
        ConfigError: It is not such a file, lacks an array, or is larger than ``max_bytes``.
        TensorError: Arrays have different numbers of samples.
    """
    arrays = _load(path, max_bytes)
    named = next((name for name in _LABELS if name in arrays and not any(s.name == name for s in inputs)), "")
    classes = arrays.pop(named, None)
    found = {spec.name: _array_for(spec, inputs, arrays, path) for spec in inputs}
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        raise TensorError(f"{path}: arrays have different numbers of samples: {lengths}")
    count = next(iter(lengths.values()))
    labels = None if classes is None else _labels(classes, count, f"{path}: {named!r}")

    def read(place: int) -> Sample:
        what = f"{path.name}[{place}]"
        return _merge(fit(found[spec.name][place], spec, prepare, what) for spec in inputs)

    names = tuple(f"{path.name}[{place}]" for place in range(count))
    return Listing(str(path), names, read, labels=labels)


def list_function(
    text: str, inputs: Sequence[TensorSpec], prepare: Prepare | None, limit: int, max_bytes: int
) -> Listing:
    """List what ``module:function`` returns: an iterator of arrays, or of dictionaries by input name.

    Each may come in a pair with its label: a class index, the name of a class, or boxes (k, 5) as
    class, left, top, right, bottom in pixels of the picture given.

    Args:
        text: Names the function; it is called without arguments.
        inputs: The model's logical inputs.
        prepare: The device's own resizing, for pictures (height, width, 3), uint8, RGB.
        limit: At most so many samples are taken.
        max_bytes: At most so many bytes are held.

    Raises:
        UsageError: There is no such function.
        ConfigError: It failed, gives nothing, or too much.
        TensorError: A sample does not fit the inputs.
    """
    samples: list[Sample] = []
    labels: list[int | str] = []
    held = 0
    for place, given in enumerate(_taken(text, limit)):
        what = f"{text}[{place}]"
        data, label = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        sample = _sample(data, inputs, prepare, what)
        if label is not None:
            label = _label(label, what)
            if isinstance(label, np.ndarray):
                sample = Sample(sample.inputs, sample.size, label)
            else:
                labels.append(label)
        samples.append(sample)
        held += sum(array.nbytes for array in sample.inputs.values())
        if held > max_bytes:
            raise ConfigError(
                f"{text}: {held / 1e6:.0f} MB after {place + 1} samples, at most {max_bytes / 1e6:.0f} MB",
                hint="ask for fewer samples with --calibration and --evaluation",
            )
    return _listing(text, samples, labels)


def _listing(text: str, samples: list[Sample], labels: list[int | str]) -> Listing:
    if not samples:
        raise ConfigError(f"{text}: gave no samples")
    boxed = sum(sample.boxes is not None for sample in samples)
    if len({len(samples), *(n for n in (len(labels), boxed) if n)}) > 1:
        raise ConfigError(
            f"{text}: {len(labels)} class labels and {boxed} arrays of boxes for {len(samples)} samples",
            hint="give a label of one kind with every sample, or with none",
        )
    if len({isinstance(label, str) for label in labels}) > 1:
        raise ConfigError(f"{text}: labels are partly numbers, partly names", hint="use one of the two")
    names = tuple(f"{text}[{place}]" for place in range(len(samples)))
    return Listing(text, names, samples.__getitem__, labels=tuple(labels) or None, has_boxes=boxed > 0)


def _taken(text: str, limit: int) -> Iterator[Any]:
    function = load_function(text, "data")
    try:
        for place, given in enumerate(function()):
            if place >= limit:
                return
            yield given
    except EdgekitError:
        raise
    except Exception as cause:  # the user's own code may raise anything
        raise ConfigError(f"{text}: failed: {type(cause).__name__}: {cause}") from cause


def _sample(data: Any, inputs: Sequence[TensorSpec], prepare: Prepare | None, what: str) -> Sample:
    if not isinstance(data, Mapping):
        return fit(data, the_only(inputs, what), prepare, what)
    if set(data) != {spec.name for spec in inputs}:
        raise TensorError(
            f"{what}: want arrays {sorted(spec.name for spec in inputs)}, got {sorted(map(str, data))}"
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
    array = np.asarray(label)
    if array.dtype.kind in "iu" and array.size == 1:
        return int(array.reshape(-1)[0])
    if array.dtype.kind in "fiu" and array.ndim == 2 and array.shape[1] == 5 and np.isfinite(array).all():
        return array.astype(np.float32)
    raise TensorError(
        f"{what}: a label is a class index, a name, or boxes (k, 5), got {type(label).__name__} of"
        f" {array.dtype} {list(array.shape)}"
    )


# ---------------------------------------------------------------------------------------------
# NPZ


def _load(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Return a file's arrays; the headers tell their size before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(_announced(archive, member) for member in archive.namelist())
        if total > max_bytes:
            raise ConfigError(
                f"{path}: {total / 1e6:.0f} MB of arrays, at most {max_bytes / 1e6:.0f} MB are read",
                hint="save fewer samples, or images as uint8",
            )
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except _DAMAGED as cause:
        raise ConfigError(
            f"{path}: is not an NPZ of plain arrays: {cause}", hint="write it with numpy.savez"
        ) from cause


def _announced(archive: zipfile.ZipFile, member: str) -> int:
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{member} has a header of version {version}")
        shape, _, dtype = readers[version](file)
    return int(np.prod(shape, dtype=np.float64)) * int(dtype.itemsize)


def _array_for(
    spec: TensorSpec, inputs: Sequence[TensorSpec], arrays: dict[str, NDArray[Any]], path: Path
) -> NDArray[Any]:
    alone = len(inputs) == 1
    names = [spec.name, "x"] if alone else [spec.name]
    found = next((arrays[name] for name in names if name in arrays), None)
    if found is None and alone and len(arrays) == 1:
        found = next(iter(arrays.values()))
    if found is None:
        raise ConfigError(
            f"{path}: has no array {spec.name!r}, but {', '.join(map(repr, sorted(arrays))) or 'none'}",
            hint="name each array as the model's input, samples along the first axis",
        )
    if found.ndim < 1 or not len(found):
        raise ConfigError(f"{path}: array for input {spec.name!r} has no samples, shape {list(found.shape)}")
    return found


def _labels(values: NDArray[Any], count: int, what: str) -> tuple[int | str, ...]:
    flat = values.reshape(-1)
    if len(flat) != count or values.shape[:1] != (count,):
        raise TensorError(
            f"{what}: want {count} labels, one for each sample, got shape {list(values.shape)}",
            hint="give class indices, not one-hot rows",
        )
    if flat.dtype.kind in "US":
        return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in flat.tolist())
    if flat.dtype.kind in "iub" or (flat.dtype.kind == "f" and bool((flat == np.rint(flat)).all())):
        return tuple(int(value) for value in flat.tolist())
    raise TensorError(f"{what}: want class indices or names, got {flat.dtype}")
