import logging
import threading

from edgekit_fleet.registry.ticker import Ticker


def test_work_is_done_at_once_and_when_it_is_woken_and_ends_when_it_is_stopped():
    calls, called = [], threading.Event()

    def work():
        calls.append(threading.current_thread().name)
        called.set()

    ticker = Ticker("tick-test", 3600, work)
    ticker.start()
    assert called.wait(10)
    called.clear()
    ticker.wake()
    assert called.wait(10)
    ticker.stop()
    ticker.stop()
    assert calls == ["tick-test"] * 2
    assert "tick-test" not in {thread.name for thread in threading.enumerate()}


def test_work_that_fails_is_told_and_done_again(caplog):
    done, attempts = threading.Event(), []

    def work():
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("half-way")
        done.set()

    with caplog.at_level(logging.ERROR):
        ticker = Ticker("fail-test", 0.01, work)
        ticker.start()
        assert done.wait(10)
        ticker.stop()
    assert ticker.failures == 1
    assert "fail-test failed" in caplog.text


def test_whoever_waits_for_a_call_does_so_until_one_that_began_later_has_ended():
    entered, go_on, calls = threading.Event(), threading.Event(), []

    def work():
        entered.set()
        go_on.wait(10)
        calls.append(len(calls))

    ticker = Ticker("wait-test", 3600, work)
    ticker.start()
    assert entered.wait(10)
    assert not ticker.catch_up(0.01), "the call under way began before"
    go_on.set()
    assert ticker.catch_up(10)
    assert len(calls) >= 2
    ticker.stop()
    assert not ticker.catch_up(0.01)


def test_a_ticker_that_never_started_can_be_stopped():
    Ticker("idle-test", 1, lambda: None).stop()
