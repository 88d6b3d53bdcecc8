"""The durable messages of devices' outboxes: each is stored once, however often it arrives."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit_fleet.store import ranges, rows
from edgekit_fleet.store.arrivals import Arrived, Refused
from edgekit_fleet.store.database import Database, documents
from edgekit_fleet.store.rows import MAX_SEQ

MAX_RANGES = 1024
"""Gaps above the watermark that one outbox may have; a batch that would add more is left out."""
MAX_BOOTS = 64
"""Outboxes remembered for one device, the newest; bounds a device that starts one after another."""

MAX_REFUSED = 1000
MAX_REFUSED_BYTES = 64 << 10
RESTORED = "acknowledged earlier, and lost since: a backup was restored"
"""The reason of a gap in what this database should have."""
_FIND = (
    "SELECT json_array(named.key, boot, outbox.id, watermark, json(ranges), heard_ms) AS document"
    " FROM json_each(?) AS named CROSS JOIN outbox"
    " WHERE device = json_extract(named.value, '$[0]') AND boot = json_extract(named.value, '$[1]')"
)
_SAVE = (
    "UPDATE outbox SET watermark = json_extract(box.value, '$[1]'), ranges = json_extract(box.value, '$[2]'),"
    " heard_ms = json_extract(box.value, '$[3]')"
    " FROM json_each(?) AS box WHERE outbox.id = json_extract(box.value, '$[0]')"
)

_MIGRATIONS = [
    """
    CREATE TABLE outbox (
      id INTEGER PRIMARY KEY, device TEXT NOT NULL, boot TEXT NOT NULL, watermark INTEGER NOT NULL,
      ranges TEXT NOT NULL, heard_ms INTEGER NOT NULL, UNIQUE (device, boot)
    );
    CREATE TABLE metric (
      id INTEGER PRIMARY KEY, outbox INTEGER NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL,
      at_ms INTEGER NOT NULL, arrived_ms INTEGER NOT NULL,
      pipeline TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL,
      period_s REAL NOT NULL, frames INTEGER NOT NULL, dropped INTEGER NOT NULL, errors INTEGER NOT NULL,
      events INTEGER NOT NULL, failovers INTEGER NOT NULL, infer_ms TEXT, latency_ms TEXT,
      labels TEXT NOT NULL, sensors TEXT NOT NULL, UNIQUE (outbox, seq)
    );
    CREATE INDEX metric_device ON metric (device, at_ms);
    CREATE INDEX metric_model ON metric (model, version, device, at_ms);
    CREATE TABLE event (
      id INTEGER PRIMARY KEY, outbox INTEGER NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL,
      at_ms INTEGER NOT NULL, arrived_ms INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
      UNIQUE (outbox, seq)
    );
    CREATE INDEX event_device ON event (device, id);
    CREATE INDEX event_kind ON event (kind, id);
    CREATE TABLE refused (
      id INTEGER PRIMARY KEY, device TEXT NOT NULL, topic TEXT NOT NULL, arrived_ms INTEGER NOT NULL,
      reason TEXT NOT NULL, body BLOB NOT NULL
    );
    """,
    """
    CREATE TABLE turned_away (
      device TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, last_ms INTEGER NOT NULL,
      PRIMARY KEY (device, reason)
    ) WITHOUT ROWID;
    """,
    "CREATE INDEX event_trace ON event (json_extract(body, '$.trace_id')) WHERE kind = 'event'",
]


@dataclass(frozen=True)
class TurnedAway:
    """How often something of one device was turned away for a reason, and when the last time."""

    reason: str
    count: int
    last_ms: int


@dataclass(frozen=True)
class Committed:
    """The result of a commit for one outbox: its watermark, and the records that were new.

    ``lost``: the number of messages that were acknowledged once and are not in this database, because a
    backup was restored since.
    """

    device: str
    boot: str
    watermark: int
    records: list[wire.Record]
    lost: int = 0
    refused: tuple[str, ...] = ()
    """Why records that were new could not be used."""


@dataclass(frozen=True)
class Lost:
    """Messages that were acknowledged and are lost, and the number of devices that sent them."""

    messages: int
    devices: int


class Messages:
    """Writes the durable messages of one database; ``store.metrics`` reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("messages", _MIGRATIONS)

    def commit(self, arrived: Sequence[Arrived]) -> list[Committed]:
        """Store batches in one transaction; messages that are stored already are skipped.

        Returns:
            One entry for each outbox, in the order of arrival. A batch that would leave too many gaps
            is left out; the watermark makes the device send it again in order.
        """
        with self._database.transaction() as sql:
            heard = _load_all(sql, arrived)
            staged: list[_Staged] = []
            for batch in arrived:
                _store(sql, heard[batch.device, batch.boot], batch, staged)
            for table in ("metric", "event"):
                _insert(sql, table, [entry for entry in staged if rows.table_of(entry.record) == table])
            saved = [(box.id, box.watermark, box.ranges, box.heard_ms) for box in heard.values()]
            sql.execute(_SAVE, (rows.json_of(saved),))
        return [
            Committed(*key, box.watermark, box.fresh, box.lost, tuple(box.refused))
            for key, box in heard.items()
        ]

    def set_aside(self, refused: Sequence[Refused]) -> None:
        """Keep the last 1000 messages that cannot be used, for diagnosis."""
        with self._database.transaction() as sql:
            for message in refused:
                _set_aside(sql, message)

    def turn_away(self, counts: Mapping[tuple[str, str], int], now_ms: int) -> None:
        """Count what was turned away unread, by device and reason."""
        with self._database.transaction() as sql:
            sql.executemany(
                "INSERT INTO turned_away VALUES (?,?,?,?) ON CONFLICT (device, reason) DO UPDATE"
                " SET count = count + excluded.count, last_ms = excluded.last_ms",
                [(device, reason, count, now_ms) for (device, reason), count in counts.items()],
            )

    def turned_away(self, device: str) -> list[TurnedAway]:
        """Return what was turned away of a device, the most frequent first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT reason, count, last_ms FROM turned_away WHERE device = ? ORDER BY count DESC",
                (device,),
            ).fetchall()
        return [TurnedAway(*row) for row in rows]

    def refused(self, limit: int = 50) -> list[Refused]:
        """Return messages that could not be used, the newest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT device, topic, arrived_ms, reason, body FROM refused ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [Refused(*row) for row in rows]

    def watermark(self, device: str, boot: str) -> int:
        """Return the watermark of an outbox: every message up to it is committed; 0 for an unknown outbox."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT watermark FROM outbox WHERE device = ? AND boot = ?", (device, boot)
            ).fetchone()
        return 0 if row is None else int(row["watermark"])

    def watermarks(self, device: str) -> dict[str, int]:
        """Return the watermark of each of a device's outboxes, by its boot."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT boot, watermark FROM outbox WHERE device = ?", (device,)).fetchall()
        return {row["boot"]: int(row["watermark"]) for row in rows}

    def lost_since(self, restored_ms: int) -> Lost:
        """Return what the restore of a backup is known to have lost, from the gaps recorded since then."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT coalesce(sum(json_extract(body, '$.last') - json_extract(body, '$.first') + 1), 0),"
                " count(DISTINCT device) FROM event"
                " WHERE kind = 'gap' AND arrived_ms >= ? AND json_extract(body, '$.reason') LIKE ?",
                (restored_ms, f"{RESTORED}%"),
            ).fetchone()
        return Lost(*row)

    def counts(self) -> dict[str, int]:
        """Return the number of rows by table: ``metrics``, ``events``, ``refused``."""
        with self._database.read() as sql:
            tables = {"metrics": "metric", "events": "event", "refused": "refused"}
            return {name: _count(sql, table) for name, table in tables.items()}

    def trim(self, before_ms: int, *, max_rows: int, chunk: int = 2000) -> int:
        """Delete rows that arrived before ``before_ms``, and the oldest beyond ``max_rows`` in a table.

        The time of arrival counts, not the device's: a device with a wrong clock must not lose its rows.

        Returns:
            The number of deleted rows, at most ``chunk`` of each table, so that writers never wait
            long. Call again until it returns 0.
        """
        deleted = 0
        for table in ("metric", "event"):
            with self._database.transaction() as sql:
                excess = min(max(_count(sql, table) - max_rows, 0), chunk)
                first = f"SELECT id FROM {table} ORDER BY id LIMIT ?"  # noqa: S608 - fixed names
                deleted += sql.execute(
                    f"DELETE FROM {table} WHERE id IN ({first}) AND (arrived_ms < ? OR id IN ({first}))",  # noqa: S608 - as above
                    (chunk, before_ms, excess),
                ).rowcount
        return deleted


def _count(sql: sqlite3.Connection, table: str) -> int:
    """Return the number of rows by the first and last id: rows are deleted in the order they were added.

    As two queries: SQLite looks at every row for ``min`` and ``max`` in one.
    """
    ends = f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"  # noqa: S608 - fixed names
    first, last = sql.execute(ends).fetchone()
    return 0 if first is None else int(last - first + 1)


@dataclass
class _Outbox:
    """One device's outbox during a commit."""

    id: int
    watermark: int
    ranges: list[ranges.Range]
    heard_ms: int
    fresh: list[wire.Record]
    lost: int = 0
    refused: list[str] = field(default_factory=list)


class _Found(NamedTuple):
    """An outbox that is stored; ``number`` is its place among those asked for."""

    number: int
    boot: str
    id: int
    watermark: int
    above: list[ranges.Range]
    heard_ms: int


@dataclass(frozen=True)
class _Staged:
    """A new record of a commit, and its row."""

    box: _Outbox
    seq: int
    batch: Arrived
    record: wire.Record
    row: bytes


def _store(sql: sqlite3.Connection, box: _Outbox, batch: Arrived, staged: list[_Staged]) -> None:
    """Stage the new messages of one batch, and set aside those that cannot be stored."""
    last = batch.seq0 + batch.count - 1
    committed: list[ranges.Range] = [(batch.seq0, last)]
    for _, record in batch.records:
        if isinstance(record, wire.Gap) and 1 <= record.first <= record.last < MAX_SEQ:
            committed.append((record.first, record.last))
    _write_off(sql, box, batch)
    watermark, above = ranges.add(box.watermark, box.ranges, committed)
    if len(above) > MAX_RANGES:
        return
    fresh = set(ranges.missing(box.watermark, box.ranges, batch.seq0, last))
    for seq, record in batch.records:
        if seq in fresh:
            try:
                staged.append(_Staged(box, seq, batch, record, rows.row_of(box.id, seq, batch, record)))
                box.fresh.append(record)
            except (ProtocolError, ValueError) as cause:
                _refuse(sql, box, seq, batch, record, cause)
    for seq, refused in batch.refused:
        if seq in fresh:
            box.refused.append(f"message {seq}: {refused.reason}")
            _set_aside(sql, refused)
    box.watermark, box.ranges, box.heard_ms = watermark, above, batch.arrived_ms


def _write_off(sql: sqlite3.Connection, box: _Outbox, batch: Arrived) -> None:
    """Record messages that the device cannot send any more as gaps, so that the watermark passes them.

    A device deletes only what was acknowledged, so this database has lost them: it is a restored backup, or
    another fleet's.
    """
    kept_up_to = min(batch.lowest, batch.seq0) - 1
    for first, last in ranges.holes(box.watermark, box.ranges, kept_up_to):
        heard = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(box.heard_ms / 1000))
        gap = wire.Gap(
            mono_ns=0,
            unix_ms=batch.arrived_ms,
            first=first,
            last=last,
            reason=f"{RESTORED}; the last message before was stored at {heard} UTC",
        )
        body = (box.id, last, batch.device, batch.arrived_ms, batch.arrived_ms)
        rows.insert(sql, "event", [rows.json_of((*body, rows.kind_of(gap), rows.json_of(gap))).encode()])
        box.lost += last - first + 1
    box.watermark, box.ranges = ranges.add(box.watermark, box.ranges, [(0, kept_up_to)])


def _insert(sql: sqlite3.Connection, table: rows.Table, staged: Sequence[_Staged]) -> None:
    """Insert rows; one that violates a constraint is set aside, and the others are inserted."""
    if not staged:
        return
    try:
        rows.insert(sql, table, [entry.row for entry in staged])
    except sqlite3.IntegrityError as cause:
        if len(staged) > 1:
            for entry in staged:
                _insert(sql, table, [entry])
            return
        [one] = staged
        one.box.fresh[:] = [record for record in one.box.fresh if record is not one.record]
        _refuse(sql, one.box, one.seq, one.batch, one.record, cause)


def _refuse(
    sql: sqlite3.Connection, box: _Outbox, seq: int, batch: Arrived, record: wire.Record, cause: Exception
) -> None:
    """Set a record aside that cannot be stored."""
    where, body = f"outbox {batch.boot} {seq}", wire.encode_record(record)
    box.refused.append(f"message {seq}: {cause}")
    _set_aside(sql, Refused(batch.device, where, batch.arrived_ms, str(cause), body))


def _load_all(sql: sqlite3.Connection, arrived: Sequence[Arrived]) -> dict[tuple[str, str], _Outbox]:
    """Return the outboxes of batches, in the order of arrival; those that are new are added."""
    first = {(batch.device, batch.boot): batch for batch in reversed(arrived)}
    keys = list(dict.fromkeys((batch.device, batch.boot) for batch in arrived))
    known: dict[tuple[str, str], _Outbox] = {}
    for row in documents(sql, _Found, _FIND, (rows.json_of(keys),)):
        if row.boot == keys[row.number][1]:  # SQLite's JSON ends a text at a zero character
            known[keys[row.number]] = _Outbox(row.id, row.watermark, row.above, row.heard_ms, [])
    return {key: known.get(key) or _load(sql, first[key]) for key in keys}


def _load(sql: sqlite3.Connection, batch: Arrived) -> _Outbox:
    find = "SELECT id, watermark, ranges, heard_ms FROM outbox WHERE device = ? AND boot = ?"
    row = sql.execute(find, (batch.device, batch.boot)).fetchone()
    if row is None:
        sql.execute(
            "INSERT INTO outbox (device, boot, watermark, ranges, heard_ms) VALUES (?,?,0,'[]',?)",
            (batch.device, batch.boot, batch.arrived_ms),
        )
        sql.execute(
            "DELETE FROM outbox WHERE device = ? AND id NOT IN"
            " (SELECT id FROM outbox WHERE device = ? ORDER BY heard_ms DESC, id DESC LIMIT ?)",
            (batch.device, batch.device, MAX_BOOTS),
        )
        row = sql.execute(find, (batch.device, batch.boot)).fetchone()
    above = [(first, last) for first, last in json.loads(row["ranges"])]
    return _Outbox(row["id"], row["watermark"], above, row["heard_ms"], [])


def _set_aside(sql: sqlite3.Connection, message: Refused) -> None:
    sql.execute(
        "INSERT INTO refused (device, topic, arrived_ms, reason, body) VALUES (?,?,?,?,?)",
        (
            message.device,
            message.topic[:200],
            message.arrived_ms,
            message.reason[:500],
            message.body[:MAX_REFUSED_BYTES],
        ),
    )
    sql.execute("DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - ?", (MAX_REFUSED,))
