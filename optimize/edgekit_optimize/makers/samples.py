"""Reads and checks the root's calibration samples."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.plan import Root

Feeds = dict[str, NDArray[Any]]
MAX_SAMPLES: Final = 512
_DTYPES: Final = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "BOOL": np.bool_}
_HINT: Final = "calibrate with 50 to 300 different samples, preprocessed as on the device"


def calibration(root: Root, *, limit: int = MAX_SAMPLES) -> list[Feeds]:
    """Return a root's calibration samples, one inference each.

    Args:
        root: The model with the ``calibration`` file.
        limit: Maximum number, evenly spaced over all samples.

    Returns:
        Feeds by canonical input name, each array in its input's shape and dtype.

    Raises:
        TensorError: There are none, an input is missing, has a wrong shape or NaN, or all samples are
            equal.
    """
    arrays = _arrays(root)
    counts = {name: len(values) for name, values in arrays.items()}
    count = min(counts.values(), default=0)
    if count == 0 or len(set(counts.values())) > 1:
        raise TensorError(f"calibration data: want the same number of samples, got {counts}", hint=_HINT)
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise TensorError(f"calibration data for {name!r} holds values that are not finite", hint=_HINT)
    if count > 1 and all((values[1:] == values[:1]).all() for values in arrays.values()):
        named = ", ".join(map(repr, arrays))
        raise TensorError(f"calibration data for {named}: all {count} samples are equal", hint=_HINT)
    chosen = np.unique(np.linspace(0, count - 1, min(limit, count)).astype(int))
    # not ascontiguousarray, which would add an axis to a scalar
    return [{name: np.asarray(values[i], order="C") for name, values in arrays.items()} for i in chosen]


def _arrays(root: Root) -> dict[str, NDArray[Any]]:
    if not root.calibration:
        raise TensorError("there is no calibration data", hint=_HINT)
    path = Path(root.calibration)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {spec.name: _shaped(archive, spec, path.name) for spec in root.inputs}
    except (OSError, ValueError, zipfile.BadZipFile) as cause:
        raise TensorError(f"calibration data {path.name}: {cause}", hint=_HINT) from cause


def _shaped(archive: Any, spec: TensorSpec, what: str) -> NDArray[Any]:
    """Return one input's samples as (samples, *shape of the input)."""
    if spec.name not in archive:
        names = ", ".join(map(repr, archive.files)) or "nothing"
        raise TensorError(f"calibration data {what}: no array for input {spec.name!r}, found {names}")
    values = archive[spec.name]
    if values.shape[1:] != spec.shape and spec.shape[:1] == (1,):
        values = values[:, np.newaxis]
    if values.shape[1:] != spec.shape:
        raise TensorError(
            f"calibration data for {spec.name!r}: want samples of {spec.shape}, got {values.shape[1:]}",
            hint="preprocess the samples to the model's input shape",
        )
    dtype = _DTYPES.get(spec.datatype) or np.dtype(spec.datatype.lower())
    return np.asarray(values, dtype)
