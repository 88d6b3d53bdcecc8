"""A result or event as a document that holds only what may be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.core.ports import Result
    from edgekit.core.spec import Item
    from edgekit.pipeline.events import Event

EVERYTHING = frozenset({"counts", "labels", "scores", "boxes", "points", "values"})
"""For files that stay on the device."""


def result_document(result: Result, allowed: frozenset[str]) -> dict[str, Any]:
    """Return a frame's result; what ``allowed`` does not name is left out, pixels always are.

    What was found, and each event, has a label, so it is told only under "labels" or "counts".
    """
    document: dict[str, Any] = {
        **_head(result),
        "seq": result.frame.seq,
        "captured_unix_ms": result.frame.captured_unix_ms,
        "task": result.prediction.task,
        "stage_ms": {stage: round(ms, 3) for stage, ms in result.stage_ms.items()},
    }
    if "counts" in allowed:
        document["counts"] = result.prediction.counts()
    if "labels" in allowed:
        document["items"] = [_item(item, allowed) for item in result.prediction.items]
    if events := event_documents(result, allowed):
        document["events"] = events
    return document


def event_documents(result: Result, allowed: frozenset[str]) -> list[dict[str, Any]]:
    """Return the frame's events in the same way; none without "labels" or "counts"."""
    if allowed.isdisjoint(("labels", "counts")):
        return []
    return [{**_head(result), **_event(event, allowed)} for event in result.events]


def _head(result: Result) -> dict[str, Any]:
    return {"pipeline": result.pipeline, "model": result.model, "version": result.version}


def _item(item: Item, allowed: frozenset[str]) -> dict[str, Any]:
    document: dict[str, Any] = {"label": item.label}
    if "scores" in allowed:
        document["score"] = round(item.score, 4)
    if "boxes" in allowed and item.box is not None:
        document["box"] = [round(edge, 1) for edge in item.box]
    if "points" in allowed and item.points:
        document["points"] = [[round(x, 1), round(y, 1)] for x, y in item.points]
    if "values" in allowed and item.value is not None:
        document["value"] = item.value
    return document


def _event(event: Event, allowed: frozenset[str]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "kind": event.kind,
        "label": event.label,
        "seq": event.seq,
        "captured_unix_ms": event.captured_unix_ms,
    }
    if event.previous:
        document["previous"] = event.previous
    if "counts" in allowed:
        document["count"] = event.count
    if "scores" in allowed:
        document["score"] = round(event.score, 4)
    if "boxes" in allowed and event.box is not None:
        document["box"] = [round(edge, 1) for edge in event.box]
    if "values" in allowed and event.value is not None:
        document["value"] = event.value
    return document
