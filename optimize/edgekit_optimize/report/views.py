"""The views of the plot: time, size or memory on the horizontal axis, for each machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgekit_optimize.report import numbers as no
from edgekit_optimize.report.figures import Place, places, timing_at
from edgekit_optimize.study import Study

Axis = Literal["latency", "size", "memory"]
AXES: dict[Axis, str] = {"latency": "Latency", "size": "File size", "memory": "Memory"}
MAX_PLACES = 6
"""Machines that the plot offers; the table of all times has every one."""


@dataclass(frozen=True)
class View:
    """One horizontal axis: ``values`` by the candidate's index, in milliseconds or megabytes."""

    axis: Axis
    place: int
    title: str
    values: dict[int, float]
    words: Callable[[float], str]

    @property
    def key(self) -> str:
        """The view's name in the page; file size does not depend on the machine."""
        return self.axis if self.axis == "size" else f"{self.axis}-{self.place}"


def plotted_places(study: Study) -> tuple[Place, ...]:
    """Return the machines and thread counts that the plot offers."""
    return places(study)[:MAX_PLACES]


def views(study: Study) -> tuple[View, ...]:
    """Return every view that has at least one candidate in it."""
    all_views = []
    for index, where in enumerate(plotted_places(study)):
        title = f"time to fill the input and run the model, ms ({where.words})"
        all_views.append(View("latency", index, title, _times(study, where), no.milliseconds))
    all_views.append(View("size", 0, "size of the files, MB", _sizes(study), _megabytes))
    for index, where in enumerate(plotted_places(study)):
        title = f"memory of the process, MB ({where.words})"
        all_views.append(View("memory", index, title, _memory(study, where), no.megabytes))
    return tuple(view for view in all_views if view.values)


def _megabytes(value: float) -> str:
    return no.size(value * 1e6)


def _times(study: Study, where: Place) -> dict[int, float]:
    timed = {
        i: timing_at(candidate, where)
        for i, candidate in enumerate(study.candidates)
        if candidate.score is not None
    }
    return {i: timing.total_ms for i, timing in timed.items() if timing is not None}


def _sizes(study: Study) -> dict[int, float]:
    return {
        i: candidate.bytes / 1e6
        for i, candidate in enumerate(study.candidates)
        if candidate.score is not None and candidate.bytes
    }


def _memory(study: Study, where: Place) -> dict[int, float]:
    timed = {
        i: timing_at(candidate, where)
        for i, candidate in enumerate(study.candidates)
        if candidate.score is not None
    }
    return {i: timing.rss_mb for i, timing in timed.items() if timing is not None and timing.rss_mb > 0}
