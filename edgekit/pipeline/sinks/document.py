"""A result or event as a document of plain data, without pixels.

Files on the device get all of it; a gate leaves in what ``[privacy] egress`` names
(``edgekit.core.egress``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.core.ports import Result
from edgekit.core.spec import Item
from edgekit.pipeline.events import Event
from edgekit.pipeline.receipt import event_keys, result_key


def result_document(result: Result) -> dict[str, Any]:
    """Return a frame's result with its items and events."""
    prediction = result.prediction
    document: dict[str, Any] = {
        **_head(result),
        "seq": result.frame.seq,
        "captured_unix_ms": result.frame.captured_unix_ms,
        **_origin(result),
        **_keyed(result_key(result.pipeline, result.frame)),
        "task": prediction.task,
        "stage_ms": {stage: round(ms, 3) for stage, ms in result.stage_ms.items()},
        "total": sum(not item.stage for item in prediction.items),
        "counts": prediction.counts(),
        "items": [_item(item) for item in prediction.items],
    }
    if result.events:
        document["events"] = event_documents(result)
    return document


def event_documents(result: Result) -> list[dict[str, Any]]:
    """Return the frame's events; none for most frames."""
    keys = event_keys(result.pipeline, result.frame, result.events)
    return [
        {**_head(result), **_origin(result), **_keyed(key), **_event(event)}
        for key, event in zip(keys, result.events, strict=True)
    ]


def _head(result: Result) -> dict[str, Any]:
    head: dict[str, Any] = {"pipeline": result.pipeline, "model": result.model, "version": result.version}
    if result.versions:
        head["versions"] = result.versions
    return {**head, "trace_id": result.trace_id} if result.trace_id else head


def _keyed(key: str) -> dict[str, str]:
    return {"key": key} if key else {}


def _origin(result: Result) -> dict[str, Any]:
    """Return where the frame is from: the picture's file, the position in a recording."""
    meta = result.frame.meta
    return {name: meta[name] for name in ("file", "media_s") if name in meta}


_DIGITS = {"score": 4, "box": 1, "oriented_box": 3, "points": 1, "point_scores": 4}


def _item(item: Item) -> dict[str, Any]:
    """Return an item's fields, without empty ones."""
    document: dict[str, Any] = msgspec.to_builtins(item)
    for name, value in document.items():
        if name in _DIGITS:
            document[name] = _rounded(value, _DIGITS[name])
    return document


def _rounded(value: Any, digits: int) -> Any:
    if not isinstance(value, (list, tuple)):
        return round(value, digits)
    if value and isinstance(value[0], (list, tuple)):
        return [_rounded(part, digits) for part in value]
    return [round(part, digits) for part in value]  # most are a box: no call for each of its numbers


_EVENT_FIELDS = (
    *("stage", "previous", "start_seq", "start_unix_ms", "end_unix_ms", "tracks"),
    *("zone", "line", "direction", "dwell_s", "speed_m_s"),
)
"""Those that an event has only where they say something."""


def _event(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": event.id,
        "kind": event.kind,
        "label": event.label,
        "seq": event.seq,
        "captured_unix_ms": event.captured_unix_ms,
        "count": event.count,
        "total": event.total,
    }
    for name in _EVENT_FIELDS:
        if (value := getattr(event, name)) not in ("", 0, None, ()):
            document[name] = value
    return document if event.item is None else _item(event.item) | document
