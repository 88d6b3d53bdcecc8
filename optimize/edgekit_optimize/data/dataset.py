"""The user's data, as a calibration set and an evaluation set that share no sample.

Calibration samples set the ranges of a quantised model; evaluation samples judge it. A sample that
stands in both would judge itself, so what the model would see twice is kept out of calibration.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.data.arrays import gives_pictures, list_function, list_npz
from edgekit_optimize.data.checks import MIN_CALIBRATION, MIN_EVALUATION, check_memory, check_varied, enough
from edgekit_optimize.data.classes import Classes, match_classes
from edgekit_optimize.data.files import list_folder
from edgekit_optimize.data.listing import Listing, Prepare, is_image, the_only
from edgekit_optimize.data.npz import has_bytes
from edgekit_optimize.data.order import POOL, Division, divide, recordings_of, thinned
from edgekit_optimize.data.samples import Collected, Dataset, collect, collect_in_order
from edgekit_optimize.plan import Root
from edgekit_optimize.study import DataFacts

__all__ = ["Dataset", "Split", "brings_pictures", "canonical", "read_split"]

MAX_DATA_BYTES = 2 << 30
_FEW = 100


@dataclass(frozen=True, eq=False)
class Split:
    """Two sets without a common sample, what they are, and what the user should know of them.

    ``chosen`` are the calibration samples that calibrate, where the others are there only for the
    state to go through them; None where all do.
    """

    calibration: Dataset
    evaluation: Dataset
    facts: DataFacts
    warnings: tuple[str, ...] = ()
    chosen: tuple[int, ...] | None = None


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
    in_order: bool = False,
    absent: str = "",
) -> Split:
    """Read data and split them by seed, class by class.

    Where there are fewer samples than wanted, a quarter of them calibrates and the rest evaluates.
    For a model with state, ``in_order``, whole recordings go to either side, each in its order.

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
        in_order: The model has a state: samples keep their order.
        absent: The way out where data lack an array for an input, in place of the usual one.

    Raises:
        ConfigError: The source is not there, cannot be read, has too few samples, or too much.
        TensorError: Samples do not fit the inputs, are not finite, or do not vary.
    """
    pool = POOL * calibration if in_order else calibration
    check_memory(inputs, pool, evaluation, max_bytes)
    bound = pool + evaluation if in_order else 2 * (calibration + evaluation)
    listing = _open(source, inputs, prepare, bound, max_bytes, absent)
    here = there = _Side(listing, match_classes(listing, labels))
    if calibration_source:
        apart = _open(calibration_source, inputs, prepare, bound, max_bytes, absent)
        there = _Side(apart, _match_if_it_can(apart, labels))
    judging, tuning = (_in_order if in_order else _shuffled)(here, there, calibration, evaluation, seed)
    enough(source, "evaluate", judging.count, min(MIN_EVALUATION, evaluation), len(listing))
    check_varied(judging.dataset.inputs, source)
    wanted = min(MIN_CALIBRATION, calibration)
    enough(there.listing.source, "calibrate", tuning.count, wanted, len(there.listing), tuning.dropped)
    check_varied(tuning.dataset.inputs, there.listing.source)
    told = [*listing.warnings, *here.classes.warnings]
    if here is not there:
        told += there.listing.warnings
    if in_order and listing.recordings is None:
        told.append(f"{source}: nothing names recordings, so all samples are one, in order")
    return _split(source, tuning, judging, told, (calibration, evaluation))


def brings_pictures(source: str) -> bool:
    """Return whether data are pictures as bytes, which the device's preprocessing normalises.

    Raises:
        UsageError: There is no such function.
        ConfigError: It failed, or a file is damaged.
    """
    path = Path(source)
    if path.is_file():
        # handwritten digits may come without their axis of colours
        return path.suffix.lower() == ".npz" and has_bytes(path, 3)
    return path.is_dir() or (not path.exists() and ":" in source and gives_pictures(source))


@dataclass(frozen=True, eq=False)
class _Side:
    """Where one side's samples come from, and their classes."""

    listing: Listing
    classes: Classes


def _shuffled(
    here: _Side, there: _Side, calibration: int, evaluation: int, seed: int
) -> tuple[Collected, Collected]:
    """Return the evaluation and the calibration samples, drawn by seed, class by class."""
    order = _order(len(here.listing), here.classes.labels, seed)
    if here is there:
        counts = _counts(len(here.listing), calibration, evaluation)
        rest = order[counts[1] :]
    else:
        counts = min(calibration, len(there.listing)), min(evaluation, len(here.listing))
        rest = _order(len(there.listing), there.classes.labels, seed + 1)
    judging = collect(here.listing, here.classes, order[: counts[1]], counts[1], frozenset())
    check_varied(judging.dataset.inputs, here.listing.source)  # before looking for others like these
    tuning = collect(there.listing, there.classes, rest, counts[0], frozenset(judging.hashes))
    return judging, tuning


def _in_order(
    here: _Side, there: _Side, calibration: int, evaluation: int, seed: int
) -> tuple[Collected, Collected]:
    """Return the evaluation and the calibration samples: recordings, drawn by seed, each in its order.

    A calibration sample that the evaluation has too stays where it is, so that the state goes
    through it, and does not calibrate.
    """
    recordings, others = _recordings(here, seed), _recordings(there, seed)
    if here is there:
        tuned, judged = _counts(len(here.listing), calibration, evaluation)
        spare = len(here.listing) - judged
        places = divide(recordings, min(POOL * tuned, max(spare, tuned)), judged)
    else:
        places = Division(
            divide(others, POOL * calibration, 0).pool, divide(recordings, 0, evaluation).judged
        )
    judging = collect_in_order(here.listing, here.classes, places.judged, recordings)
    tuning = collect_in_order(there.listing, there.classes, places.pool, others)
    seen = frozenset(judging.hashes)
    both = frozenset(n for n, digest in enumerate(tuning.hashes) if digest in seen)
    return judging, replace(tuning, dropped=len(both), chosen=thinned(len(tuning.names), calibration, both))


def _recordings(side: _Side, seed: int) -> list[range]:
    """Return recordings in an order by seed, those of different classes in turn."""
    found = recordings_of(side.listing.recordings, len(side.listing), side.listing.source)
    labels = None if side.classes.labels is None else side.classes.labels[[one.start for one in found]]
    return [found[place] for place in _order(len(found), labels, seed)]


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
    source: str,
    inputs: Sequence[TensorSpec],
    prepare: Prepare | None,
    bound: int,
    max_bytes: int,
    absent: str,
) -> Listing:
    path = Path(source)
    if path.is_dir():
        spec = the_only(inputs, source, absent)
        if prepare is None or not is_image(spec):
            raise ConfigError(
                f"{source}: is a folder of pictures, but the model takes none ({spec.name}:"
                f" {spec.datatype} {list(spec.shape)})",
                hint="give an NPZ, or module:function",
            )
        return list_folder(path, spec, prepare)
    if path.is_file() and path.suffix.lower() == ".npz":
        return list_npz(path, inputs, prepare, max_bytes, absent)
    if not path.exists() and ":" in source:
        return list_function(source, inputs, prepare, bound, max_bytes, absent)
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


def _split(
    source: str, tuning: Collected, judging: Collected, told: Sequence[str], asked: tuple[int, int]
) -> Split:
    count = judging.count
    warnings = list(told)
    if tuning.dropped:
        warnings.append(
            f"{tuning.dropped} samples were left out of calibration: they stand in the evaluation set too"
        )
    if tuning.count < asked[0]:
        warnings.append(f"{tuning.count} samples calibrate, {asked[0]} were asked for")
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
        calibration=tuning.count,
        evaluation=count,
        labelled=judging.dataset.labels is not None or judging.dataset.boxes is not None,
        dropped_overlap=tuning.dropped,
        sha256=digest.hexdigest(),
    )
    return Split(tuning.dataset, judging.dataset, facts, tuple(warnings), tuning.chosen)
