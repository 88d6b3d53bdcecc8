"""What signals do to a process of edgekit."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM call ``stop``; a second one does what it does without us.

    Outside the main thread, where signals cannot be taken, it does nothing.

    Yields:
        A list that takes the signal.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def take(number: int, _: object) -> None:
        received.append(number)
        stop()
        restore()

    for number in before:
        signal.signal(number, take)
    try:
        yield received
    finally:
        restore()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies, even while a runtime hangs.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
