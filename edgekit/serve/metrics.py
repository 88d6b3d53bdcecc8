"""A server's counters, as Prometheus text.

Source: Prometheus text exposition format 0.0.4. Written by hand: the client library costs 72 ms of
import and 9 MB. Labels are a model, its version, a stage and a status: few, and bounded.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGES = ("queue", "pre", "infer", "post", "total")


class Buckets:
    """A histogram of durations in seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterable[str]:
        """Yield the samples of the exposition."""
        total = 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            yield sample(f"{name}_bucket", {**labels, "le": bound}, total)
        yield sample(f"{name}_sum", labels, self.sum_s)
        yield sample(f"{name}_count", labels, total)


class Meter:
    """One model's answers by status, and their durations by stage.

    Stages: ``queue`` is the wait for the model, ``pre`` makes tensors of the request, ``infer`` is the model,
    ``post`` makes the answer, ``total`` begins with the request's head.
    """

    def __init__(self) -> None:
        self.answers: dict[int, int] = {}
        self.stages = {stage: Buckets() for stage in STAGES}
        self.failed_s = 0.0
        self.last_unix_ms = 0

    def answered(self, status: int, total_s: float) -> None:
        """Count one answer."""
        self.answers[status] = self.answers.get(status, 0) + 1
        self.stages["total"].add(total_s)
        if status == 200:
            self.last_unix_ms = int(time.time() * 1e3)
        else:
            self.failed_s += total_s


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    r"""Return one line of the exposition.

    >>> sample("edgekit_up", {"model": 'a"b'}, 1)
    'edgekit_up{model="a\\"b"} 1'
    """
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {value:g}" if pairs else f"{name} {value:g}"


def family(name: str, kind: str, help_text: str, lines: Iterable[str]) -> list[str]:
    """Return a metric family: its help, its type, its samples."""
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
