"""The egress gate: the only way out for data. Deny by default, before the outbox and not after it.

Classes of data are those of ``[privacy] egress``. What describes the device and not what it saw
(health, updates, alerts, answers) is of class "health" and always passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ConfigError
from edgekit.sync.ledger import Ledger

CLASSES = frozenset({"counts", "labels", "scores", "boxes", "points", "values", "pixels"})

# Field of a record -> (class it belongs to, what stands there when that class may not leave).
_EVENT_FIELDS: dict[str, tuple[str, Any]] = {
    "score": ("scores", 0.0),
    "count": ("counts", 0),
    "box": ("boxes", None),
    "value": ("values", None),
    "image": ("pixels", None),
}
_METRIC_FIELDS: dict[str, tuple[str, Any]] = {"labels": ("counts", {})}
R = TypeVar("R", wire.EventRecord, wire.MetricReport)
_FIXED_BYTES = {"score": 8, "count": 8, "box": 32, "value": 8}


class Gate:
    """Lets only allowed classes of data leave one pipeline, and writes down what left.

    Args:
        allowed: Names out of ``CLASSES``.
        ledger: Where decisions are recorded.
        destination: Where passed data goes, as the ledger shows it.

    Raises:
        ConfigError: A name is not a class of data.
    """

    def __init__(self, allowed: frozenset[str], ledger: Ledger, destination: str = "fleet") -> None:
        if unknown := allowed - CLASSES:
            raise ConfigError(
                f"privacy.egress: {', '.join(sorted(unknown))} is not a class of data",
                hint=f"one of: {', '.join(sorted(CLASSES))}",
            )
        self.allowed = allowed
        self._ledger = ledger
        self._destination = destination

    def check(self, record: wire.Record) -> wire.Record | None:
        """Return the record with every field that may not leave taken out; None where nothing is left.

        An event leaves only under "labels" or "counts" (its label says what was counted); ``score``
        needs "scores", ``box`` "boxes", ``value`` "values", ``image`` "pixels", ``count`` "counts". A
        metric report's ``labels`` need "counts".
        """
        if isinstance(record, wire.EventRecord):
            return self._check_event(record)
        if isinstance(record, wire.MetricReport):
            self._write_down(record.pipeline, "health", passed=True, size=len(wire.encode_record(record)))
            return self._strip(record, _METRIC_FIELDS)
        pipeline = record.pipeline if isinstance(record, wire.Alert) else ""
        self._write_down(pipeline, "health", passed=True, size=len(wire.encode_record(record)))
        return record

    def _check_event(self, event: wire.EventRecord) -> wire.EventRecord | None:
        passed = not self.allowed.isdisjoint(("labels", "counts"))
        self._write_down(event.pipeline, "labels", passed=passed, size=len(event.label))
        if not passed:  # a box or picture without a label says more, not less, than the label
            for _, kind, size in _held(event, _EVENT_FIELDS):
                self._write_down(event.pipeline, kind, passed=False, size=size)
            return None
        return self._strip(event, _EVENT_FIELDS)

    def _strip(self, record: R, fields: dict[str, tuple[str, Any]]) -> R:
        taken: dict[str, Any] = {}
        for name, kind, size in _held(record, fields):
            passed = kind in self.allowed
            self._write_down(record.pipeline, kind, passed=passed, size=size)
            if not passed:
                taken[name] = fields[name][1]
        return msgspec.structs.replace(record, **taken) if taken else record

    def _write_down(self, pipeline: str, kind: str, *, passed: bool, size: int) -> None:
        self._ledger.add(pipeline, kind, self._destination, "passed" if passed else "refused", size)


def _held(record: Any, fields: dict[str, tuple[str, Any]]) -> Iterator[tuple[str, str, int]]:
    """Yield (field, class, bytes) of each field that says something."""
    for name, (kind, nothing) in fields.items():
        found = getattr(record, name)
        if found != nothing:
            yield name, kind, len(found) if isinstance(found, (bytes, dict)) else _FIXED_BYTES[name]
