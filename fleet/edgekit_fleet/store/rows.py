"""The rows of durable messages: each record as JSON, and those of a commit inserted by one statement a table.

One statement, because Python's module gives the interpreter up at each, and gets it back behind every thread
that computes: with a statement for each record, acknowledgements waited behind the pages that were rendered.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Literal

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import Sketch, check
from edgekit_fleet.store.arrivals import Arrived

MAX_SEQ = 1 << 62
_SAME_BOOT_MS = 10_000
_LONGEST_WAIT_MS = 90 * 24 * 3600 * 1000
"""A greater age by the wall clock means that the clock was set, not that the record is old."""
Table = Literal["metric", "event"]
_COLUMNS: dict[Table, int] = {"metric": 19, "event": 7}
"""After the row's own number."""


def insert(sql: sqlite3.Connection, table: Table, rows: Sequence[bytes]) -> None:
    """Insert rows that ``row_of`` returned, in this order, with one statement.

    Raises:
        sqlite3.IntegrityError: One of them violates a constraint; none was inserted.
    """
    values = ",".join(f"json_extract(value, '$[{number}]')" for number in range(_COLUMNS[table]))
    query = f"INSERT INTO {table} SELECT NULL, {values} FROM json_each(?)"  # noqa: S608 - fixed texts
    sql.execute(query, (f"[{b','.join(rows).decode()}]",))


def table_of(record: wire.Record) -> Table:
    """Return the table that keeps a record."""
    return "metric" if isinstance(record, wire.MetricReport) else "event"


def row_of(outbox: int, seq: int, batch: Arrived, record: wire.Record) -> bytes:
    """Return a record's row as a JSON list, for ``insert``.

    Raises:
        ProtocolError: A figure cannot be stored.
        ValueError: A text cannot be encoded.
    """
    at_ms = captured_ms(record.unix_ms, record.mono_ns, batch)
    head = (outbox, seq, batch.device, at_ms, batch.arrived_ms)
    if not isinstance(record, wire.MetricReport):
        return msgspec.json.encode((*head, kind_of(record), json_of(record)))
    counts = (record.frames, record.dropped, record.errors, record.events, record.failovers)
    if min(counts) < 0 or max(counts) >= MAX_SEQ or not 0 <= record.period_s < math.inf:
        raise ProtocolError("metric: a count or the period is negative, too large or not finite")
    names = (record.pipeline, record.model, record.version, record.variant)
    sketches = (_sketch(record.infer_ms), _sketch(record.latency_ms))
    labels, sensors = json_of(record.labels), json_of(record.sensors)
    return msgspec.json.encode((*head, *names, float(record.period_s), *counts, *sketches, labels, sensors))


def kind_of(record: wire.Record) -> str:
    """Return the tag of a durable message: metric, event, update, alert, answer, measurement, gap."""
    return str(record.__struct_config__.tag)


def json_of(value: object) -> str:
    """Return a value's JSON text."""
    return msgspec.json.encode(value).decode()


def _sketch(sketch: Sketch | None) -> str | None:
    if sketch is None:
        return None
    check(sketch)
    return json_of(sketch)


def captured_ms(unix_ms: int, mono_ns: int, batch: Arrived) -> int:
    """Return when a record was created, in Unix milliseconds of the fleet's clock.

    Only the age of a record is taken from its device, whose wall clock may be wrong: by the
    monotonic clock, or by the wall clock if the machine restarted between recording and sending
    (then the monotonic clock says less than nothing, or far less than the wall clock).
    """
    if not batch.sent_mono_ns:
        return max(min(unix_ms, batch.arrived_ms), 0)
    age_ms = (batch.sent_mono_ns - mono_ns) // 1_000_000
    wall_ms = batch.sent_unix_ms - unix_ms
    restarted = age_ms < 0 or age_ms + _SAME_BOOT_MS < wall_ms < _LONGEST_WAIT_MS
    return max(batch.arrived_ms - max(wall_ms if restarted else age_ms, 0), 0)
