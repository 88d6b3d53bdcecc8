"""What a worker counts and hands on: counters, marks, thumbnails, the ledger's relay."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from bundles import make_bundle, pipeline_toml

from edgekit.agent.ipc import MAX_LABELS, Host, ModelProgress, Opened, Progress, Run, Running
from edgekit.agent.worker.bundle_counters import BundleCounters, TallyMarks
from edgekit.agent.worker.ledger_relay import LedgerRelay
from edgekit.agent.worker.pipeline_run import PipelineRun
from edgekit.agent.worker.shared_model import SharedModel
from edgekit.agent.worker.worker import Worker
from edgekit.core.errors import LinkError
from edgekit.core.sketch import Histogram
from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.picture import thumbnail

RUNNING = Running(model="m", version="1", variant="v", backend="null", accelerator="cpu")


def result(*labels, ms=5.0, events=()):
    items = tuple(Item(label=label, score=0.5) for label in labels)
    stages = {"infer": ms, "latency": 2 * ms}
    return SimpleNamespace(
        events=events, prediction=Prediction(task="classify", items=items), stage_ms=stages
    )


def test_bundle_counters_give_what_was_counted_since_it_was_last_asked_and_then_nothing():
    counters = BundleCounters(RUNNING)
    counters.finished(result("cat", "dog", events=(1, 2)))
    counters.finished(result("cat"))
    counters.failed()
    progress = counters.take("p", 1.5)
    assert (progress.frames, progress.errors, progress.events, progress.items) == (2, 1, 2, 3)
    assert progress.labels == {"cat": 2, "dog": 1}
    assert progress.period_s == 1.5
    assert Histogram.from_wire(progress.infer_ms).quantile(0.5) == pytest.approx(5, rel=0.05)
    assert Histogram.from_wire(progress.latency_ms).quantile(0.5) == pytest.approx(10, rel=0.05)
    empty = counters.take("p", 1.0)
    assert (empty.frames, empty.errors, empty.labels, empty.infer_ms) == (0, 0, {}, None)


def test_labels_by_name_are_bounded_and_no_item_is_lost():
    counters = BundleCounters(RUNNING)
    counters.finished(result(*(f"l{number}" for number in range(MAX_LABELS + 10)), "l0"))
    labels = counters.take("p", 1.0).labels
    assert len(labels) == MAX_LABELS + 1
    assert (labels["l0"], labels["*"]) == (2, 10)


def test_items_without_a_label_are_counted_and_not_named():
    counters = BundleCounters(RUNNING)
    counters.finished(result("", ""))
    progress = counters.take("p", 1.0)
    assert (progress.items, progress.labels) == (2, {})


def test_no_frame_is_lost_or_counted_twice_while_another_thread_asks():
    counters, taken = BundleCounters(RUNNING), []
    done = threading.Event()

    def ask():
        while not done.is_set():
            taken.append(counters.take("p", 0.0).frames)

    reader = threading.Thread(target=ask)
    reader.start()
    for _ in range(5_000):
        counters.finished(result("cat"))
    done.set()
    reader.join()
    assert sum(taken) + counters.take("p", 0.0).frames == 5_000


def test_totals_of_the_loop_become_what_came_since_the_last_look():
    marks = TallyMarks()
    assert marks.since(SimpleNamespace(captured=10, dropped=2, failovers=0)) == (10, 2, 0)
    assert marks.since(SimpleNamespace(captured=15, dropped=2, failovers=1)) == (5, 0, 1)


def test_a_thumbnail_is_a_small_picture_of_the_same_shape():
    data = thumbnail(np.full((480, 1280, 3), 90, np.uint8))
    assert len(data) <= 64 << 10
    small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (120, 320, 3)
    assert abs(int(small.mean()) - 90) <= 2


def test_a_small_picture_is_not_made_larger_and_a_signal_has_none():
    small = cv2.imdecode(np.frombuffer(thumbnail(np.zeros((24, 32, 3), np.uint8)), np.uint8), 1)
    assert small.shape == (24, 32, 3)
    assert thumbnail(np.zeros((100, 6), np.float32)) is None


def test_the_relay_adds_up_by_class_place_and_decision_and_says_it_once():
    sent = []
    relay = LedgerRelay("motor", sent.append)
    relay.flush()
    assert sent == [], "nothing happened, and nothing is said"
    relay.add("motor", "labels", "h:1", "passed", 40)
    relay.add("motor", "labels", "h:1", "passed", 60, 2)
    relay.add("motor", "labels", "h:1", "refused", 10)
    relay.add("motor", "labels", "h:2", "passed", 5)
    relay.flush()
    relay.flush()
    (message,) = sent
    assert message.pipeline == "motor"
    rows = {(e.data_class, e.destination, e.decision): (e.count, e.bytes) for e in message.entries}
    assert rows == {
        ("labels", "h:1", "passed"): (3, 100),
        ("labels", "h:1", "refused"): (1, 10),
        ("labels", "h:2", "passed"): (1, 5),
    }


def test_a_supervisor_that_is_gone_is_told_to_whoever_flushes():
    def gone(_):
        raise LinkError("gone")

    relay = LedgerRelay("motor", gone)
    relay.add("motor", "labels", "h:1", "passed", 40)
    with pytest.raises(LinkError):
        relay.flush()


def test_a_report_at_the_moment_when_a_pipeline_starts_does_not_forget_it(tmp_path, monkeypatch):
    """A worker whose supervisor hears nothing of a pipeline is killed, as one that hangs."""
    heard, changed = [], threading.Condition()

    def send(message):
        with changed:
            heard.append(message)
            changed.notify_all()

    def until(claim):
        with changed:
            assert changed.wait_for(lambda: claim([*heard]), 60), heard[-5:]

    def reports(messages):
        return sum(isinstance(each, ModelProgress) for each in messages)

    start = PipelineRun.start

    def start_after_a_report(run):
        before = reports(heard)
        until(lambda messages: reports(messages) >= before + 2)
        start(run)

    monkeypatch.setattr(PipelineRun, "start", start_after_a_report)
    worker = Worker(send, progress_s=0.01)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        worker.take(Host(model="m", path=str(make_bundle(tmp_path / "m"))))
        until(reports)
        worker.take(Run(pipeline="p", model="m", text=pipeline_toml("p"), what="p", folder=str(tmp_path)))
        until(lambda messages: any(isinstance(each, Progress) and each.frames for each in messages))
    finally:
        worker.stop()
        thread.join(60)


def test_no_other_model_is_opened_beside_the_first(tmp_path, monkeypatch):
    """msgspec crashes where two threads are the first to use a type."""
    heard, changed = [], threading.Condition()

    def send(message):
        with changed:
            heard.append(message)
            changed.notify_all()

    def opened(messages):
        return sum(isinstance(each, Opened) for each in messages)

    begun, open_ = [], SharedModel.open

    def begin(model):
        begun.append(opened([*heard]))
        open_(model)

    monkeypatch.setattr(SharedModel, "open", begin)
    worker = Worker(send)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        for key in ("a", "b", "c"):
            worker.take(Host(model=key, path=str(make_bundle(tmp_path / key))))
        with changed:
            assert changed.wait_for(lambda: opened([*heard]) == 3, 60), heard[-5:]
    finally:
        worker.stop()
        thread.join(60)
    assert begun.count(0) == 1
