"""Reactor, restarts, commands, status socket, metrics, clock, notifier: each by itself."""

from __future__ import annotations

import socket
import threading

import msgspec
import pytest

from edgekit.agent.ipc import Progress, Running
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts, Verdict
from edgekit.agent.status import MAX_LINE_BYTES, StatusServer, ask, socket_path
from edgekit.agent.supervisor.commands import CommandDesk
from edgekit.agent.supervisor.metrics import IDLE_REPORT_S, MAX_BOOKS, Books, stats_of
from edgekit.base.clock import FLOOR_UNIX_MS, FlooredClock
from edgekit.base.lock import lock_state
from edgekit.base.notify import Notifier
from edgekit.core.errors import LinkError, ProtocolError, StorageError, UsageError
from edgekit.core.sketch import Histogram
from edgekit.core.wire import Command


@pytest.fixture
def reactor():
    made = Reactor()
    yield made
    made.close()


# -- reactor


def test_timers_run_in_order_of_their_time_and_not_of_their_making(reactor):
    done = []
    reactor.after(0.02, lambda: done.append("late"))
    reactor.after(0.0, lambda: done.append("soon"))
    reactor.after(0.03, reactor.stop)
    reactor.run()
    assert done == ["soon", "late"]


def test_work_of_other_threads_ends_a_wait_and_runs_on_the_reactors_thread(reactor):
    names = []

    def work():
        names.append(threading.current_thread().name)
        reactor.stop()

    other = threading.Thread(target=lambda: reactor.post(work))
    reactor.after(30.0, reactor.stop)
    other.start()
    reactor.run()
    other.join()
    assert names == [threading.current_thread().name]


def test_a_socket_that_a_callback_forgot_is_not_called_in_the_same_round(reactor):
    pairs = [socket.socketpair() for _ in range(2)]
    called = []

    def forget_both(_):
        called.append(1)
        for ours, _theirs in pairs:
            reactor.unwatch(ours)
            ours.close()

    for ours, theirs in pairs:
        reactor.watch(ours, 1, forget_both)
        theirs.send(b"x")
    reactor.turn()
    assert called == [1]
    for _, theirs in pairs:
        theirs.close()


# -- restarts


def test_waits_double_up_to_the_longest_and_old_crashes_are_forgotten():
    restarts = Restarts(limit=10, window_s=100, backoff_s=1, backoff_max_s=5)
    waits = []
    for now_s in range(5):
        restarts.crashed(now_s)
        waits.append(restarts.delay_s)
    assert waits == [1, 2, 4, 5, 5]
    assert restarts.crashed(1000) is Verdict.RESTART
    assert restarts.delay_s == 1
    assert restarts.total == 6


# -- commands


@pytest.fixture
def desk(tmp_path):
    done, answers = [], []

    def refuse(_):
        raise UsageError("no such model")

    actions = {"report": lambda args: done.append(args) or "reports", "rollback": refuse}

    def make():
        return CommandDesk(
            tmp_path / "commands.json", actions, answers.append, FlooredClock(tmp_path / "clock")
        )

    return make, done, answers


def command(number="1", kind="report", expires=1 << 50):
    return Command(id=number, kind=kind, expires_unix_ms=expires)


def test_a_command_sent_again_is_answered_again_and_not_done_again_even_after_a_restart(desk):
    make, done, answers = desk
    make().take(command())
    make().take(command())
    assert len(done) == 1
    assert [answer.ok for answer in answers] == [True, True]


def test_a_command_that_is_late_or_refused_is_answered_with_the_reason(desk):
    make, done, answers = desk
    make().take(command("1", expires=1))
    make().take(command("2", kind="rollback"))
    assert done == []
    assert [(answer.ok, answer.message) for answer in answers] == [
        (False, "expired before it arrived"),
        (False, "no such model"),
    ]


# -- status socket


@pytest.fixture
def served(short_path, reactor):
    def refuse(_):
        raise UsageError("not that", hint="this")

    operations = {"echo": lambda request: request["x"], "refuse": refuse}
    server = StatusServer(socket_path(short_path), reactor, operations, max_clients=2)
    thread = threading.Thread(target=reactor.run)
    thread.start()
    yield short_path
    reactor.stop()
    thread.join()
    server.close()


def test_the_socket_answers_and_tells_errors_with_their_class(served):
    assert ask(served, {"op": "echo", "x": "y" * 200_000 if False else "y" * 1000}) == "y" * 1000
    with pytest.raises(UsageError, match="not that"):
        ask(served, {"op": "refuse"})
    with pytest.raises(ProtocolError, match="want one of echo, refuse"):
        ask(served, {"op": "sing"})


def test_only_the_owner_may_use_the_socket(served):
    assert socket_path(served).stat().st_mode & 0o777 == 0o600


def test_garbage_and_endless_lines_do_not_end_the_server(served):
    for data in (b"\xff\xfe\n", b"[" * 5000 + b"\n", b"x" * (MAX_LINE_BYTES + 10)):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(socket_path(served)))
        with client:
            try:
                client.sendall(data)
                client.recv(100)
            except OSError:
                pass
    assert ask(served, {"op": "echo", "x": 1}) == 1


def test_clients_that_only_hold_the_line_shut_nobody_out(served):
    idle = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for client in idle:
        client.connect(str(socket_path(served)))
    assert ask(served, {"op": "echo", "x": 1}, timeout_s=60) == 1
    idle[0].settimeout(60)
    assert idle[0].recv(10) == b""  # the oldest gave way
    for client in idle:
        client.close()


def test_a_socket_left_by_a_killed_agent_is_replaced_and_a_live_one_is_not(served, reactor):
    with pytest.raises(StorageError, match="another agent"):
        StatusServer(socket_path(served), reactor, {})
    stale = socket_path(served).with_name("stale.sock")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(stale))
    left.close()
    StatusServer(stale, reactor, {}).close()
    assert not stale.exists()


def test_a_path_longer_than_the_kernels_limit_works(tmp_path, reactor):
    state = tmp_path / ("long" * 30) / ("er" * 30)
    server = StatusServer(socket_path(state), reactor, {"echo": lambda _: 1})
    thread = threading.Thread(target=reactor.run)
    thread.start()
    assert ask(state, {"op": "echo"}) == 1
    reactor.stop()
    thread.join()
    server.close()


def test_without_an_agent_the_way_out_is_told(tmp_path):
    with pytest.raises(LinkError) as caught:
        ask(tmp_path, {"op": "status"})
    assert "edgekit agent run" in caught.value.hint


def test_one_state_folder_has_one_agent(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.base.lock._WAIT_S", 0.0)
    held = lock_state(tmp_path)
    with pytest.raises(StorageError, match="another agent"):
        lock_state(tmp_path)
    import os

    os.close(held)
    os.close(lock_state(tmp_path))


# -- metrics


def running(variant="v", digest="d"):
    return Running(
        model="m", version="1.0.0", variant=variant, backend="null", accelerator="cpu", digest=digest
    )


def second(frames=10, errors=0, ms=5.0, **kw):
    histogram = Histogram()
    histogram.add(ms, frames)
    wire = histogram.to_wire() if frames else None
    return Progress(
        pipeline="p", period_s=1.0, frames=frames, errors=errors, items=frames, infer_ms=wire,
        latency_ms=wire,
        **{"labels": {"cat": frames}, "running": running(), **kw}
    )  # fmt: skip


def test_seconds_add_up_to_one_report_for_each_variant(tmp_path):
    books, clock = Books(), FlooredClock(tmp_path / "clock")
    for _ in range(3):
        books.add("p", second())
    books.add("p", second(running=running("other"), ms=50.0))
    first, other = books.close(clock, {"temperature_c": 41.0})
    assert (first.frames, first.period_s, first.labels, first.variant) == (30, 3.0, {"cat": 30}, "v")
    assert Histogram.from_wire(first.infer_ms).count == 30
    assert (other.frames, other.variant) == (10, "other")
    assert first.sensors == {"temperature_c": 41.0}
    assert books.close(clock, {}) == []


def test_labels_and_variants_of_a_period_are_bounded(tmp_path):
    books, clock = Books(), FlooredClock(tmp_path / "clock")
    books.add("p", second())
    books.add("p", second(frames=0, labels={f"l{i}": 1 for i in range(500)}))
    for number in range(MAX_BOOKS + 5):
        books.add("p", second(running=running(digest=str(number))))
    reports = books.close(clock, {})
    assert len(reports) == MAX_BOOKS
    assert books.refused == 6
    assert len(reports[0].labels) <= 65
    assert sum(reports[0].labels.values()) == 510


def test_an_idle_pipeline_is_reported_when_it_becomes_so_and_then_once_an_hour(tmp_path):
    books, clock = Books(), FlooredClock(tmp_path / "clock")

    def frames_reported(frames):
        books.add("motor", msgspec.structs.replace(second(frames), period_s=10.0))
        return [(report.frames, report.period_s) for report in books.close(clock, {})]

    assert frames_reported(100) == [(100, 10.0)]
    assert frames_reported(0) == [(0, 10.0)]
    for _ in range(int(IDLE_REPORT_S / 10) - 1):
        assert frames_reported(0) == []
    assert frames_reported(0) == [(0, 10.0)]
    assert frames_reported(0) == []
    assert frames_reported(7) == [(7, 10.0)]
    assert frames_reported(0) == [(0, 10.0)]


def test_what_a_trial_saw_counts_failed_frames_as_tried():
    stats = stats_of([second(frames=10, errors=5), second(frames=0, errors=5)])
    assert (stats.frames, stats.errors, stats.predictions) == (20, 10, 10)
    assert stats_of([]) is None


# -- clock, notifier


def test_a_clock_that_starts_in_1970_goes_on_where_it_stopped(tmp_path, monkeypatch):
    clock = FlooredClock(tmp_path / "clock")
    assert clock.unix_ms() >= FLOOR_UNIX_MS
    clock.keep()
    kept = int((tmp_path / "clock").read_text())
    monkeypatch.setattr("edgekit.base.clock.time.time_ns", lambda: 0)
    again = FlooredClock(tmp_path / "clock")
    assert again.unix_ms() >= kept
    assert again.quality == "floored"
    (tmp_path / "clock").write_text("garbage")
    assert FlooredClock(tmp_path / "clock").unix_ms() >= FLOOR_UNIX_MS


def test_the_service_manager_hears_states(short_path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(short_path / "notify"))
    notifier = Notifier(str(short_path / "notify"))
    notifier.tell("READY=1")
    assert listener.recv(100) == b"READY=1"
    listener.close()
    notifier.tell("WATCHDOG=1")  # nobody listens any more, and that is no reason to stop
    notifier.close()
    Notifier("").tell("READY=1")
