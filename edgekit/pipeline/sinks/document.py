"""A result or event as a document of plain data, without pixels.

The whole of it is for files on the device; what sends a document away hands it to its gate, which leaves
in what ``[privacy] egress`` names (``edgekit.core.egress``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.core.ports import Result
    from edgekit.core.spec import Item
    from edgekit.pipeline.events import Event


def result_document(result: Result) -> dict[str, Any]:
    """Return a frame's result with its items and events."""
    prediction = result.prediction
    document: dict[str, Any] = {
        **_head(result),
        "seq": result.frame.seq,
        "captured_unix_ms": result.frame.captured_unix_ms,
        "task": prediction.task,
        "stage_ms": {stage: round(ms, 3) for stage, ms in result.stage_ms.items()},
        "total": len(prediction.items),
        "counts": prediction.counts(),
        "items": [_item(item) for item in prediction.items],
    }
    if result.events:
        document["events"] = event_documents(result)
    return document


def event_documents(result: Result) -> list[dict[str, Any]]:
    """Return the frame's events; none for most frames."""
    return [{**_head(result), **_event(event)} for event in result.events]


def _head(result: Result) -> dict[str, Any]:
    return {"pipeline": result.pipeline, "model": result.model, "version": result.version}


def _item(item: Item) -> dict[str, Any]:
    document: dict[str, Any] = {"label": item.label, "score": round(item.score, 4)}
    if item.box is not None:
        document["box"] = [round(edge, 1) for edge in item.box]
    if item.points:
        document["points"] = [[round(x, 1), round(y, 1)] for x, y in item.points]
    if item.value is not None:
        document["value"] = item.value
    return document


def _event(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = {
        "kind": event.kind,
        "label": event.label,
        "seq": event.seq,
        "captured_unix_ms": event.captured_unix_ms,
        "count": event.count,
        "total": event.total,
        "score": round(event.score, 4),
    }
    if event.previous:
        document["previous"] = event.previous
    if event.box is not None:
        document["box"] = [round(edge, 1) for edge in event.box]
    if event.value is not None:
        document["value"] = event.value
    return document
