"""The loop loses no frame it does not count, survives what it can, and swaps between two frames."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_fakes import ListSink, ListSource, make_manifest, make_predictor, make_variant, spec

from edgekit.base.lane import SWITCH_INTERVAL_S, Lane
from edgekit.core.errors import (
    AcceleratorLostError,
    GoldenError,
    InferenceError,
    SourceError,
    StorageError,
    TensorError,
)
from edgekit.core.spec import Post
from edgekit.pipeline.budget_keeper import Keeper
from edgekit.pipeline.config import BudgetTable
from edgekit.pipeline.events import Debounce
from edgekit.pipeline.loop import Loop, Rules
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.redact import Redactor

CONTRACT = {"pipeline", "model", "version", "variant", "backend", "accelerator", "frames", "fps"}
CONTRACT |= {"latency_ms", "stage_ms", "events", "errors", "failovers"}


def run(source, predictor=None, sink=None, rules=None, failover=None, **limits):
    sink = sink or ListSink()
    loop = Loop("test", source, predictor or make_predictor(), [sink], rules=rules, failover=failover)
    return loop.run(**limits), sink, loop


def counts(document):
    return tuple(document["frames"][key] for key in ("captured", "processed", "dropped"))


def test_a_file_gives_every_frame_in_order():
    document, sink, _ = run(ListSource(40), make_predictor(latency_ms=1))
    assert counts(document) == (40, 40, 0)
    assert sink.seqs == list(range(40))
    assert sink.closed == 1


def test_the_summary_is_the_contract():
    document, _, _ = run(ListSource(5))
    assert set(document) == CONTRACT
    assert set(document["latency_ms"]) == {"p50", "p95", "p99"}
    assert set(document["stage_ms"]) == {"capture", "pre", "infer", "post", "sink"}
    assert document["model"] == "fake"
    assert document["fps"] > 0


def test_a_run_without_a_frame_has_no_times():
    document, _, _ = run(ListSource(0))
    assert (counts(document), document["fps"], document["latency_ms"]["p50"]) == ((0, 0, 0), 0.0, None)


def test_a_frame_limit_on_a_file_reads_no_further():
    source = ListSource(100)
    document, _, _ = run(source, frames=7)
    assert (counts(document), source.given) == ((7, 7, 0), 7)


def test_a_time_limit_ends_an_endless_source():
    source = ListSource(3, endless=True)
    captured, processed, dropped = counts(run(source, seconds=0.3)[0])
    assert captured == processed <= 3
    assert dropped == 0
    assert source.closed.is_set()


def test_of_a_live_source_the_latest_frame_wins_and_every_loss_is_counted():
    """All others come while the first one is inferred."""
    has_begun, has_ended = threading.Event(), threading.Event()

    class Hurried(ListSource):
        def read(self):
            if self.given == 1:
                has_begun.wait(60)
            frame = super().read()
            if frame is None:
                has_ended.set()
            return frame

    predictor = make_predictor()
    infer = predictor.infer

    def slow(*arguments):
        has_begun.set()
        has_ended.wait(60)
        return infer(*arguments)

    predictor.infer = slow
    document, sink, _ = run(Hurried(200, is_live=True), predictor)
    assert (counts(document), sink.seqs) == ((200, 2, 198), [0, 199])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_gaps_of_the_source_itself_count_as_drops(steps):
    seqs = np.cumsum(steps).tolist()
    document, _, _ = run(ListSource(0, seqs=seqs))
    assert counts(document) == (seqs[-1] + 1, len(seqs), seqs[-1] + 1 - len(seqs))


def test_capture_overlaps_inference():
    """While the first frame is inferred the second is captured; else the inference waits in vain."""
    asked, overlapped = threading.Event(), []

    class Asked(ListSource):
        def read(self):
            frame = super().read()
            if self.given >= 2:
                asked.set()
            return frame

    predictor = make_predictor()
    infer = predictor.infer

    def waiting(*arguments):
        overlapped.append(asked.wait(60))
        return infer(*arguments)

    predictor.infer = waiting
    run(Asked(3), predictor)
    assert overlapped == [True, True, True]


def test_threads_that_give_way_more_quickly_already_go_on_to():
    before, seen = sys.getswitchinterval(), []
    sys.setswitchinterval(1e-5)
    try:
        run(ListSource(1), sink=ListSink(lambda _: seen.append(sys.getswitchinterval())))
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(1e-5, rel=0.01)]


def test_threads_give_way_quickly_while_it_runs_and_as_before_after():
    before, seen = sys.getswitchinterval(), []
    run(ListSource(1), sink=ListSink(lambda _: seen.append(sys.getswitchinterval())))
    assert seen == [pytest.approx(SWITCH_INTERVAL_S, rel=0.01)]
    assert sys.getswitchinterval() == pytest.approx(before)


def test_no_thread_is_left():
    run(ListSource(3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("capture-")]


# -- errors


def test_frames_that_fail_are_counted_and_survived():
    document, sink, _ = run(ListSource(10), make_predictor(fail_at=[3, 7]))
    assert (counts(document), document["errors"]) == ((10, 8, 0), 2)
    assert sink.seqs == [0, 1, 3, 4, 5, 7, 8, 9]


def test_frames_of_a_wrong_shape_are_counted_and_survived():
    def make(n):
        return np.zeros((8, 8) if n == 2 else (8, 8, 3), np.uint8)

    document, _, _ = run(ListSource(5, make=make))
    assert (counts(document), document["errors"]) == ((5, 4, 0), 1)


def test_a_model_that_gives_nan_fails_every_frame_and_ends_the_run():
    with pytest.raises(InferenceError, match="not a finite number"):
        run(ListSource(50), make_predictor(values={"scores": [[np.nan, 0, 0]]}), rules=Rules(max_errors=5))


def test_too_many_failures_in_a_row_end_the_run_with_the_last_error():
    predictor = make_predictor(fail_at=[1, 2, 4, 5, 6])
    sink = ListSink()
    loop = Loop("test", ListSource(10), predictor, [sink], rules=Rules(max_errors=3))
    with pytest.raises(InferenceError, match="run 6 is scripted to fail"):
        loop.run()
    assert (loop.tally.failed, sink.seqs, sink.closed) == (5, [2], 1)


def test_a_source_that_vanishes_ends_the_run_after_the_frames_it_gave():
    class Vanishing(ListSource):
        def read(self):
            if self.given == 5:
                raise SourceError("camera '0': vanished")
            return super().read()

    sink = ListSink()
    with pytest.raises(SourceError, match="vanished"):
        Loop("test", Vanishing(10), make_predictor(), [sink]).run()
    assert sink.seqs == [0, 1, 2, 3, 4]


def test_a_source_that_cannot_be_opened_ends_the_run_and_closes_the_sinks():
    class Missing(ListSource):
        def open(self):
            raise SourceError("no such camera")

    sink = ListSink()
    with pytest.raises(SourceError, match="no such camera"):
        Loop("test", Missing(1), make_predictor(), [sink]).run()
    assert sink.closed == 1


def test_a_sink_that_fails_is_counted_and_the_others_go_on():
    class Full(ListSink):
        def write(self, result):
            raise StorageError("disk full")

    good = ListSink()
    document = Loop("test", ListSource(4), make_predictor(), [Full(), good]).run()
    assert (counts(document), document["errors"], len(good.results)) == ((4, 4, 0), 4, 4)


def test_a_bug_in_the_capture_thread_is_raised_and_not_lost():
    class Buggy(ListSource):
        def read(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Buggy(1))


# -- failover


def test_a_lost_accelerator_is_taken_over_without_losing_the_frame():
    spare, seen = make_predictor(make_manifest(version="2.0.0")), []

    def take_over(lost, error):
        seen.append((lost, error))
        return spare

    first = make_predictor(lose_at=4)
    document, sink, loop = run(ListSource(8), first, failover=take_over)
    assert (counts(document), document["failovers"], document["errors"]) == ((8, 8, 0), 1, 0)
    assert [r.version for r in sink.results] == ["1.0.0"] * 3 + ["2.0.0"] * 5
    assert seen[0][0] is first
    assert loop.predictor is spare


def test_a_model_that_is_wrong_between_two_frames_answers_none_of_those_that_follow():
    first, second = make_predictor(), make_predictor(variant=make_variant(id="spare"))
    sink = ListSink()

    def recheck(predictor, _waiting):
        if predictor is first and len(sink.results) >= 3:
            raise GoldenError("wrong")
        return False

    loop = Loop("test", ListSource(8), first, [sink], failover=lambda _lost, _error: second, recheck=recheck)
    document = loop.run()
    names = [result.variant for result in sink.results]
    assert (names, 3 <= names.count("null") < 8) == (sorted(names), True)
    assert (counts(document), document["failovers"], document["errors"]) == ((8, 8, 0), 1, 0)


def test_a_lost_accelerator_ends_the_run_where_nothing_takes_over():
    with pytest.raises(AcceleratorLostError):
        run(ListSource(8), make_predictor(lose_at=4))


# -- swap


@pytest.mark.parametrize("is_live", [False, True])
def test_a_swap_in_the_middle_loses_no_frame(is_live):
    old, new = make_predictor(latency_ms=2), make_predictor(make_manifest(version="2.0.0"), latency_ms=2)
    reached, is_done, swapped = threading.Event(), threading.Event(), []
    sink = ListSink(lambda r: reached.set() if r.frame.seq >= 10 else None)

    class Patient(ListSource):
        def read(self):
            if self.given == 50:  # the last frames are for the new one
                is_done.wait(60)
            return super().read()

    source = Patient(60, is_live=is_live, wait_s=0.004)
    loop = Loop("test", source, old, [sink])

    def swap():
        reached.wait(60)
        swapped.append(loop.swap(new))
        is_done.set()

    thread = threading.Thread(target=swap)
    thread.start()
    document = loop.run()
    thread.join()
    assert swapped == [old]
    versions = [r.version for r in sink.results]
    assert versions == sorted(versions)
    assert set(versions) == {"1.0.0", "2.0.0"}
    captured, processed, dropped = counts(document)
    assert (captured, processed + dropped) == (60, 60)
    assert document["version"] == "2.0.0"
    if not is_live:
        assert sink.seqs == list(range(60))


def test_many_swaps_from_two_threads_all_end_and_lose_nothing():
    predictors = [make_predictor(make_manifest(version=f"{i}.0.0")) for i in range(20)]
    loop = Loop("test", ListSource(400, wait_s=0.0005), make_predictor(), [sink := ListSink()])
    returned = []

    def swap(mine):
        for predictor in mine:
            returned.append(loop.swap(predictor))  # noqa: PERF401 - one by one is the point

    threads = [threading.Thread(target=swap, args=(predictors[i::2],)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    document = loop.run()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert (counts(document), sink.seqs) == ((400, 400, 0), list(range(400)))
    assert len(set(map(id, [*returned, loop.predictor]))) == 21


def test_a_swap_is_taken_up_while_no_frame_comes():
    old, new = make_predictor(), make_predictor()
    loop = Loop("test", ListSource(0, is_live=True, endless=True), old)
    thread = threading.Thread(target=loop.run)
    thread.start()
    deadline = time.monotonic() + 60
    while loop.progress == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert loop.swap(new) is old
    loop.stop()
    thread.join(10)
    assert loop.predictor is new


def test_a_swap_before_and_after_the_run_is_at_once():
    first, second, third = (make_predictor() for _ in range(3))
    loop = Loop("test", ListSource(2), first)
    assert loop.swap(second) is first
    loop.run()
    assert loop.swap(third) is second


# -- stop, progress, shedding, redaction


def test_stop_from_another_thread_ends_a_source_that_waits():
    source = ListSource(2, is_live=True, endless=True)
    loop = Loop(
        "test", source, make_predictor(), [ListSink(lambda r: loop.stop() if r.frame.seq == 1 else None)]
    )
    loop.run()
    assert source.closed.is_set()


def test_stop_on_a_file_finishes_what_was_handed_over():
    loop = Loop("test", ListSource(50), make_predictor(latency_ms=2), [sink := ListSink()])
    sink._on_write = lambda r: loop.stop() if r.frame.seq == 5 else None
    captured, processed, dropped = counts(loop.run())
    assert captured == processed
    assert dropped == 0
    assert 6 <= processed <= 8


def test_progress_grows_with_frames_and_while_none_is_due_but_not_when_the_source_hangs():
    source = ListSource(0, is_live=True, endless=True)
    source.due_s = 3600.0
    loop = Loop("test", source, make_predictor())
    thread = threading.Thread(target=loop.run)
    thread.start()
    deadline = time.monotonic() + 60
    while loop.progress < 2:  # none is due
        assert time.monotonic() < deadline
        time.sleep(0.01)
    source.due_s = 0.0  # one was due all along
    time.sleep(0.3)  # the turn under way may still count; that nothing follows is the claim
    stalled = loop.progress
    time.sleep(0.3)
    assert loop.progress == stalled
    loop.stop()
    thread.join(60)


def test_a_live_source_is_thinned_out_where_the_model_is_too_slow_for_the_budget():
    """Frames wait for the one before; a half of them is in time. The loop stops when that is so."""
    texts, in_time = [], []

    def seen(result):
        if texts and result.stage_ms["latency"] < 60:
            in_time.append(result.frame.seq)
        if len(in_time) >= 20:
            loop.stop()

    keeper = Keeper(BudgetTable(p95_ms=60), print, on_change=lambda text, _: texts.append(text))
    source = ListSource(3000, is_live=True, wait_s=0.03)
    loop = Loop("test", source, make_predictor(latency_ms=45), [ListSink(seen)], rules=Rules(keeper=keeper))
    document = loop.run(seconds=60)
    assert len(in_time) >= 20
    assert texts[0].startswith("full -> rate 1/2: p95 ")
    assert document["budget"]["setting"].startswith("rate 1/")
    assert document["budget"]["changes"] == len(texts)
    captured, processed, dropped = counts(document)
    assert captured == processed + dropped


def test_pixels_are_hidden_before_any_sink_sees_them():
    outputs = {"regressors": [[[4, 4, 4, 4]]], "classifiers": [[[9]]]}
    anchors = {"layers": 1, "strides": [8], "min_scale": 0.5, "max_scale": 0.5, "aspect_ratios": [1.0]}
    anchors |= {"interpolated_scale_aspect_ratio": 0.0, "fixed_anchor_size": True}
    manifest = make_manifest(
        "face",
        outputs=(spec("regressors", (1, 1, 4)), spec("classifiers", (1, 1, 1))),
        post=Post(decoder="blazeface", options={"anchors": anchors, "box_scale": 8, "keypoints": 0}),
    )
    predictor = make_predictor(manifest, outputs, labels=("face",))
    rules = Rules(redactor=Redactor(("face",), "fill", 0.0, 0))
    source = ListSource(2, make=lambda _: np.full((8, 8, 3), 99, np.uint8))
    _, sink, _ = run(source, predictor, rules=rules)
    for result in sink.results:
        assert result.prediction.best.box == (6, 6, 8, 8)
        assert not result.frame.data[6:, 6:].any()
        assert (result.frame.data[:6] == 99).all()


def test_where_no_box_can_be_known_no_pixel_reaches_a_sink():
    """A classifier takes over in the middle of a run, say: it cannot say where anything is."""
    rules = Rules(redactor=Redactor(("face",), "fill", 0.0, 0))
    source = ListSource(2, make=lambda _: np.full((8, 8, 3), 99, np.uint8))
    _, sink, _ = run(source, rules=rules)
    assert len(sink.results) == 2
    assert not any(result.frame.data.any() for result in sink.results)


def test_events_are_counted_and_handed_to_the_sinks():
    document, sink, _ = run(ListSource(6), rules=Rules(Debounce(appear=2, window=3)))
    assert document["events"] == 1
    assert [len(r.events) for r in sink.results] == [0, 1, 0, 0, 0, 0]


def test_events_go_on_with_the_trace_that_their_frame_came_with_and_others_begin_one():
    class Traced(ListSource):
        def read(self):
            frame = super().read()
            if frame is not None and self.trace:
                frame.meta["trace_id"] = self.trace
            return frame

    ids = []
    for trace in ("ab" * 16, ""):
        source = Traced(3)
        source.trace = trace
        _, sink, _ = run(source, rules=Rules(Debounce(appear=2, window=3)))
        ids.append([result.trace_id for result in sink.results])
    assert ids[0] == ["", "ab" * 16, ""]
    assert (len(ids[1][1]), ids[1][0], ids[1][1] != "ab" * 16) == (32, "", True)


# -- a model of several pipelines


def in_threads(loops, **limits):
    """Run loops side by side; return their summaries."""
    with ThreadPoolExecutor(len(loops)) as pool:
        return [each.result(60) for each in [pool.submit(loop.run, **limits) for loop in loops]]


@pytest.fixture
def lane():
    shared, before = Lane("shared"), sys.getswitchinterval()
    yield shared
    shared.close()
    sys.setswitchinterval(before)


def test_four_cameras_on_one_slow_model_get_equal_shares_and_a_request_is_answered(lane):
    predictors = [make_predictor(latency_ms=5) for _ in range(4)]
    sources = [ListSource(10_000, is_live=True, wait_s=0.001 * (number + 1)) for number in range(4)]
    loops = [Loop(f"camera-{n}", sources[n], predictors[n], lane=lane) for n in range(4)]
    answers = []

    def ask():
        while not all(loop.tally.processed for loop in loops):
            time.sleep(0.001)
        for number in range(10):
            answers.extend(
                lane.result(lane.submit([lambda number=number: number], kind="infer", timeout_s=30))
            )

    asking = threading.Thread(target=ask)
    asking.start()
    documents = in_threads(loops, seconds=1.5)
    asking.join(60)
    processed = [document["frames"]["processed"] for document in documents]
    assert min(processed) >= 0.9 * sum(processed) / 4
    assert min(processed) > 20
    assert answers == list(range(10))
    assert all(sum(counts(each)[1:]) == counts(each)[0] for each in documents)


def test_a_slow_sink_of_one_pipeline_holds_up_no_other(lane):
    is_done = threading.Event()
    slow = Loop("slow", ListSource(9), make_predictor(), [ListSink(lambda _: is_done.wait(60))], lane=lane)
    quick = Loop("quick", ListSource(50), make_predictor(), [sink := ListSink()], lane=lane)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(slow.run)
        assert counts(quick.run()) == (50, 50, 0)
        is_done.set()
        assert counts(running.result(60)) == (9, 9, 0)
    assert sink.seqs == list(range(50))


def test_a_swap_for_all_users_happens_at_one_boundary(lane):
    old = [make_predictor() for _ in range(3)]
    new = [make_predictor(make_manifest(version="2.0.0")) for _ in range(3)]
    results = []
    loops = [
        Loop(f"{n}", ListSource(60, wait_s=0.001), old[n], [ListSink(results.append)], lane=lane)
        for n in range(3)
    ]

    def swap():
        while len(results) < 30:
            time.sleep(0.001)
        return lane.call(lambda: [loop.use(each) for loop, each in zip(loops, new, strict=True)])

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        documents = in_threads(loops)
        assert swapping.result(60) == old
    assert [counts(document) for document in documents] == [(60, 60, 0)] * 3
    versions = [result.version for result in results]
    assert versions == sorted(versions)
    assert set(versions) == {"1.0.0", "2.0.0"}


def test_the_end_or_an_error_of_one_pipeline_leaves_the_lane_to_the_others(lane):
    lost = Loop("lost", ListSource(50), make_predictor(lose_at=3), lane=lane)
    short = Loop("short", ListSource(2), make_predictor(), lane=lane)
    whole = Loop("whole", ListSource(50, wait_s=0.001), make_predictor(), lane=lane)
    with ThreadPoolExecutor(2) as pool:
        running, losing = pool.submit(whole.run), pool.submit(lost.run)
        short.run()
        with pytest.raises(AcceleratorLostError):
            losing.result(60)
        assert counts(running.result(60)) == (50, 50, 0)
    assert not lane.is_busy
    assert lane.call(threading.current_thread).name == "shared"


def test_threads_still_give_way_quickly_after_the_end_of_one_of_several_pipelines(lane):
    Loop("one", ListSource(1), make_predictor(), lane=lane).run()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S, rel=0.01)


@pytest.mark.parametrize("interval_s", [1.72e-4, 2.41e-4])
def test_pipelines_that_come_and_go_do_not_shorten_the_interval(interval_s):
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(interval_s)
    try:
        for _ in range(12):
            run(ListSource(1))
        assert sys.getswitchinterval() == pytest.approx(interval_s, abs=1.1e-6)
    finally:
        sys.setswitchinterval(before_s + 5e-7)


def test_a_loop_that_is_failed_from_outside_infers_no_frame_that_waits(lane):
    loop = Loop("failed", ListSource(1, is_live=True, endless=True), make_predictor(), lane=lane)

    def fail():
        deadline_s = time.monotonic() + 60
        while not lane.depth and time.monotonic() < deadline_s:
            time.sleep(0.001)
        loop.fail(GoldenError("wrong"))

    failing = lane.control(fail)
    with pytest.raises(GoldenError, match="wrong"):
        loop.run()
    lane.result(failing)
    assert (loop.tally.captured, loop.tally.processed, loop.tally.dropped) == (1, 0, 1)


def test_the_owner_of_a_lane_rechecks_its_model_and_not_a_loop(lane):
    with pytest.raises(ValueError, match=r"Lane\.between"):
        Loop("shared", ListSource(1), make_predictor(), recheck=lambda _predictor, _waiting: False, lane=lane)


def test_a_limit_on_a_live_source_is_exact():
    document, sink, _ = run(ListSource(100, is_live=True, wait_s=0.0005, endless=True), frames=7)
    assert (document["frames"]["processed"], len(sink.results)) == (7, 7)


def test_errors_of_a_model_reach_the_caller_by_kind():
    with pytest.raises(TensorError):
        run(ListSource(3, make=lambda _: np.zeros((2, 2), np.uint8)), rules=Rules(max_errors=1))


def test_no_result_of_the_old_model_comes_after_a_swap_returns():
    old, new = make_predictor(), make_predictor(make_manifest(version="2.0.0"))
    slow = ListSink(lambda _: time.sleep(0.002))
    loop, returned_at = Loop("test", ListSource(150), old, [slow]), []

    def swap():
        while not slow.results:
            time.sleep(0.001)
        loop.swap(new)
        returned_at.append(sum(r.version == "1.0.0" for r in slow.results))

    thread = threading.Thread(target=swap)
    thread.start()
    loop.run()
    thread.join(10)
    assert returned_at == [sum(r.version == "1.0.0" for r in slow.results)]
    assert slow.seqs == list(range(150))


def test_each_failed_frame_is_told_to_its_predictor_once():
    told = []

    class Counting(Predictor):
        def failed(self):
            told.append(self)

    predictor = make_predictor(make=Counting, fail_at=[2, 5])
    document, _, _ = run(ListSource(6), predictor)
    assert (len(told), document["errors"]) == (2, 2)


def test_a_bug_in_a_callback_is_raised_and_ends_the_run():
    def bug(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(ListSource(100), sink=ListSink(bug))


def test_writing_overlaps_inference():
    """While the first result is written the second frame is inferred; else the sink waits in vain."""
    inferred, overlapped = threading.Event(), []
    predictor, count = make_predictor(), iter(range(100))
    infer = predictor.infer

    def counting(*arguments):
        if next(count) >= 1:
            inferred.set()
        return infer(*arguments)

    predictor.infer = counting
    run(ListSource(3), predictor, ListSink(lambda _: overlapped.append(inferred.wait(60))))
    assert overlapped == [True, True, True]


def test_counters_can_be_read_while_it_runs():
    loop, failures = Loop("test", ListSource(300), make_predictor(), [ListSink()]), []

    def read():
        try:
            while thread.is_alive():
                loop.stats()
        except RuntimeError as error:  # a histogram that changed while it was read
            failures.append(error)

    thread = threading.Thread(target=loop.run)
    reader = threading.Thread(target=read)
    thread.start()
    reader.start()
    thread.join(30)
    reader.join(30)
    assert not failures


# -- later stages


class Later:
    """The stages after the first, one of them on frames; what was asked of them, in turn."""

    looks = True

    def __init__(self, look=lambda: None):
        self.asked, self.has_looked, self._look = [], threading.Event(), look

    def look(self, frame):
        if ("look", frame.seq) in self.asked:
            return
        self.asked.append(("look", frame.seq))
        try:
            self._look()
        finally:
            self.has_looked.set()

    def step(self, frame, prediction):
        self.asked.append(("step", frame.seq))
        return prediction, [], None

    def versions(self):
        return {}

    def documents(self):
        return []

    def close(self):
        pass


def waits_for(predictor, event):
    """Have inference last until an event."""
    once = predictor.backend.run

    def late():
        assert event.wait(60)
        return once()

    predictor.backend.run = late
    return predictor


def test_stages_on_frames_run_while_the_first_model_is_at_work_and_before_its_outputs_are_decoded():
    later = Later()
    predictor = waits_for(make_predictor(), later.has_looked)
    finish = predictor.finish
    predictor.finish = lambda inferred: (later.asked.append("decode"), finish(inferred))[1]
    run(ListSource(1), predictor, rules=Rules(graph=later))
    assert later.asked == [("look", 0), "decode", ("step", 0)]


def test_what_runs_beside_the_first_model_is_not_added_to_the_time_of_the_frame():
    def takes_long():
        until_s = time.perf_counter() + 0.05
        while time.perf_counter() < until_s:
            pass

    later = Later(takes_long)
    predictor = waits_for(make_predictor(), later.has_looked)
    waits = predictor.backend.run
    predictor.backend.run = lambda: (waits(), takes_long())[0]
    _, sink, _ = run(ListSource(1), predictor, rules=Rules(graph=later))
    (stage_ms,) = [result.stage_ms for result in sink.results]
    parts = sum(stage_ms[part] for part in ("pre", "infer", "post", "later"))
    assert stage_ms["infer"] + stage_ms["pre"] < parts <= stage_ms["latency"]


def test_a_stage_that_is_alone_with_a_frame_for_a_while_adds_that_to_its_time():
    """The first model has ended before the later one, which then took the rest alone."""
    begun, ended = threading.Event(), threading.Event()
    later = Later(lambda: (begun.set(), ended.wait(60)))
    first, sink = waits_for(make_predictor(), begun), ListSink()
    loop = Loop("test", ListSource(1), first, [sink], rules=Rules(graph=later))
    give = loop._finisher.give

    def given(job):
        give(job)
        until_s = time.perf_counter() + 0.02
        while time.perf_counter() < until_s:
            pass
        ended.set()

    loop._finisher.give = given
    loop.run()
    assert sink.results[0].stage_ms["later"] >= 20


def test_an_error_of_a_stage_beside_the_first_model_ends_the_run():
    def fails():
        raise ValueError("a bug")

    later = Later(fails)
    with pytest.raises(ValueError, match="a bug"):
        run(
            ListSource(3, endless=True),
            waits_for(make_predictor(), later.has_looked),
            rules=Rules(graph=later),
        )


def test_no_stage_looks_at_a_frame_that_a_newer_one_replaces_before_it_begins():
    class Hurries(ListSource):
        def read(self):
            if self.given == 4:
                later.has_looked.wait(0.1)  # it must not
            if self.given == 5:  # all of them were offered
                begins.set()
            return super().read()

    begins, later = threading.Event(), Later()
    with closing(Lane("shared")) as lane:
        lane.control(lambda: begins.wait(60))
        source = Hurries(5, is_live=True, endless=True)
        Loop("test", source, make_predictor(), rules=Rules(graph=later), lane=lane).run(frames=1)
    assert later.asked == [("look", 4), ("step", 4)]
