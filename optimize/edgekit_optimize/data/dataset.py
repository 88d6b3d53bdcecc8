"""Splits the user's data into a calibration and an evaluation set that share no sample.

Calibration samples determine the ranges of a quantised model; evaluation samples measure its accuracy.
A sample with the same content as an evaluation sample is therefore left out of calibration.
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
    """Two sets without a common sample, facts about them for the report, and warnings for the user.

    ``chosen`` are the indices of the calibration samples to use, if the others are there only to update
    the model's state; None for all.
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
    """Return the data, split at random but stratified by class.

    If there are fewer samples than requested, a quarter of them is for calibration and the rest for
    evaluation. With ``in_order`` whole recordings are assigned, and keep their order.

    Args:
        source: A folder of pictures, an ``.npz``, or ``module:function``.
        inputs: The model's logical inputs.
        prepare: The device's resizing of pictures; None if the model takes none.
        labels: The names of the model's classes.
        calibration: Maximum number of calibration samples; 0 for none.
        evaluation: Maximum number of evaluation samples.
        calibration_source: Source of the calibration samples, if not ``source``.
        seed: For the random split.
        max_bytes: Maximum memory for the samples.
        in_order: The model has state, so samples keep their order.
        absent: Hint for the error if an input is missing; empty for the default.

    Raises:
        ConfigError: The source does not exist, cannot be read, or has too few or too large samples.
        TensorError: Samples do not match the inputs, are not finite, or are constant.
    """
    pool = POOL * calibration if in_order else calibration
    check_memory(inputs, pool, evaluation, max_bytes)
    bound = pool + evaluation if in_order else 2 * (calibration + evaluation)
    listing = _open(source, inputs, prepare, bound, max_bytes, absent)
    eval_side = cal_side = _Side(listing, match_classes(listing, labels))
    if calibration_source:
        other = _open(calibration_source, inputs, prepare, bound, max_bytes, absent)
        cal_side = _Side(other, _match_if_it_can(other, labels))
    judging, tuning = (_in_order if in_order else _shuffled)(
        eval_side, cal_side, calibration, evaluation, seed
    )
    enough(source, "evaluate", judging.count, min(MIN_EVALUATION, evaluation), len(listing))
    check_varied(judging.dataset.inputs, source)
    least = min(MIN_CALIBRATION, calibration)
    enough(cal_side.listing.source, "calibrate", tuning.count, least, len(cal_side.listing), tuning.dropped)
    check_varied(tuning.dataset.inputs, cal_side.listing.source)
    warnings = [*listing.warnings, *eval_side.classes.warnings]
    if eval_side is not cal_side:
        warnings += cal_side.listing.warnings
    if in_order and listing.recordings is None:
        warnings.append(f"{source}: no recordings are given, so all samples are treated as one, in order")
    return _split(source, tuning, judging, warnings, (calibration, evaluation))


def brings_pictures(source: str) -> bool:
    """Return whether the data are uint8 pictures, which the device's preprocessing normalises.

    Raises:
        UsageError: The function cannot be imported.
        ConfigError: The function failed, or the file is damaged.
    """
    path = Path(source)
    if path.is_file():
        # grey pictures such as handwritten digits may lack the colour axis
        return path.suffix.lower() == ".npz" and has_bytes(path, 3)
    return path.is_dir() or (not path.exists() and ":" in source and gives_pictures(source))


@dataclass(frozen=True, eq=False)
class _Side:
    """The source of one set, and its classes."""

    listing: Listing
    classes: Classes


def _shuffled(
    eval_side: _Side, cal_side: _Side, calibration: int, evaluation: int, seed: int
) -> tuple[Collected, Collected]:
    """Return the evaluation and the calibration samples, drawn at random, stratified by class."""
    order = _order(len(eval_side.listing), eval_side.classes.labels, seed)
    if eval_side is cal_side:
        counts = _counts(len(eval_side.listing), calibration, evaluation)
        pool = order[counts[1] :]
    else:
        counts = min(calibration, len(cal_side.listing)), min(evaluation, len(eval_side.listing))
        pool = _order(len(cal_side.listing), cal_side.classes.labels, seed + 1)
    judging = collect(eval_side.listing, eval_side.classes, order[: counts[1]], counts[1], frozenset())
    check_varied(judging.dataset.inputs, eval_side.listing.source)  # before searching for duplicates of these
    tuning = collect(cal_side.listing, cal_side.classes, pool, counts[0], frozenset(judging.hashes))
    return judging, tuning


def _in_order(
    eval_side: _Side, cal_side: _Side, calibration: int, evaluation: int, seed: int
) -> tuple[Collected, Collected]:
    """Return the evaluation and the calibration samples: recordings drawn at random, each in order.

    A calibration sample that is also in the evaluation set updates the state, but does not calibrate.
    """
    recordings, others = _recordings(eval_side, seed), _recordings(cal_side, seed)
    if eval_side is cal_side:
        tuned, judged = _counts(len(eval_side.listing), calibration, evaluation)
        spare = len(eval_side.listing) - judged
        division = divide(recordings, min(POOL * tuned, max(spare, tuned)), judged)
    else:
        division = Division(
            divide(others, POOL * calibration, 0).pool, divide(recordings, 0, evaluation).judged
        )
    judging = collect_in_order(eval_side.listing, eval_side.classes, division.judged, recordings)
    tuning = collect_in_order(cal_side.listing, cal_side.classes, division.pool, others)
    evaluated = frozenset(judging.hashes)
    shared = frozenset(n for n, digest in enumerate(tuning.hashes) if digest in evaluated)
    return judging, replace(
        tuning, dropped=len(shared), chosen=thinned(len(tuning.names), calibration, shared)
    )


def _recordings(side: _Side, seed: int) -> list[range]:
    """Return the recordings in random order, stratified by class."""
    recordings = recordings_of(side.listing.recordings, len(side.listing), side.listing.source)
    labels = (
        None
        if side.classes.labels is None
        else side.classes.labels[[recording.start for recording in recordings]]
    )
    return [recordings[index] for index in _order(len(recordings), labels, seed)]


def canonical(dataset: Dataset, root: Root, limit: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return samples as the root model takes them: normalised, in its layout, by its input names.

    Args:
        dataset: As ``read_split`` returns it.
        root: The float model.
        limit: Return only the first ``limit`` samples; 0 for all.

    Returns:
        Shape (n, *shape without the batch) of each canonical input, float32, contiguous.

    Raises:
        TensorError: An input is missing in the data, or has the wrong shape.
    """
    count = min(len(dataset), limit) if limit else len(dataset)
    by_canonical = {root.names.get(name, name): values[:count] for name, values in dataset.inputs.items()}
    arrays = {}
    for spec in root.inputs:
        if spec.name not in by_canonical:
            raise TensorError(
                f"model input {spec.name!r}: the data have no array for it, only {sorted(dataset.inputs)}",
                hint="give an NPZ with one array per input",
            )
        arrays[spec.name] = _canonical_input(by_canonical[spec.name], spec, root)
    return arrays


def _canonical_input(values: NDArray[Any], spec: TensorSpec, root: Root) -> NDArray[np.float32]:
    real = values.astype(np.float32)
    takes_bytes = spec.datatype == "UINT8" and spec.quantization is None  # the model normalises
    if spec.name == root.image and real.ndim == 4:
        if not takes_bytes:
            real = _normalized(real, root, spec.name)
        if root.layout == "NCHW":
            real = real.transpose(0, 3, 1, 2)
    elif root.pre.window:
        real = _windows(real, spec, root)
    without_batch = (
        spec.shape[1:] if spec.shape[:1] in ((1,), (-1,)) else spec.shape
    )  # a state has no batch axis
    shape = (len(real), *without_batch)
    if -1 not in shape:
        if real.size != math.prod(shape):
            raise TensorError(
                f"model input {spec.name!r}: want samples of {list(shape[1:])}, got {list(real.shape[1:])}"
            )
        real = real.reshape(shape)
    return np.ascontiguousarray(real, np.float32)


def _windows(real: NDArray[np.float32], spec: TensorSpec, root: Root) -> NDArray[np.float32]:
    """Normalise per channel, and prepend zeros as context, as at the start of a recording."""
    pre = root.pre
    length = pre.window + pre.context
    channels = max(1, math.prod(n for n in spec.shape[1:] if n > 0) // length)
    size = real[0].size
    if size not in (pre.window * channels, length * channels):
        return real  # a state or another input, not the window
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
                f"{source}: is a folder of pictures, but the model takes no pictures ({spec.name}:"
                f" {spec.datatype} {list(spec.shape)})",
                hint="give an NPZ, or module:function",
            )
        return list_folder(path, spec, prepare)
    if path.is_file() and path.suffix.lower() == ".npz":
        return list_npz(path, inputs, prepare, max_bytes, absent)
    if not path.exists() and ":" in source:
        return list_function(source, inputs, prepare, bound, max_bytes, absent)
    why = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
    raise ConfigError(
        f"data {source!r}: {why}", hint="give a folder of pictures, an .npz file, or module:function"
    )


def _match_if_it_can(listing: Listing, labels: Sequence[str]) -> Classes:
    """Return a calibration source's classes; labels that do not match are ignored, as none are needed."""
    try:
        return match_classes(listing, labels)
    except ConfigError:
        return Classes(tuple(labels))


def _counts(available: int, calibration: int, evaluation: int) -> tuple[int, int]:
    if available >= calibration + evaluation:
        return calibration, evaluation
    tuned = min(calibration, max(available // 4, min(MIN_CALIBRATION, calibration)))
    return tuned, max(0, min(evaluation, available - tuned))


def _order(count: int, labels: NDArray[np.int64] | None, seed: int) -> list[int]:
    """Return a random order of samples, every prefix of which has about the same class proportions."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(count)
    groups = np.zeros(count, np.int64) if labels is None else labels
    ranks = np.empty(count)
    for group in np.unique(groups):
        members = shuffled[groups[shuffled] == group]
        ranks[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return [int(index) for index in np.argsort(ranks, kind="stable")]


def _split(
    source: str,
    tuning: Collected,
    judging: Collected,
    data_warnings: Sequence[str],
    requested: tuple[int, int],
) -> Split:
    count = judging.count
    warnings = list(data_warnings)
    if tuning.dropped:
        warnings.append(
            f"{tuning.dropped} samples were left out of calibration: they are also in the evaluation set"
        )
    if tuning.count < requested[0]:
        warnings.append(
            f"only {tuning.count} samples are left for calibration, {requested[0]} were requested"
        )
    if count < _FEW:
        warnings.append(
            f"only {count} evaluation samples: a share measured on them has an error of up to"
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
