"""What models are for: one row for each task, which everything that depends on a task reads.

A manifest names a row. Whoever only passes a manifest or message on (the fleet, the registry) does not
look it up, so a row that this version lacks travels through; whoever runs the model asks ``task_named``.

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

    ``decoders``: those of edgekit that serve it; a bundle may name any other. ``metrics``: how
    ``edgekit optimize`` may score it, the default first, then the default where data have no labels.
    ``egress``: the classes of data that its items have. ``events``: what its items turn into:
    *appeared* (a label is there or gone), *started* (the same, where class 0 means that nothing is
    there), *changed* (the label of the whole frame is another), or nothing.
    """

    name: str
    decoders: tuple[str, ...]
    metrics: tuple[str, ...]
    egress: tuple[str, ...]
    events: Literal["appeared", "started", "changed", ""] = ""


_LABELLED = ("counts", "labels", "scores")

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        row.name: row
        for row in (
            Task(
                name="classify",
                decoders=("classify",),
                metrics=("top1", "top5", "agreement", "cosine"),
                egress=_LABELLED,
                events="changed",
            ),
            Task(
                name="sensor",
                decoders=("sensor", "classify"),
                metrics=("top1", "top5", "agreement", "cosine"),
                egress=_LABELLED,
                events="changed",
            ),
            Task(
                name="detect",
                decoders=("ssd",),
                metrics=("map50", "iou", "cosine"),
                egress=(*_LABELLED, "boxes"),
                events="appeared",
            ),
            Task(
                name="face",
                decoders=("blazeface",),
                metrics=("map50", "iou", "cosine"),
                egress=(*_LABELLED, "boxes", "points"),
                events="appeared",
            ),
            Task(
                name="anomaly",
                decoders=("anomaly",),
                metrics=("alarm", "rank", "cosine"),
                egress=(*_LABELLED, "values"),
                events="started",
            ),
            Task(
                name="voice",
                decoders=("vad",),
                metrics=("alarm", "rank", "cosine"),
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
    """Return the row of a task.

    Args:
        name: What a manifest's ``task`` says.
        what: Names the model in the error.

    Raises:
        BundleError: This version of edgekit has no such row.
    """
    if (row := TASKS.get(name)) is None:
        raise BundleError(
            f"{what}: task: want one of {', '.join(sorted(TASKS))}, got {name!r}",
            hint="this model may need a newer edgekit",
        )
    return row
