"""What models are for: one row for each task.

A manifest names a row. Whoever only passes a manifest on (the fleet, the registry) does not look it up, so
unknown tasks travel through; whoever runs the model calls ``task_named``.

>>> task_named("face").decoders
('blazeface',)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from edgekit.core.errors import BundleError


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    ``decoders``: edgekit's own; a bundle may name another. ``metrics``: how ``edgekit optimize`` scores it:
    the default first, then the default for data without labels. ``egress``: the data classes of its items.
    ``events``: what its items become: *appeared* (a label comes or goes), *started* (the same, where class 0
    means nothing), *changed* (the label of the whole frame differs), or nothing.
    """

    name: str
    decoders: tuple[str, ...]
    metrics: tuple[str, ...]
    egress: tuple[str, ...]
    events: Literal["appeared", "started", "changed", ""] = ""


_LABELLED = ("counts", "labels", "scores")
_CLASSIFY = ("top1", "top5", "agreement", "cosine")
_DETECT = ("map50", "iou", "cosine")
_ALARM = ("alarm", "rank", "cosine")

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        row.name: row
        for row in (
            Task(
                name="classify",
                decoders=("classify",),
                metrics=_CLASSIFY,
                egress=_LABELLED,
                events="changed",
            ),
            Task(
                name="sensor",
                decoders=("sensor", "classify"),
                metrics=_CLASSIFY,
                egress=_LABELLED,
                events="changed",
            ),
            Task(
                name="detect",
                decoders=("ssd",),
                metrics=_DETECT,
                egress=(*_LABELLED, "boxes"),
                events="appeared",
            ),
            Task(
                name="face",
                decoders=("blazeface",),
                metrics=_DETECT,
                egress=(*_LABELLED, "boxes", "points"),
                events="appeared",
            ),
            Task(
                name="anomaly",
                decoders=("anomaly",),
                metrics=_ALARM,
                egress=(*_LABELLED, "values"),
                events="started",
            ),
            Task(
                name="voice",
                decoders=("vad",),
                metrics=_ALARM,
                egress=(*_LABELLED, "values"),
                events="started",
            ),
            Task(
                name="raw",
                decoders=("raw",),
                metrics=("top1", "top5", "cosine", "agreement"),
                egress=("tensors",),
            ),
        )
    }
)


def task_named(name: str, what: str = "bundle.json") -> Task:
    """Return the row of a task; ``what`` names the model in errors.

    Raises:
        BundleError: This version of edgekit has no such row.
    """
    if (row := TASKS.get(name)) is None:
        raise BundleError(
            f"{what}: task: want one of {', '.join(sorted(TASKS))}, got {name!r}",
            hint="this model may need a newer edgekit",
        )
    return row
