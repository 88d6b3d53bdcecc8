"""What can leave a device: one table of data classes, the fields of each, and who may receive it.

``[privacy] egress``, the gate, the documents of sinks, the ledger and docs/pipelines.md use ``CLASSES``.
A field that no class covers never leaves.

>>> seen = {"kind": "appeared", "label": "person", "count": 2, "total": 3, "score": 0.9}
>>> permitted(seen, frozenset({"counts"}))
{'kind': 'appeared', 'total': 3}
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

Receiver: TypeAlias = Literal["fleet", "broker"]
"""``fleet``: the agent's own link. ``broker``: a server that a sink names."""


class DataClass(msgspec.Struct, frozen=True):
    """One class of data; ``is_free``: it leaves without being named in ``[privacy] egress``."""

    covers: str
    fields: tuple[str, ...]
    receivers: tuple[Receiver, ...] = ("fleet", "broker")
    is_free: bool = False


ENVELOPE = "envelope"
HEALTH = "health"
CLASSES: dict[str, DataClass] = {
    "counts": DataClass("how many items, in all; never by label", ("total",)),
    "labels": DataClass(
        "labels, counts by label, an event's label",
        ("label", "index", "previous", "count", "counts", "labels"),
    ),
    "scores": DataClass("confidences", ("score",)),
    "values": DataClass("a regression's or an anomaly's number", ("value",)),
    "boxes": DataClass("boxes, upright and oriented", ("box", "oriented_box")),
    "points": DataClass("keypoints, with their names and scores", ("points", "point_names", "point_scores")),
    "masks": DataClass("segmentation", ("mask",)),
    "tracks": DataClass(
        "track ids, parents, zones, lines, directions, dwell times, speeds",
        ("track", "tracks", "parent", "zone", "line", "direction", "dwell_s", "speed_m_s"),
    ),
    "text": DataClass("recognised text", ("text",)),
    "vectors": DataClass("embeddings", ("vector",)),
    "tensors": DataClass("raw outputs", ("raw", "tensors")),
    "crops": DataClass("pieces of a picture", ("crop",)),
    "pixels": DataClass("pictures and clips", ("image",)),
    "audio": DataClass("sound", ("audio",)),
    HEALTH: DataClass("what the device says of itself", (), ("fleet",), is_free=True),
    ENVELOPE: DataClass(
        "an event's id, key and kind, its times, pipeline, stage, model and version, trace id",
        (
            *(
                "id",
                "key",
                "kind",
                "seq",
                "mono_ns",
                "unix_ms",
                "captured_ns",
                "captured_unix_ms",
                "stage_ms",
            ),
            *("start_seq", "start_ns", "start_mono_ns", "start_unix_ms", "media_s"),
            *("end_ns", "end_mono_ns", "end_unix_ms", "pipeline", "stage", "task", "trace", "trace_id"),
            *("model", "version", "versions", "models", "variant"),
        ),
        is_free=True,
    ),
}
NAMES: tuple[str, ...] = tuple(name for name, row in CLASSES.items() if not row.is_free)
"""What ``[privacy] egress`` can name."""
PLACES = frozenset({"boxes", "points", "masks"})
"""Classes that give a position in a picture."""
LISTS = ("items", "events")
"""Fields that hold nested documents, which are filtered field by field."""
UNKNOWN = "unknown"
"""The ledger's name for a field without a class, which never leaves."""

_CLASS_OF = {field: name for name, row in CLASSES.items() for field in row.fields}


def class_of(field: str) -> str:
    """Return the class that covers a field, or ``UNKNOWN``."""
    return _CLASS_OF.get(field, UNKNOWN)


def passing(egress: Collection[str], receiver: Receiver) -> frozenset[str]:
    """Return the classes that may go to a receiver, where ``[privacy] egress`` names ``egress``."""
    return frozenset(
        name for name, row in CLASSES.items() if receiver in row.receivers and (row.is_free or name in egress)
    )


def permitted(document: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Return the fields of a document that may leave: those of ``allowed`` classes, and the envelope."""
    kept: dict[str, Any] = {}
    for field, value in document.items():
        if field in LISTS:
            parts = [permitted(part, allowed) for part in value]
            if any(parts):
                kept[field] = [part for part in parts if part]
        elif class_of(field) in (ENVELOPE, *allowed):
            kept[field] = value
    return kept


def sizes(document: Mapping[str, Any], size: Callable[[str, Any], int]) -> Counter[str]:
    """Return the bytes that each class takes in a document; ``size`` is of one field and its value."""
    by_class: Counter[str] = Counter()
    for field, value in document.items():
        if field in LISTS:
            for part in value:
                by_class += sizes(part, size)
        elif class_of(field) != ENVELOPE:
            by_class[class_of(field)] += size(field, value)
    return by_class
