"""A server's counters. Labels are a model, its version, a stage and a status: few, and bounded."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from edgekit.base.exposition import Buckets

STAGES = ("queue", "pre", "infer", "post", "total")


class Meter:
    """One model's answers by status, and their durations by stage.

    Stages: ``queue`` is the wait for the model, ``pre`` makes tensors of the request, ``infer`` is the model,
    ``post`` makes the answer, ``total`` begins with the request's head. ``hits`` are requests that a kept
    answer answered, ``misses`` those that looked for one in vain, ``hit_s`` and ``miss_s`` what that took;
    ``stale_hits`` those whose answer was stale, ``failed_refreshes`` how often none was made in its place.
    """

    def __init__(self) -> None:
        self.answers: dict[int, int] = {}
        self.stages = {stage: Buckets() for stage in STAGES}
        self.failed_s = 0.0
        self.hits = self.misses = self.stale_hits = self.failed_refreshes = 0
        self.hit_s = self.miss_s = 0.0
        self.last_unix_ms = 0

    def ran(self, pre_s: float, infer_s: float, post_s: float) -> None:
        """Count one inference."""
        self.stages["pre"].add(pre_s)
        self.stages["infer"].add(infer_s)
        self.stages["post"].add(post_s)

    def answered(self, status: int, total_s: float) -> None:
        """Count one answer."""
        self.answers[status] = self.answers.get(status, 0) + 1
        self.stages["total"].add(total_s)
        if status == 200:
            self.last_unix_ms = int(time.time() * 1e3)
        else:
            self.failed_s += total_s


@dataclass
class ShadowCounts:
    """What came of the requests that a version in the shadow was asked too."""

    version: str
    pairs: int = 0
    disagreed: int = 0
    failed: int = 0
    skipped: int = 0
    difference: float = 0.0
    """The mean relative difference of the answers' numbers; of pairs that have some."""
    _measured: int = 0

    def add(self, difference: float, *, disagrees: bool) -> None:
        """Count a pair of answers; ``difference`` is NaN for one without numbers."""
        self.pairs += 1
        self.disagreed += disagrees
        if not math.isnan(difference):
            self._measured += 1
            self.difference += (difference - self.difference) / self._measured

    def status(self) -> dict[str, Any]:
        """Return its part of ``/status``."""
        names = ("version", "pairs", "disagreed", "failed", "skipped")
        return {name: getattr(self, name) for name in names} | {"difference": round(self.difference, 6)}
