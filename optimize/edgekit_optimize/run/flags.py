"""Check a request's numbers before any work is done."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.core.errors import UsageError
from edgekit.core.spec import Pre
from edgekit_optimize.run.request import Request

_MOST_THREADS = 64
_MOST_SECONDS = 60.0
_LEAST_ON_DEVICE_S = 0.1


def check_numbers(request: Request, cores: int) -> None:
    """Check that every number of a request is in its range.

    Args:
        request: The request.
        cores: CPU cores of this machine, the largest useful thread count.

    Raises:
        UsageError: At least one is not; the error lists all of them.
    """
    drop = request.max_drop
    most = _MOST_THREADS if request.remote.device else max(cores, 8)
    least_s = _LEAST_ON_DEVICE_S if request.remote.device else 0.0
    wants = [
        ("--threads", f"1 to {most}", request.threads, 1 <= request.threads <= most),
        ("--seconds", f"{least_s:g} to {_MOST_SECONDS:g}", request.seconds, _fits(request.seconds, least_s)),
        ("--samples", "1 or more", request.samples, request.samples >= 1),
        ("--calibration-samples", "1 or more", request.calibration_samples, request.calibration_samples >= 1),
        ("--seed", "0 or more", request.seed, 0 <= request.seed < 2**32),
        ("--epochs", "1 or more", request.shrinking.epochs, request.shrinking.epochs >= 1),
        ("--budget-ms", "0 (none) or more", request.budget_ms, 0 <= request.budget_ms < math.inf),
        ("--budget-mb", "0 (none) or more", request.budget_mb, 0 <= request.budget_mb < math.inf),
        ("--max-drop", "a share below 1 (0.01 is one point)", drop, drop is None or -1 <= drop < 1),
    ]
    wrong = [f"{flag}: want {allowed}, got {value}" for flag, allowed, value, fits in wants if not fits]
    wrong += _wrong_of(request.description.pre) if request.description.pre else []
    if wrong:
        raise UsageError(wrong[0], reasons=tuple(wrong[1:]))


def _fits(seconds: float, least_s: float) -> bool:
    return least_s <= seconds <= _MOST_SECONDS and seconds > 0


def _wrong_of(pre: Pre) -> list[str]:
    wrong = []
    if not _are_finite(pre.mean):
        wrong.append(f"--mean: want numbers, got {_listed(pre.mean)}")
    if not _are_finite(pre.std) or 0 in pre.std:
        wrong.append(
            f"--std: want numbers other than 0, since pixels are divided by them, got {_listed(pre.std)}"
        )
    if not 0 < pre.crop_ratio <= 1:
        wrong.append(f"--crop: want a share of the picture above 0 and at most 1, got {pre.crop_ratio:g}")
    return wrong


def _are_finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
