"""The user's data, as a calibration set and an evaluation set that share no sample.

Calibration samples set the ranges of a quantised model; evaluation samples judge it. A sample that
stands in both would judge itself, so what the model would see twice is kept out of calibration.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit.optimize.dataset_arrays import list_function, list_npz
from edgekit.optimize.dataset_checks import (
    MIN_CALIBRATION,
    MIN_EVALUATION,
    check_memory,
    check_varied,
    enough,
)
from edgekit.optimize.dataset_classes import Classes, match_classes
from edgekit.optimize.dataset_files import list_folder
from edgekit.optimize.dataset_listing import Listing, Prepare, Sample, is_image, the_only
from edgekit.optimize.plan import Root
from edgekit.optimize.study import DataFacts

MAX_DATA_BYTES = 2 << 30
_FEW = 100


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in memory.

    ``names`` has one for each sample: its path below the source, or its place. ``inputs`` has an
    array (n, *shape without the batch) by logical input name: images uint8, NHWC, in the model's
    colours; everything else float32, before normalising. ``labels`` is the class of each sample.
    ``boxes`` is what there is to detect in each: (k, 5), float32: class, left, top, right, bottom in
    pixels of the source picture. ``sizes`` are the source pictures' widths and heights, empty where
    samples are no pictures. ``classes`` are the names of the classes, where the model or the data
    have them. ``in_order``: the samples are one recording from its beginning on, so a model's state
    goes from each to the next, and what it gets wrong adds up as on a device.
    """

    names: tuple[str, ...]
    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None = None
    boxes: tuple[NDArray[np.float32], ...] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    classes: tuple[str, ...] = ()
    in_order: bool = False

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Split:
    """Two sets without a common sample, what they are, and what the user should know of them."""

    calibration: Dataset
    evaluation: Dataset
    facts: DataFacts
    warnings: tuple[str, ...] = ()


def read_split(
    source: str,
    inputs: Sequence[TensorSpec],
    *,
    prepare: Prepare | None,
    labels: Sequence[str] = (),
    calibration: int = 128,
    evaluation: int = 500,
    calibration_source: str = "",
    seed: int = 0,
    max_bytes: int = MAX_DATA_BYTES,
) -> Split:
    """Read data and split them by seed, class by class.

    Where there are fewer samples than wanted, a quarter of them calibrates and the rest evaluates.

    Args:
        source: A folder of pictures, an ``.npz``, or ``module:function``.
        inputs: The model's logical inputs.
        prepare: The device's own resizing of pictures; None where the model takes none.
        labels: The names of the model's classes.
        calibration: How many samples calibrate, at most; 0 for none.
        evaluation: How many samples evaluate, at most.
        calibration_source: Where calibration samples come from, if not from ``source``.
        seed: Another seed, another split.
        max_bytes: The most memory that the samples may take.

    Raises:
        ConfigError: The source is not there, cannot be read, has too few samples, or too much.
        TensorError: Samples do not fit the inputs, are not finite, or do not vary.
    """
    check_memory(inputs, calibration, evaluation, max_bytes)
    bound = 2 * (calibration + evaluation)
    listing = _open(source, inputs, prepare, bound, max_bytes)
    matched = match_classes(listing, labels)
    if calibration_source:
        apart = _open(calibration_source, inputs, prepare, bound, max_bytes)
        apart_matched = _match_if_it_can(apart, labels)
        counts = min(calibration, len(apart)), min(evaluation, len(listing))
        rest = list(_order(len(apart), apart_matched.labels, seed + 1))
    else:
        apart, apart_matched = listing, matched
        counts = _counts(len(listing), calibration, evaluation)
    order = _order(len(listing), matched.labels, seed)
    judging = _collect(listing, matched, order[: counts[1]], counts[1], frozenset())
    enough(source, "evaluate", len(judging.names), min(MIN_EVALUATION, evaluation), len(listing))
    check_varied(judging.dataset.inputs, source)
    seen = frozenset(judging.hashes)
    candidates = rest if calibration_source else order[counts[1] :]
    tuning = _collect(apart, apart_matched, candidates, counts[0], seen)
    wanted = min(MIN_CALIBRATION, calibration)
    enough(apart.source, "calibrate", len(tuning.names), wanted, len(apart), tuning.dropped)
    check_varied(tuning.dataset.inputs, apart.source)
    told = [*listing.warnings, *matched.warnings]
    if calibration_source:
        told += apart.warnings
    return _split(source, tuning, judging, told, (calibration, evaluation))


def canonical(dataset: Dataset, root: Root, limit: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return samples as the root's canonical form takes them: normalised, in its layout, by its names.

    Args:
        dataset: Samples as ``read_split`` gives them.
        root: The float model.
        limit: At most so many samples, from the first; 0 for all.

    Returns:
        Shape (n, *shape without the batch) of each canonical input, float32, contiguous.

    Raises:
        TensorError: An input is not in the data, or does not fit.
    """
    count = min(len(dataset), limit) if limit else len(dataset)
    by_canonical = {root.names.get(name, name): values[:count] for name, values in dataset.inputs.items()}
    made = {}
    for spec in root.inputs:
        if spec.name not in by_canonical:
            raise TensorError(
                f"model input {spec.name!r}: the data have no array for it, but {sorted(dataset.inputs)}",
                hint="give an NPZ with one array for each input",
            )
        made[spec.name] = _canonical_input(by_canonical[spec.name], spec, root)
    return made


def _canonical_input(values: NDArray[Any], spec: TensorSpec, root: Root) -> NDArray[np.float32]:
    real = values.astype(np.float32)
    takes_bytes = spec.datatype == "UINT8" and spec.quantization is None  # it normalises inside
    if spec.name == root.image and real.ndim == 4:
        if not takes_bytes:
            real = _normalized(real, root, spec.name)
        if root.layout == "NCHW":
            real = real.transpose(0, 3, 1, 2)
    elif root.pre.window:
        real = _windows(real, spec, root)
    without_batch = spec.shape[1:] if spec.shape[:1] in ((1,), (-1,)) else spec.shape  # a state has none
    wanted = (len(real), *without_batch)
    if -1 not in wanted:
        if real.size != math.prod(wanted):
            raise TensorError(
                f"model input {spec.name!r}: want samples of {list(wanted[1:])}, got {list(real.shape[1:])}"
            )
        real = real.reshape(wanted)
    return np.ascontiguousarray(real, np.float32)


def _windows(real: NDArray[np.float32], spec: TensorSpec, root: Root) -> NDArray[np.float32]:
    """Normalise channel by channel, put the context in front (zeros, as at the start of a recording)."""
    pre = root.pre
    length = pre.window + pre.context
    channels = max(1, math.prod(n for n in spec.shape[1:] if n > 0) // length)
    size = real[0].size
    if size not in (pre.window * channels, length * channels):
        return real  # a state or another input beside the window
    real = real.reshape(len(real), -1, channels)
    if real.shape[1] < length:
        real = np.concatenate([np.zeros((len(real), pre.context, channels), np.float32), real], axis=1)
    real = _normalized(real, root, spec.name)
    inner = tuple(n for n in spec.shape[1:] if n != 1)
    wide = tuple(n for n in (length, channels) if n != 1)
    is_planar = root.layout == "NCHW" or (inner == wide[::-1] and inner != wide)
    return real.transpose(0, 2, 1) if is_planar else real


def _normalized(real: NDArray[np.float32], root: Root, name: str) -> NDArray[np.float32]:
    channels = real.shape[-1]
    for field, values in (("mean", root.pre.mean), ("std", root.pre.std)):
        if len(values) not in (1, channels):
            raise TensorError(f"pre.{field}: want 1 or {channels} values for {name!r}, got {len(values)}")
    mean, std = np.array(root.pre.mean, np.float32), np.array(root.pre.std, np.float32)
    return np.asarray((real - mean) / std, np.float32)


# ---------------------------------------------------------------------------------------------
# Opening and splitting


def _open(
    source: str, inputs: Sequence[TensorSpec], prepare: Prepare | None, bound: int, max_bytes: int
) -> Listing:
    path = Path(source)
    if path.is_dir():
        spec = the_only(inputs, source)
        if prepare is None or not is_image(spec):
            raise ConfigError(
                f"{source}: is a folder of pictures, but the model takes none ({spec.name}:"
                f" {spec.datatype} {list(spec.shape)})",
                hint="give an NPZ, or module:function",
            )
        return list_folder(path, spec, prepare)
    if path.is_file() and path.suffix.lower() == ".npz":
        return list_npz(path, inputs, prepare, max_bytes)
    if not path.exists() and ":" in source:
        return list_function(source, inputs, prepare, bound, max_bytes)
    found = "is no folder and no .npz" if path.exists() else "is not there"
    raise ConfigError(
        f"data {source!r}: {found}", hint="give a folder of pictures, an .npz file, or module:function"
    )


def _match_if_it_can(listing: Listing, labels: Sequence[str]) -> Classes:
    """Return a calibration source's classes; it needs none, so what does not match is not asked for."""
    try:
        return match_classes(listing, labels)
    except ConfigError:
        return Classes(tuple(labels))


def _counts(found: int, calibration: int, evaluation: int) -> tuple[int, int]:
    if found >= calibration + evaluation:
        return calibration, evaluation
    tuned = min(calibration, max(found // 4, min(MIN_CALIBRATION, calibration)))
    return tuned, max(0, min(evaluation, found - tuned))


def _order(count: int, labels: NDArray[np.int64] | None, seed: int) -> list[int]:
    """Return an order of the samples any beginning of which has the classes in their proportion."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(count)
    groups = np.zeros(count, np.int64) if labels is None else labels
    ranks = np.empty(count)
    for group in np.unique(groups):
        members = shuffled[groups[shuffled] == group]
        ranks[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return [int(place) for place in np.argsort(ranks, kind="stable")]


@dataclass(frozen=True, eq=False)
class _Collected:
    """One side of the split while it is made."""

    dataset: Dataset
    hashes: tuple[str, ...]
    dropped: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.dataset.names


def _collect(
    listing: Listing, classes: Classes, order: Sequence[int], count: int, seen: frozenset[str]
) -> _Collected:
    """Read samples in an order until there are enough, without those whose content was seen."""
    kept: list[tuple[int, Sample, str]] = []
    dropped = 0
    for place in order:
        if len(kept) >= count:
            break
        sample = listing.read(place)
        digest = _digest(sample)
        if digest in seen:
            dropped += 1
        else:
            kept.append((place, sample, digest))
    dataset = Dataset(
        names=tuple(listing.names[place] for place, _, _ in kept),
        inputs=_stacked([sample for _, sample, _ in kept], listing.source),
        labels=None if classes.labels is None else classes.labels[[place for place, _, _ in kept]],
        boxes=_boxes([sample for _, sample, _ in kept], classes) if listing.has_boxes else None,
        sizes=tuple(sample.size for _, sample, _ in kept if sample.size is not None),
        classes=classes.names,
    )
    return _Collected(dataset, tuple(digest for _, _, digest in kept), dropped)


def _stacked(samples: Sequence[Sample], source: str) -> dict[str, NDArray[Any]]:
    if not samples:
        return {}
    for name, first in samples[0].inputs.items():
        shapes = {sample.inputs[name].shape for sample in samples}
        if len(shapes) > 1:
            raise TensorError(
                f"{source}: samples of input {name!r} have different shapes: {sorted(shapes)[:3]}",
                hint=f"give all of them one shape, such as {list(first.shape)}",
            )
    return {name: np.stack([sample.inputs[name] for sample in samples]) for name in samples[0].inputs}


def _boxes(samples: Sequence[Sample], classes: Classes) -> tuple[NDArray[np.float32], ...]:
    empty = np.zeros((0, 5), np.float32)
    return tuple(classes.of_boxes(empty if s.boxes is None else s.boxes) for s in samples)


def _digest(sample: Sample) -> str:
    """Return a hash of what the model would see: the same picture in two files is one sample."""
    digest = hashlib.sha256()
    for name in sorted(sample.inputs):
        array = sample.inputs[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _split(
    source: str, tuning: _Collected, judging: _Collected, told: Sequence[str], asked: tuple[int, int]
) -> Split:
    count = len(judging.names)
    warnings = list(told)
    if tuning.dropped:
        warnings.append(
            f"{tuning.dropped} samples were left out of calibration: they stand in the evaluation set too"
        )
    if len(tuning.names) < asked[0]:
        warnings.append(f"{len(tuning.names)} samples calibrate, {asked[0]} were asked for")
    if count < _FEW:
        warnings.append(
            f"{count} samples evaluate: a share measured on them is known to within"
            f" {0.98 / math.sqrt(count):.2f} (95 %); give {_FEW} or more"
        )
    digest = hashlib.sha256()
    for part in (tuning, judging):
        digest.update("\n".join(part.hashes).encode())
        digest.update(b"" if part.dataset.labels is None else part.dataset.labels.tobytes())
        for boxes in part.dataset.boxes or ():
            digest.update(boxes.tobytes() + b";")
    facts = DataFacts(
        source=source,
        calibration=len(tuning.names),
        evaluation=count,
        labelled=judging.dataset.labels is not None or judging.dataset.boxes is not None,
        dropped_overlap=tuning.dropped,
        sha256=digest.hexdigest(),
    )
    return Split(tuning.dataset, judging.dataset, facts, tuple(warnings))
