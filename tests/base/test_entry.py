"""What a lane learns of its work, and how whoever waits for a request hears of its end."""

import threading
import time

import pytest
from held_lane import WAIT_S

from edgekit.base.entry import Latch, Margin, Pace


def test_work_at_the_limit_of_what_is_quick_does_not_change_sides_from_run_to_run():
    pace, told = Pace(), []
    for seconds in (0.9, 0.9, 0.9, 0.9, 0.9, 1.2, 1.6, 1.2, 0.9):
        pace.typical_s = seconds
        pace.runs += 1
        told.append(pace.is_below(1.0))
    assert told == [False] * 4 + [True, True, False, False, True]


def test_a_wait_is_believed_up_to_a_quarter_more_until_waits_were_longer():
    margin = Margin()
    for _ in range(400):
        margin.add(0.02, 0.021)
        margin.add(0.001, 0.1)  # a short one
    assert margin.factor == 1.25
    for _ in range(900):
        margin.add(0.02, 0.04)
    assert margin.factor == pytest.approx(2.0, abs=0.1)
    for _ in range(400):
        margin.add(0.02, 2.0)
    assert margin.factor == 3.0


def test_waits_that_differ_are_allowed_for_beyond_their_mean():
    margin = Margin()
    for _ in range(400):
        margin.add(0.02, 0.016)
        margin.add(0.02, 0.024)
    assert margin.factor == pytest.approx(1.13 + 4 * 0.11, abs=0.1)


def test_longer_waits_are_learned_soon_and_forgotten_slowly():
    margin = Margin()
    for _ in range(400):
        margin.add(0.02, 0.02)
    for _ in range(10):
        margin.add(0.02, 0.04)
    assert margin.factor > 2.0
    for _ in range(10):
        margin.add(0.02, 0.02)
    assert margin.factor > 2.0


def test_a_latch_wakes_all_who_wait_for_it_and_nobody_waits_once_it_is_set():
    latch, woken = Latch(), threading.Semaphore(0)
    assert (latch.is_set(), latch.wait(0.0)) == (False, False)
    for _ in range(3):
        threading.Thread(target=lambda: latch.wait() and woken.release(), daemon=True).start()
    while len(latch._waiting) < 3 + 1:  # the first is of the wait above
        time.sleep(0)
    latch.set()
    assert all(woken.acquire(timeout=WAIT_S) for _ in range(3))
    assert (latch.is_set(), latch.wait()) == (True, True)
