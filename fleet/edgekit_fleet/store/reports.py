"""Metric reports of one version of a model on one device, as guards of a rollout compare them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from edgekit.core.sketch import Sketch
from edgekit_fleet.store.database import Sql


@dataclass(frozen=True)
class ReportRow:
    """One metric report: frames in a period, failed frames, and the inference times if there are any."""

    number: int
    frames: int
    period_s: float
    errors: int
    infer_ms: Sketch | None


def between(
    sql: Sql, device: str, model: str, version: str, *, since_ms: int, until_ms: int, limit: int
) -> list[ReportRow]:
    """Return the newest reports from a span of time, both ends included, the newest first."""
    rows = sql.execute(
        "SELECT rowid, frames, period_s, errors, infer_ms FROM metric"
        " WHERE model = ? AND version = ? AND device = ? AND at_ms BETWEEN ? AND ?"
        " ORDER BY at_ms DESC LIMIT ?",
        (model, version, device, since_ms, until_ms, limit),
    )
    return [_report(*row) for row in rows]


def after(
    sql: Sql, device: str, model: str, version: str, *, since_ms: int, number: int
) -> Iterator[ReportRow]:
    """Yield the reports since a time whose number is above ``number``, in the order of arrival."""
    rows = sql.execute(
        "SELECT rowid, frames, period_s, errors, infer_ms FROM metric"
        " WHERE model = ? AND version = ? AND device = ? AND at_ms >= ? AND rowid > ? ORDER BY rowid",
        (model, version, device, since_ms, number),
    )
    for row in rows:
        yield _report(*row)


def _report(number: int, frames: int, period_s: float, errors: int, infer_ms: str | None) -> ReportRow:
    sketch = None if infer_ms is None else msgspec.json.decode(infer_ms, type=Sketch)
    return ReportRow(number, frames, period_s, errors, sketch)
