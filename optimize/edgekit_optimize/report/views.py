"""What the plot's horizontal axis can show: time, size or memory, for each place of measurement."""

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
"""Places that the plot offers; the table of all times has every one."""


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
        """The view's name in the page; file size is the same everywhere."""
        return self.axis if self.axis == "size" else f"{self.axis}-{self.place}"


def plotted_places(study: Study) -> tuple[Place, ...]:
    """Return the places that the plot offers."""
    return places(study)[:MAX_PLACES]


def views(study: Study) -> tuple[View, ...]:
    """Return every view that has at least one candidate in it."""
    found = []
    for index, where in enumerate(plotted_places(study)):
        title = f"time to fill the input and run the model, ms ({where.words})"
        found.append(View("latency", index, title, _times(study, where), no.milliseconds))
    found.append(View("size", 0, "size of the files, MB", _sizes(study), _megabytes))
    for index, where in enumerate(plotted_places(study)):
        title = f"memory of the process, MB ({where.words})"
        found.append(View("memory", index, title, _memory(study, where), no.megabytes))
    return tuple(view for view in found if view.values)


def _megabytes(value: float) -> str:
    return no.size(value * 1e6)


def _times(study: Study, where: Place) -> dict[int, float]:
    timed = {i: timing_at(one, where) for i, one in enumerate(study.candidates) if one.score is not None}
    return {i: timing.total_ms for i, timing in timed.items() if timing is not None}


def _sizes(study: Study) -> dict[int, float]:
    return {
        i: one.bytes / 1e6 for i, one in enumerate(study.candidates) if one.score is not None and one.bytes
    }


def _memory(study: Study, where: Place) -> dict[int, float]:
    timed = {i: timing_at(one, where) for i, one in enumerate(study.candidates) if one.score is not None}
    return {i: timing.rss_mb for i, timing in timed.items() if timing is not None and timing.rss_mb > 0}
