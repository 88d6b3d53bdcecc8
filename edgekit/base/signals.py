"""Signal handling of edgekit's processes."""

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Call ``stop`` at the first SIGINT or SIGTERM; a second one has its default effect.

    Yields the list of received signals. Outside the main thread it does nothing.
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
    """Have the kernel kill this process when its parent dies, even while a runtime hangs.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
