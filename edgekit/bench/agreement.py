"""Whether the variants of one bundle give like answers on one made-up input.

Without golden samples nobody knows the right answer, but variants that differ by more than their precision
explains cannot all be right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bench.variant_process import LabProcess
from edgekit.core.errors import BackendError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = ("fp32", "fp16", "bf16")
_TOLERANCE, _INTEGER_TOLERANCE = 0.05, 0.5
"""Relative errors. Noise is the worst input for int8; an answer of another scale is off by about 1."""


def disagreements(processes: Sequence[LabProcess]) -> dict[str, str]:
    """Return the variants whose answers differ from those of the most exact one, and by how much.

    Raises nothing for a variant that fails: its error is its entry.

    Args:
        processes: The loaded variants, in the manifest's order.
    """
    found: dict[str, str] = {}
    answers: dict[str, dict[str, NDArray[Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="edgekit-verify-") as folder:
        for number, process in enumerate(processes):
            try:
                answers[process.variant.id] = _answers(process, Path(folder) / f"{number}.npz")
            except BackendError as error:  # noqa: PERF203 - one variant's fault is not the others'
                found[process.variant.id] = error.message
    precisions = {p.variant.id: p.variant.precision for p in processes if p.variant.id in answers}
    judge = min(precisions, key=lambda name: precisions[name] not in _FLOATS, default="")
    for name, precision in precisions.items():
        both_float = precision in _FLOATS and precisions[judge] in _FLOATS
        off = relative_error(answers[name], answers[judge])
        if not off <= (_TOLERANCE if both_float else _INTEGER_TOLERANCE):
            found[name] = f"differs from {judge} by {off:.0%} on made-up input: one of them is wrong"
    return found


def relative_error(answer: Mapping[str, NDArray[Any]], judge: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest relative error of any output; NaN where one is not comparable.

    Outputs whose size depends on the data are left out where their shapes differ.
    """
    import numpy as np

    worst = 0.0
    for name, right in judge.items():
        found = answer.get(name)
        if found is None or found.shape != right.shape:
            continue
        distance = float(np.linalg.norm(found.astype(np.float64) - right))
        size = max(float(np.linalg.norm(found)), float(np.linalg.norm(right)))
        error = distance / size if size else 0.0
        worst = error if not error <= worst else worst  # so that a NaN stays
    return worst


def _answers(process: LabProcess, path: Path) -> dict[str, NDArray[Any]]:
    import numpy as np

    process.synthetic(path)
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
