"""The requests to a lane: what each carries, how many may wait, and how fast each kind runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.base.joint import Joint

_SMOOTHING = 0.1
_ENOUGH = 5
_STAYS = 1.5
_LEAST_MARGIN, _MOST_MARGIN, _DEVIATIONS = 1.25, 3.0, 4.0
_LEARNS, _FORGETS = 0.05, 0.01
_SHORT_S = 0.005


@dataclass(frozen=True)
class Bounds:
    """The bounds of a lane's requests."""

    waiting: int = 2048
    """Rows that wait."""
    waiting_bytes: int = 128 << 20
    stuck_s: float = 30.0
    """What runs for longer makes the lane ``is_stuck``."""
    inline_s: float = 0.001
    """Work that typically ends within this may run in the thread of its caller: handing it over costs 50 to
    100 us of CPU."""
    client_share: float = 0.5
    """Of the rows that wait, at most so many are one client's."""


class Pace:
    """A running average of the seconds that one kind of work takes."""

    def __init__(self) -> None:
        self.typical_s = 0.0
        self.runs = 0
        self._was_below = False

    def add(self, seconds: float) -> None:
        """Count one run."""
        self.runs += 1
        share = max(_SMOOTHING, 1 / self.runs)
        self.typical_s += share * (seconds - self.typical_s)

    def is_below(self, seconds: float) -> bool:
        """Return whether at least 5 runs were measured and typically take less than this.

        What was below stays so up to half as much again: else work at the limit changes its thread, and with
        it the time that it takes, from run to run.
        """
        most_s = _STAYS * seconds if self._was_below else seconds
        self._was_below = self.runs >= _ENOUGH and self.typical_s < most_s
        return self._was_below


class Margin:
    """How many times the expected wait is allowed for: what the last waits took beyond it, at least 1.25.

    Under overload the queue fills up to what is admitted: without a margin every answer would come at its
    deadline, and where a machine becomes slower than it was, those that wait already come after it.

    It learns soon of longer waits, and forgets them slowly: a moment's respite says little of the next wait.

    Source: mean plus four times the mean deviation, as TCP's retransmission timer (RFC 6298).
    """

    def __init__(self) -> None:
        self._mean, self._deviation = 1.0, 0.0

    @property
    def factor(self) -> float:
        """The factor."""
        return min(_MOST_MARGIN, max(_LEAST_MARGIN, self._mean + _DEVIATIONS * self._deviation))

    def add(self, expected_s: float, took_s: float) -> None:
        """Count one wait; a short one says nothing."""
        if expected_s < _SHORT_S:
            return
        ratio = min(_MOST_MARGIN, took_s / expected_s)
        share = _LEARNS if ratio > self._mean else _FORGETS
        self._deviation += share * (abs(ratio - self._mean) - self._deviation)
        self._mean += share * (ratio - self._mean)


@dataclass
class Counts:
    """The requests that a lane refused or gave up, and its runs of several requests at once."""

    shed: int = 0
    deadline_missed: int = 0
    cancelled_queued: int = 0
    cancelled_running: int = 0
    batches: int = 0
    batched: int = 0
    """Requests that ran in batches."""


class Latch:
    """An event that is set once. ``threading.Event`` takes 2 us to make and set, also where nobody waits."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[threading.Event] = []

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake whoever waits."""
        self._is_set = True
        for event in self._waiting:
            event.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, at most so many seconds; return whether it is."""
        if not self._is_set:
            event = threading.Event()
            self._waiting.append(event)
            if not self._is_set:  # ``set`` looks at who waits only after that
                event.wait(timeout_s)
        return self._is_set


class Entry:
    """One request: some calls that run one after the other, and their results; times are monotonic seconds.

    ``rows`` is what it counts for in bounds and batches, ``joint`` what it may run in together with others.
    """

    def __init__(
        self,
        works: Sequence[Callable[[], Any]],
        kind: str,
        queued_s: float,
        *,
        timeout_s: float = 0.0,
        priority: int = 0,
        rows: int = 1,
        size_bytes: int = 0,
        client: str = "",
        joint: Joint | None = None,
        on_done: Callable[[Entry], object] | None = None,
        rescue: Callable[[Entry, BaseException], bool] | None = None,
    ) -> None:
        self.works, self.kind, self.on_done, self.rescue = works, kind, on_done, rescue
        self.rows, self.size_bytes, self.client, self.joint = rows, size_bytes, client, joint
        self.priority = priority
        self.queued_s = self.rank_s = queued_s
        """When it came, and what it is sorted by."""
        self.expected_s = 0.0
        """How long it was expected to wait in the lane."""
        self.deadline_s = queued_s + timeout_s if timeout_s else math.inf
        self.began_s = self.took_s = self.ended_s = 0.0
        """0 until it begins, and until it has ended."""
        self.results: list[Any] = []
        self.error: BaseException | None = None
        self.done = Latch()
        """Set with the results or the error."""
