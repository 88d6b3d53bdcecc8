"""Merge metric reports of one pipeline into one that covers both periods: less detail, nothing lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec

from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import Histogram, Sketch
from edgekit.core.wire import MetricReport

MAX_PERIOD_S = 3600.0


def merge(earlier: MetricReport, later: MetricReport) -> MetricReport:
    """Return one report over both periods: counts added, histograms merged, the later's times.

    Sensors are averages over a period, so they are weighted by it.
    """
    return msgspec.structs.replace(
        later,
        period_s=earlier.period_s + later.period_s,
        frames=earlier.frames + later.frames,
        dropped=earlier.dropped + later.dropped,
        errors=earlier.errors + later.errors,
        events=earlier.events + later.events,
        failovers=earlier.failovers + later.failovers,
        total=earlier.total + later.total,
        infer_ms=_merge_sketches(earlier.infer_ms, later.infer_ms),
        latency_ms=_merge_sketches(earlier.latency_ms, later.latency_ms),
        labels={
            label: earlier.labels.get(label, 0) + later.labels.get(label, 0)
            for label in {**earlier.labels, **later.labels}
        },
        sensors=_merge_sensors(earlier, later),
    )


def pairs(reports: Iterable[tuple[int, MetricReport]]) -> list[tuple[int, int, MetricReport]]:
    """Pair each report with the next of its pipeline, model and variant, and merge each pair.

    Args:
        reports: (sequence number, report), oldest first.

    Returns:
        (number to give up, number to keep, the merged report); no merged period is above an hour.
    """
    waiting: dict[tuple[str, str, str, str], tuple[int, MetricReport]] = {}
    found = []
    for seq, report in reports:
        key = (report.pipeline, report.model, report.version, report.variant)
        before = waiting.pop(key, None)
        if before is None or before[1].period_s + report.period_s > MAX_PERIOD_S:
            waiting[key] = (seq, report)
            continue
        with contextlib.suppress(ProtocolError):  # a histogram out of range stays as it is
            found.append((before[0], seq, merge(before[1], report)))
    return found


def _merge_sketches(one: Sketch | None, other: Sketch | None) -> Sketch | None:
    if one is None or other is None:
        return one or other
    merged = Histogram.from_wire(one)
    merged.merge(Histogram.from_wire(other))
    return merged.to_wire()


def _merge_sensors(earlier: MetricReport, later: MetricReport) -> dict[str, float]:
    merged = {**earlier.sensors, **later.sensors}
    span_s = earlier.period_s + later.period_s
    for name in earlier.sensors.keys() & later.sensors.keys():
        if span_s > 0:
            weighted = earlier.sensors[name] * earlier.period_s + later.sensors[name] * later.period_s
            merged[name] = weighted / span_s
    return merged
