"""The page's sink keeps a picture only while somebody watches, and never costs the pipeline more."""

import time

import numpy as np
import pytest
from pipeline_fakes import prediction

from edgekit.core.ports import Frame, Result
from edgekit.pipeline.events import Event
from edgekit.pipeline.view import WATCHED_S, ViewSink, frame_document


def result(seq=0, data=None, events=(), version="1.0.0", latency_ms=5.0):
    pixels = np.full((60, 80, 3), 50, np.uint8) if data is None else data
    return Result(
        pipeline="door",
        frame=Frame(pixels, seq, time.monotonic_ns(), 7),
        prediction=prediction("detect", "car", box=(1.0, 2.0, 30.0, 40.0)),
        events=tuple(events),
        model="m",
        version=version,
        variant="v",
        stage_ms={"infer": 1.0, "latency": latency_ms},
    )


def happened(label, seq=0):
    return Event(id=label, kind="appeared", label=label, seq=seq, captured_ns=0, captured_unix_ms=7)


def test_no_picture_is_kept_unless_somebody_asks(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("edgekit.pipeline.view.time.monotonic", lambda: now_s[0])
    sink = ViewSink()
    sink.write(result(0))
    assert sink.latest() is None  # and from now on frames are kept
    sink.write(result(1))
    number, kept = sink.latest()
    assert (number, kept.frame.seq) == (2, 1)
    now_s[0] += WATCHED_S + 0.1
    sink.write(result(2))
    assert sink.latest() is None


def test_a_closed_sink_has_no_picture_and_wakes_who_waits():
    sink, woken = ViewSink(), []
    sink.latest()
    with sink.watched(lambda: woken.append(sink.number)):
        sink.write(result(0))
        sink.close()
        sink.close()
    sink.write(result(1))
    assert (woken, sink.latest()) == ([1, 1, 1], None)


def test_figures_count_frames_losses_and_latency():
    sink = ViewSink()
    assert sink.figures()["latency_ms"] == {"p50": None, "p95": None}
    for seq, latency_ms in ((0, 5.0), (2, 7.0), (3, 50.0), (0, 5.0), (1, 5.0)):  # opened again after 3
        sink.write(result(seq, latency_ms=latency_ms, version="2.0.0"))
    figures = sink.figures()
    assert figures["frames"] == {"processed": 5, "dropped": 1}
    assert figures["latency_ms"] == {"p50": 5.0, "p95": 50.0}
    assert figures["fps"] > 0
    assert [figures[name] for name in ("model", "version", "variant", "task")] == [
        "m",
        "2.0.0",
        "v",
        "detect",
    ]


def test_events_are_numbered_and_the_last_two_hundred_are_kept():
    sink = ViewSink()
    for number in range(250):
        sink.write(result(number, events=[happened(f"e{number}")]))
    assert [number for number, _ in sink.events(0)] == list(range(51, 251))
    assert [document["label"] for _, document in sink.events(248)] == ["e248", "e249"]
    assert len(sink.events(10_000)) == 200  # a page that knew an earlier run


@pytest.mark.parametrize(
    ("data", "size"), [(None, (80, 60)), (np.zeros((16, 2), np.float32), (0, 0)), ({"column": 1}, (0, 0))]
)
def test_a_frames_document_has_its_size_and_no_events(data, size):
    document = frame_document(result(data=data, events=[happened("car")]))
    assert (document["width"], document["height"]) == size
    assert document["items"][0]["label"] == "car"
    assert "events" not in document
