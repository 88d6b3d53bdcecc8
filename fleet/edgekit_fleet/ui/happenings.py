"""Events as one line of text each, for operators."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit_fleet.store.metrics import Event

_GOOD = {"COMMITTED"}
_BAD = {"ROLLED_BACK", "REJECTED"}
_BASE64 = re.compile(r"/9j/[A-Za-z0-9+/]+={0,2}")
_MAX_IMAGE_CHARS = 200_000


@dataclass(frozen=True)
class Happening:
    """One line: time, device, text, and a level (``info``, ``good``, ``warning``, ``error``)."""

    id: int
    device: str
    at_ms: int
    kind: str
    level: str
    title: str
    detail: str
    image: str = ""
    """A JPEG in base64, redacted by the device."""


def happening(event: Event) -> Happening:
    """Return how an event is shown."""
    level, title, detail = (
        _WORDS[event.kind](event.body) if event.kind in _WORDS else ("info", event.kind, "")
    )
    image = event.body.get("image") or ""
    is_jpeg = len(image) <= _MAX_IMAGE_CHARS and _BASE64.fullmatch(image) is not None
    return Happening(
        event.id, event.device, event.at_ms, event.kind, level, title, detail, image if is_jpeg else ""
    )


def _event(body: Mapping[str, Any]) -> tuple[str, str, str]:
    count = f" \u00d7{body['count']}" if body.get("count", 0) > 1 else ""
    facts = [str(body.get("kind", "")), str(body.get("pipeline", ""))]
    if body.get("value") is not None:
        facts.append(f"value {body['value']:.3g}")
    score = (f"score {body['score']:.2f}",) if body.get("score") else ()
    trace = (f"trace {body['trace_id']}",) if body.get("trace_id") else ()
    return "info", f"{body.get('label', '')}{count}", _joined(*score, *facts, *trace)


def _update(body: Mapping[str, Any]) -> tuple[str, str, str]:
    name = str(body.get("event", ""))
    level = "good" if name in _GOOD else "error" if name in _BAD else "info"
    words = name.replace("_", " ").lower()
    measured = ", ".join(f"{key} {value:.4g}" for key, value in body.get("measured", {}).items())
    title = f"{body.get('model', '')} {body.get('version', '')}: {words}"
    return level, title, _joined(str(body.get("reason", "")), measured)


def _alert(body: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(body.get("level", "info")), str(body.get("message", "")), str(body.get("code", ""))


def _answer(body: Mapping[str, Any]) -> tuple[str, str, str]:
    is_ok = bool(body.get("ok"))
    return (
        "good" if is_ok else "error",
        f"command {'done' if is_ok else 'failed'}",
        str(body.get("message", "")),
    )


def _measurement(body: Mapping[str, Any]) -> tuple[str, str, str]:
    ran = [variant for variant in body.get("variants", ()) if variant.get("p50_ms") is not None]
    what = f"{body.get('model', '')} {body.get('version', '')}".strip() or str(body.get("job", ""))
    figures = ", ".join(f"{variant.get('id', '')} {variant['p50_ms']:.3g} ms" for variant in ran[:6])
    state = str(body.get("state", "done"))
    level = "error" if state == "failed" else "info"
    title = f"{what}: measured" if state == "done" else f"{what}: measuring {state}"
    return level, title, _joined(str(body.get("reason", "")), figures)


def _gap(body: Mapping[str, Any]) -> tuple[str, str, str]:
    lost = body.get("last", 0) - body.get("first", 0) + 1
    reason = str(body.get("reason", ""))
    return "warning", f"{lost} messages lost", "quota: the outbox was full" if reason == "quota" else reason


_WORDS = {
    "event": _event,
    "update": _update,
    "alert": _alert,
    "answer": _answer,
    "measurement": _measurement,
    "gap": _gap,
}


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
