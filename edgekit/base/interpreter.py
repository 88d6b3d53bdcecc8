"""Who waits how long for CPython's interpreter, which one thread of a process has at a time.

A thread that wants it waits for the switch interval, asks whoever has it to let go, and gets it. Where that
one lets go before by itself, as at each read of a socket, the wait begins anew, and mostly it has it back
before anybody else has woken. So next to an event loop that is never idle a thread waits 18 ms after each
inference, with the interval at 0.05 as at 0.2 ms. One that asks sooner than the loop lets go by itself waits
0.02 ms.

The interval is the process's. But Linux lets a thread's timers end late by its timer slack, by default 50 us.
So the interval is short, a lane's thread has no slack, and the others have so much that they wait as long as
they always did: they do not take the interpreter from the lane between two runs.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from pathlib import Path

INTERVAL_S = 1e-5
"""Shorter than what an event loop does between two system calls, 20 to 60 us."""
_SLACK_NS = 200_000
_YOUNG = 10_000
"""So many more objects than before are looked through for cycles. Meanwhile nobody gets the interpreter, and
at Python's 700 that is 60 times a second while a queue fills and empties, for 0.3 ms each."""


def share_interpreter() -> None:
    """Have lanes' threads wait 10 us for the interpreter, and this one and those that it starts 0.2 ms."""
    sys.setswitchinterval(INTERVAL_S)
    gc.set_threshold(_YOUNG)
    _slack(_SLACK_NS)


def hurry() -> None:
    """Have this thread ask for the interpreter as soon as the switch interval has passed."""
    _slack(1)


def _slack(slack_ns: int) -> None:
    """Set how late this thread's timers may end.

    Source: PR_SET_TIMERSLACK in prctl(2), proc_pid_timerslack_ns(5).
    """
    with contextlib.suppress(OSError):  # another system, or a sandbox: the default of 50 us
        Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text(f"{slack_ns}")
