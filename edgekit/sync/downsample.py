"""Merge metric reports of one pipeline into one over both periods: less detail, nothing lost."""

import contextlib
from collections.abc import Iterable

import msgspec

from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import Histogram, Sketch
from edgekit.core.wire import MetricReport

MAX_PERIOD_S = 3600.0
_ADDED = ("period_s", "frames", "dropped", "errors", "events", "failovers", "total")


def merge(earlier: MetricReport, later: MetricReport) -> MetricReport:
    """Return one report over both periods, with the later's times: counts added, histograms merged.

    Sensors are averages, weighted by period.
    """
    return msgspec.structs.replace(
        later,
        **{name: getattr(earlier, name) + getattr(later, name) for name in _ADDED},
        infer_ms=_merge_sketches(earlier.infer_ms, later.infer_ms),
        latency_ms=_merge_sketches(earlier.latency_ms, later.latency_ms),
        labels={
            label: earlier.labels.get(label, 0) + later.labels.get(label, 0)
            for label in {**earlier.labels, **later.labels}
        },
        sensors=_merge_sensors(earlier, later),
    )


def pairs(reports: Iterable[tuple[int, MetricReport]]) -> list[tuple[int, int, MetricReport]]:
    """Merge each report with the next of its pipeline, model and variant.

    Args:
        reports: (sequence number, report), oldest first.

    Returns:
        (number to drop, number to keep, merged report); no merged period is above an hour.
    """
    waiting: dict[tuple[str, str, str, str], tuple[int, MetricReport]] = {}
    merged = []
    for seq, report in reports:
        key = (report.pipeline, report.model, report.version, report.variant)
        earlier = waiting.pop(key, None)
        if earlier is None or earlier[1].period_s + report.period_s > MAX_PERIOD_S:
            waiting[key] = (seq, report)
            continue
        with contextlib.suppress(ProtocolError):  # a histogram out of range stays as it is
            merged.append((earlier[0], seq, merge(earlier[1], report)))
    return merged


def _merge_sketches(earlier: Sketch | None, later: Sketch | None) -> Sketch | None:
    if earlier is None or later is None:
        return earlier or later
    merged = Histogram.from_wire(earlier)
    merged.merge(Histogram.from_wire(later))
    return merged.to_wire()


def _merge_sensors(earlier: MetricReport, later: MetricReport) -> dict[str, float]:
    merged = {**earlier.sensors, **later.sensors}
    span_s = earlier.period_s + later.period_s
    for name in earlier.sensors.keys() & later.sensors.keys():
        if span_s > 0:
            weighted = earlier.sensors[name] * earlier.period_s + later.sensors[name] * later.period_s
            merged[name] = weighted / span_s
    return merged
