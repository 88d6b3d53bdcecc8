"""What variants cost, for each kind of board, merged over its devices.

A device counts once in each figure, with its newest measurement. Figures are medians over devices, so
that a single device that runs hot, or sends wrong numbers, decides nothing where there are others.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekit.core import wire
from edgekit_fleet.store import costs as rows
from edgekit_fleet.store.database import Database, Sql

_CONTENT = re.compile(r"[0-9a-f]{64}")
_MAX_FIGURE = 1e9
_MAX_THREADS = 1 << 16


@dataclass(frozen=True)
class BoardCost:
    """What one content costs on one kind of board; milliseconds and MB, medians over ``devices``.

    ``names`` lists the variants of models that the content is known as, the newest first.
    """

    number: int
    content: str
    profile: str
    board: str
    backend: str
    accelerator: str
    precision: str
    backend_version: str
    threads: int
    devices: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    load_ms: float
    first_ms: float
    rss_mb: float
    measured_unix_ms: int
    names: list[dict[str, str]]


class Costs:
    """The costs of one database."""

    def __init__(self, database: Database) -> None:
        self._rows = rows.Costs(database)

    def page(
        self,
        *,
        model: str = "",
        version: str = "",
        profile: str = "",
        contents: Sequence[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> list[BoardCost]:
        """Return costs, those that became known last first; for the arguments see ``store.costs``."""
        groups = self._rows.page(
            model=model, version=version, profile=profile, contents=contents, before=before, limit=limit
        )
        return [_merged(row) for row in groups]


def keep(sql: Sql, device: str, record: wire.MeasurementRecord, at_ms: int) -> int:
    """Store a device's measurement in an open transaction; return how many variants got a cost.

    A variant that did not run, or whose answers differed from the golden samples', has no cost.
    """
    board = record.board
    if record.state != "done" or board is None:
        return 0
    kept = 0
    for variant in record.variants[: wire.MAX_MEASURED_VARIANTS]:
        if _is_cost(variant) and 0 < record.threads < _MAX_THREADS:
            figures = {name: float(getattr(variant, name) or 0.0) for name in rows.FIGURES}
            rows.add_sample(sql, _group(variant, board, record.threads), device, figures, at_ms)
            rows.add_name(sql, variant.content, record.model[:64], record.version[:32], variant.id[:64])
            kept += 1
    if kept:
        rows.trim(sql, device)
    return kept


def _merged(row: rows.CostRow) -> BoardCost:
    medians: dict[str, Any] = {
        name: statistics.median(sample[name] for sample in row.samples) for name in rows.FIGURES
    }
    return BoardCost(
        number=row.number,
        **asdict(row.group),
        **medians,
        devices=len(row.samples),
        measured_unix_ms=row.measured_ms,
        names=row.names,
    )


def _is_cost(variant: wire.MeasuredVariant) -> bool:
    figures = [getattr(variant, name) for name in rows.FIGURES]
    has_times = None not in (variant.p50_ms, variant.p95_ms, variant.p99_ms)
    is_sound = all(figure is None or _is_figure(figure) for figure in figures)
    is_right = variant.error is None and variant.golden_ok is not False
    return has_times and is_sound and is_right and _CONTENT.fullmatch(variant.content) is not None


def _is_figure(value: float) -> bool:
    return not math.isnan(value) and 0 <= value < _MAX_FIGURE


def _group(variant: wire.MeasuredVariant, board: wire.Board, threads: int) -> rows.Group:
    return rows.Group(
        content=variant.content,
        profile=board.profile[:64],
        board=board.board[:200],
        backend=variant.backend[:64],
        accelerator=variant.accelerator[:64],
        precision=variant.precision[:64],
        backend_version=variant.backend_version[:64],
        threads=threads,
    )
