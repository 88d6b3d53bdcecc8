"""The first signal asks for an orderly end, the second is not held up."""

import signal
import threading

import pytest

from edgekit.base.signals import stopped_by_signals


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a process that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_first_signal_stops_and_the_second_acts_as_it_would_without_us():
    calls = []
    with stopped_by_signals(lambda: calls.append("stop")) as received:
        signal.raise_signal(signal.SIGINT)
        assert (calls, received) == (["stop"], [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert calls == ["stop"]


def test_handlers_are_as_before_once_the_block_ends():
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_it_takes_no_signals():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stopped_by_signals(lambda: None) as received:
            seen.append((signal.getsignal(signal.SIGTERM), received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, [])]
