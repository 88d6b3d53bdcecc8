"""The SQLite sink: rows that any client can query, in a bounded file that a kill leaves whole."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sink_results import BOX, CAR, event, result

from edgekit.core.errors import StorageError
from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.sqlite import TABLES, SqliteOptions

ALL = ("events", "items", "frames")
HOUR_MS = 3_600_000


def opened(folder, **options):
    return make_sink("sqlite", SqliteOptions(path="seen.sqlite", **options), SinkContext("door", folder))


def query(folder, text):
    with closing(sqlite3.connect(folder / "seen.sqlite")) as db:
        return db.execute(text).fetchall()


def test_events_items_and_frames_are_rows_while_the_file_is_still_written(tmp_path):
    sink = opened(tmp_path, tables=ALL)
    sink.write(result(unix_ms=1000))
    sink.write(result(events=[event(item=CAR, count=1, total=1, tracks=(7,))], seq=4, unix_ms=2000))
    assert query(tmp_path, "SELECT kind, label, count, box_left FROM events") == [
        ("appeared", "car", 1, BOX[0])
    ]
    assert query(tmp_path, "SELECT seq, label, score, box_bottom FROM items ORDER BY seq") == [
        (3, "car", 0.9, BOX[3]),
        (4, "car", 0.9, BOX[3]),
    ]
    assert query(tmp_path, "SELECT captured_unix_ms, total, json_extract(counts, '$.car') FROM frames") == [
        (1000, 1, 1),
        (2000, 1, 1),
    ]
    ((document,),) = query(tmp_path, "SELECT document FROM events")
    assert json.loads(document)["tracks"] == [7]
    sink.close()
    sink.close()
    with pytest.raises(StorageError, match="is closed"):
        sink.write(result())


def test_what_was_not_asked_for_is_not_kept_and_a_new_start_adds(tmp_path):
    for seq in (1, 2):
        sink = opened(tmp_path)
        sink.write(result(events=[event(id=f"e{seq}")], seq=seq))
        sink.close()
    assert query(tmp_path, "SELECT id FROM events ORDER BY id") == [("e1",), ("e2",)]
    assert (
        query(tmp_path, "SELECT count(*) FROM items")
        == query(tmp_path, "SELECT count(*) FROM frames")
        == [(0,)]
    )


def test_every_field_of_an_item_is_in_its_document_or_a_column(tmp_path):
    sink = opened(tmp_path, tables=("items",))
    found = Item(label="plate", score=0.5, text="B-XY", track=3, value=2.5, vector=(0.5,))
    sink.write(result(found=Prediction(task="x", items=(found,))))
    sink.close()
    assert query(tmp_path, "SELECT text, track, value, box_left FROM items") == [("B-XY", 3, 2.5, None)]
    assert query(tmp_path, "SELECT json_extract(document, '$.vector[0]') FROM items") == [(0.5,)]


def test_the_oldest_rows_go_when_the_file_is_full(tmp_path):
    sink = opened(tmp_path, tables=ALL, max_mb=0.5)
    for seq in range(3000):
        sink.write(result(seq=seq, unix_ms=seq))
    sink.close()
    seqs = [seq for (seq,) in query(tmp_path, "SELECT seq FROM frames ORDER BY seq")]
    assert 300 < len(seqs) < 3000
    assert seqs == list(range(seqs[0], 3000))
    assert (tmp_path / "seen.sqlite").stat().st_size < 0.7e6  # up to 256 frames more than the limit


def test_rows_over_their_age_go(tmp_path):
    sink = opened(tmp_path, max_days=1)
    sink.write(result(events=[event(id="old", captured_unix_ms=0)], unix_ms=0))
    for seq in range(256):
        sink.write(
            result(events=[event(id="new", captured_unix_ms=30 * HOUR_MS)], unix_ms=30 * HOUR_MS, seq=seq)
        )
    sink.close()
    assert query(tmp_path, "SELECT DISTINCT id FROM events") == [("new",)]


WRITER = """
import sys
from pathlib import Path
from sink_results import event, result
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.sqlite import SqliteOptions
options = SqliteOptions(path="seen.sqlite", tables=("events", "items", "frames"))
sink = make_sink("sqlite", options, SinkContext("door", Path(sys.argv[1])))
seq = 0
while True:
    sink.write(result(events=[event(id=str(seq))], seq=seq))
    print(seq, flush=True)
    seq += 1
"""


def test_kill_9_loses_no_row_that_was_written(tmp_path):
    path = [str(Path(__file__).parents[1] / "kit"), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{WRITER}", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(200):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = 199 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    (frames,) = query(tmp_path, "SELECT count(*), max(seq) FROM frames")
    assert frames[0] == frames[1] + 1  # none is missing
    assert frames[1] >= told - 1  # the last line may be cut
    assert query(tmp_path, "SELECT count(*) FROM events") == query(tmp_path, "SELECT count(*) FROM items")
    sink = opened(tmp_path)
    sink.write(result(events=[event(id="after")]))
    sink.close()


def test_a_damaged_file_is_set_aside_and_a_foreign_one_is_left_alone(tmp_path, caplog):
    path = tmp_path / "seen.sqlite"
    path.write_bytes(b"no database at all" * 100)
    sink = opened(tmp_path)
    sink.write(result(events=[event()]))
    sink.close()
    assert "is damaged" in caplog.text
    assert (tmp_path / "seen.sqlite.damaged").read_bytes().startswith(b"no database")
    assert query(tmp_path, "SELECT count(*) FROM events") == [(1,)]
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine(x)")
    with pytest.raises(StorageError, match="version 0, want 1"):
        opened(tmp_path)


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        make_sink("sqlite", SqliteOptions(path="file/x.sqlite"), SinkContext("door", tmp_path))


def test_no_column_is_missing_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs/pipelines.md").read_text()
    for columns in TABLES.values():
        assert {name for name in columns if f"`{name}`" not in text} == set()


def test_a_sink_without_tables_is_a_problem():
    assert list(SqliteOptions(path="x", tables=()).problems()) == [
        "tables: want at least one of events, items, frames, got none"
    ]
