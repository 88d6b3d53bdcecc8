"""What models are for: one row for each task.

Whoever only passes a manifest on (the fleet) does not look its task up; whoever runs the model does.

>>> task_named("face").decoders
('blazeface',)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from edgekit.core.errors import BundleError


class Task(msgspec.Struct, frozen=True):
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
_MAP = ("cosine",)
_ALARM = ("alarm", "rank", "cosine")

_RAW = ("top1", "top5", "cosine", "agreement")
_ROWS = (
    Task("classify", ("classify",), _CLASSIFY, _LABELLED, "changed"),
    Task("sensor", ("sensor", "classify"), _CLASSIFY, _LABELLED, "changed"),
    Task(
        "detect",
        ("yolo", "detections", "detr", "ssd", "yolo-grid", "bins", "efficientdet", "centre", "fomo"),
        _DETECT,
        (*_LABELLED, "boxes", "points"),
        "appeared",
    ),
    Task("oriented", ("yolo", "detections"), _DETECT, (*_LABELLED, "boxes"), "appeared"),
    Task(
        "pose",
        ("yolo", "detections", "blazeface", "movenet", "posenet", "landmarks"),
        _DETECT,
        (*_LABELLED, "boxes", "points"),
        "appeared",
    ),
    Task("instances", ("yolo", "detections", "detr"), _DETECT, (*_LABELLED, "boxes", "masks"), "appeared"),
    Task("face", ("blazeface",), _DETECT, (*_LABELLED, "boxes", "points"), "appeared"),
    Task("anomaly", ("anomaly", "outlier"), _ALARM, (*_LABELLED, "values"), "started"),
    Task("audio", ("classify",), _CLASSIFY, _LABELLED, "appeared"),
    Task("voice", ("vad",), _ALARM, (*_LABELLED, "values"), "started"),
    Task("defect", ("heatmap",), _MAP, (*_LABELLED, "values", "boxes", "masks", "tensors"), "started"),
    Task("segment", ("segment", "matte"), _MAP, (*_LABELLED, "values", "boxes", "masks"), "appeared"),
    Task("depth", ("depth",), _MAP, ("counts", "labels", "values", "tensors")),
    Task("embed", ("embed",), _MAP, (*_LABELLED, "vectors"), "changed"),
    Task("text", ("ctc", "textmap"), _MAP, ("counts", "scores", "boxes", "text")),
    Task("tabular", ("classify",), _CLASSIFY, _LABELLED, "changed"),
    Task("regress", ("regress",), _MAP, ("counts", "labels", "values")),
    Task("raw", ("raw",), _RAW, ("tensors",)),
)
TASKS: Mapping[str, Task] = MappingProxyType({row.name: row for row in _ROWS})


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
