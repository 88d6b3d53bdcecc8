"""Whose turn it is to have CPython's interpreter, and how soon."""

import subprocess
import sys

import pytest

SCRIPT = """
import gc, sys, threading
from pathlib import Path
from edgekit.base.interpreter import hurry, share_interpreter

def slack():
    try:
        return int(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())
    except OSError:
        return None

def in_thread(work):
    told = []
    thread = threading.Thread(target=lambda: told.append(work()))
    thread.start()
    thread.join()
    return told[0]

share_interpreter()
print([sys.getswitchinterval(), gc.get_threshold()[0]])
print([slack(), in_thread(slack), in_thread(lambda: (hurry(), slack())[1]), slack()])
"""


def test_lanes_threads_wait_ten_microseconds_and_the_others_as_long_as_ever():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    process, slacks = map(eval, ran.stdout.splitlines())
    assert process == [pytest.approx(1e-5), 10_000]
    assert slacks in ([200_000, 200_000, 1, 200_000], [None] * 4)
