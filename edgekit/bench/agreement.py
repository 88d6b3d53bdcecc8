"""Compares the answers of one bundle's variants on the same synthetic input.

Without golden samples the right answer is unknown, but variants that differ by more than their precision
explains cannot all be right.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bench.variant_process import VariantProcess
from edgekit.core.errors import BackendError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = ("fp32", "fp16", "bf16")
_TOLERANCE, _INTEGER_TOLERANCE = 0.05, 0.5
"""Relative errors. Noise is the worst input for int8; a wrong scale gives an error of about 1."""


def disagreements(processes: Sequence[VariantProcess]) -> dict[str, str]:
    """Return the variants whose answers cannot be right, and those that fail, each with the reason."""
    errors: dict[str, str] = {}
    answers: dict[str, dict[str, NDArray[Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="edgekit-verify-") as folder:
        for number, process in enumerate(processes):
            try:
                answers[process.variant.id] = _answers(process, Path(folder) / f"{number}.npz")
            except BackendError as error:  # noqa: PERF203 - one variant's error must not stop the others
                errors[process.variant.id] = error.message
    precisions = {p.variant.id: p.variant.precision for p in processes if p.variant.id in answers}
    return errors | differing(answers, precisions)


def differing(
    answers: Mapping[str, Mapping[str, NDArray[Any]]], precisions: Mapping[str, str]
) -> dict[str, str]:
    """Return the variants whose answers differ from the judge's, each with the reason.

    The judge is the float variant whose median error against all variants is the smallest, so that a wrong
    one is not held against those that agree.

    Args:
        answers: By variant, then by output: real numbers.
        precisions: Of each variant.
    """
    floats = [name for name in answers if precisions[name] in _FLOATS]

    def median_error(name: str) -> float:
        errors = (relative_error(other, answers[name]) for other in answers.values())
        return statistics.median_low(math.inf if math.isnan(error) else error for error in errors)

    judge = min(floats or answers, key=median_error, default="")
    reasons = {}
    for name, answer in answers.items():
        off = relative_error(answer, answers[judge])
        if not off <= (_TOLERANCE if name in floats and judge in floats else _INTEGER_TOLERANCE):
            reasons[name] = f"differs from {judge} by {off:.0%} on synthetic input: one of them is wrong"
    return reasons


def relative_error(answer: Mapping[str, NDArray[Any]], judge: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest relative error of any output; NaN if an output has NaNs.

    Outputs with different shapes are skipped: their size depends on the data.
    """
    import numpy as np

    worst = 0.0
    for name, right in judge.items():
        other = answer.get(name)
        if other is None or other.shape != right.shape:
            continue
        distance = float(np.linalg.norm(other.astype(np.float64) - right))
        size = max(float(np.linalg.norm(other)), float(np.linalg.norm(right)))
        error = distance / size if size else 0.0
        worst = error if not error <= worst else worst  # so that a NaN stays
    return worst


def _answers(process: VariantProcess, path: Path) -> dict[str, NDArray[Any]]:
    import numpy as np

    process.synthetic(path)
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
