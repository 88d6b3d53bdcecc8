"""What a device may claim: figures that no device can have are refused, with the reason.

One report is one device's word, and it becomes a part of the fleet's frames a second, percentiles and
gaps. A figure within these bounds can still be wrong, but it cannot drown those of all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import Sketch

MIN_PERIOD_S = 0.001
MAX_PERIOD_S = 31 * 86_400.0
"""An outbox merges reports of up to a month."""
MAX_RATE = 100_000
"""Of anything, a second; the fastest models take tens of microseconds."""
_SPARE = 1000
MAX_MS = 1e9
MAX_GAP = 1 << 32
"""Messages that one gap may replace: over a thousand a second for a month."""
MAX_NUMBER = 1 << 44
"""Of a message: five hundred years of a thousand a second."""


def check(record: wire.Record, seq: int) -> None:
    """Check what a durable message with the number ``seq`` claims.

    Raises:
        ProtocolError: A figure is out of its bounds; says which, and what is allowed.
    """
    if isinstance(record, wire.MetricReport):
        _check_report(record)
    elif isinstance(record, wire.Gap):
        if not 1 <= record.first <= record.last <= seq:
            raise ProtocolError(
                f"gap {record.first} to {record.last} in message {seq}: want 1 <= first <= last <= {seq}"
            )
        if record.last - record.first >= MAX_GAP:
            raise ProtocolError(f"gap {record.first} to {record.last}: at most {MAX_GAP} messages")


def _check_report(report: wire.MetricReport) -> None:
    if not MIN_PERIOD_S <= report.period_s <= MAX_PERIOD_S and (report.period_s or report.frames):
        raise ProtocolError(f"metric: period_s {report.period_s:g}, want {MIN_PERIOD_S} to {MAX_PERIOD_S:g}")
    limit = int(MAX_RATE * report.period_s) + _SPARE
    for name, count in _counts(report):
        if not 0 <= count <= limit:
            raise ProtocolError(f"metric: {name} {count} in {report.period_s:g} s, want 0 to {limit}")
    for name, sketch in (("infer_ms", report.infer_ms), ("latency_ms", report.latency_ms)):
        _check_sketch(name, sketch, limit)
    for stage in report.stages:
        _check_sketch(f"stage {stage.name} infer_ms", stage.infer_ms, limit)
    for name, value in report.sensors.items():
        if not math.isfinite(value):
            raise ProtocolError(f"metric: sensor {name[:64]} is {value}")


def _counts(report: wire.MetricReport) -> Iterator[tuple[str, int]]:
    for name in ("frames", "dropped", "errors", "events", "failovers", "skipped", "total"):
        yield name, getattr(report, name)
    for label, count in report.labels.items():
        yield f"label {label[:64]}", count
    for stage in report.stages:
        for name in ("inferences", "skipped", "errors"):
            yield f"stage {stage.name[:64]} {name}", getattr(stage, name)


def _check_sketch(name: str, sketch: Sketch | None, limit: int) -> None:
    if sketch is None:
        return
    if min(sketch.zero, *sketch.counts, 0) < 0 or sketch.zero + sum(sketch.counts) > limit:
        raise ProtocolError(f"metric: {name} counts {sketch.zero + sum(sketch.counts)}, want 0 to {limit}")
    if sketch.counts and not 0 <= sketch.low <= sketch.high <= MAX_MS:
        raise ProtocolError(f"metric: {name} from {sketch.low:g} to {sketch.high:g} ms, want 0 to {MAX_MS:g}")
