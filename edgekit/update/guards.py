"""Whether a trial goes on, commits or rolls back: pure rules on what was measured.

``judge`` is asked again and again while a trial runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from edgekit.core.sketch import Sketch
from edgekit.core.spec import Guards
from edgekit.core.wire import MetricReport


class TrialStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did: frames tried, frames that failed, crashes of its worker, predictions.

    ``infer_ms`` counts the inference time of each frame that did not fail.
    """

    frames: int = 0
    errors: int = 0
    crashes: int = 0
    predictions: int = 0
    infer_ms: Sketch | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, why, and the numbers for ``UpdateRecord.measured``."""

    action: Literal["continue", "commit", "roll_back"]
    reason: str
    measured: dict[str, float] = {}


def gather(reports: Iterable[MetricReport], crashes: int = 0) -> TrialStats:
    """Add up the metric reports of one version; each label counted is a prediction."""
    raise NotImplementedError


def judge(
    observed: TrialStats, baseline: TrialStats | None, guards: Guards, elapsed_s: float, soak_s: float
) -> Verdict:
    """Judge a trial by its guards.

    Args:
        observed: The version on trial, since the trial began.
        baseline: The version before, on this device, over its recent life; None where there is none.
        guards: The rules.
        elapsed_s: Since the trial began.
        soak_s: How long a trial lasts at least.
    """
    raise NotImplementedError


def tighter(one: Guards, other: Guards | None) -> Guards:
    """Return guards that keep both: of each rule the stricter; 0 is no rule."""
    raise NotImplementedError
