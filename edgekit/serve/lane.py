"""A model's lane as coroutines await it: each result comes to the event loop that asked for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from edgekit.base.entry import Entry, Pace
from edgekit.base.joint import Joint
from edgekit.base.lane import Lane
from edgekit.serve.errors import ClientGoneError
from edgekit.serve.ports import RequestLane, Servable

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
OnEnd = Callable[[Entry], object]


@dataclass(frozen=True)
class Terms:
    """What a request asks of a lane, as ``Lane.submit`` takes it."""

    kind: str
    timeout_s: float = 0.0
    priority: int = 0
    rows: int = 1
    size_bytes: int = 0
    client: str = ""
    joint: Joint | None = None


class WayBack:
    """Brings a lane's entries that end in any thread to the event loop that asked, all in one call.

    A batch ends several. Each call would wake the loop, which then takes the interpreter from the lane's
    thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._ended: deque[tuple[OnEnd, Entry]] = deque()
        self._is_called = False
        self._way = Pace()

    @property
    def typical_s(self) -> float:
        """How long what ends in the lane's thread typically waits for the event loop."""
        return self._way.typical_s

    def to(self, loop: asyncio.AbstractEventLoop, on_end: OnEnd) -> OnEnd:
        """Return what may be called in any thread, and calls ``on_end`` in the loop's, which calls this."""
        if loop is not self._loop:
            self._loop, self._thread = loop, threading.get_ident()

        def on_done(entry: Entry) -> None:
            if threading.get_ident() == self._thread:
                on_end(entry)
            else:
                self._ended.append((on_end, entry))
                if not self._is_called:
                    self._call()

        return on_done

    def _call(self) -> None:
        self._is_called = True
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False  # before it looks: what ends from now on calls again
        if self._ended:
            self._way.add(self._clock() - self._ended[0][1].ended_s)
        try:
            while self._ended:
                on_end, entry = self._ended.popleft()
                on_end(entry)
        finally:
            if self._ended:  # one raised
                self._call()


class Asked:
    """A request in a lane. ``on_end`` is called with its entry once it has ended, in this event loop.

    ``age_s`` and ``wake`` are as ``Lane.submit`` takes them.

    Raises:
        BusyError: Too much waits, or it cannot end within the timeout.
    """

    def __init__(
        self,
        lane: RequestLane,
        way_back: WayBack,
        work: Callable[[], Any],
        terms: Terms,
        on_end: OnEnd,
        *,
        age_s: float = 0.0,
        wake: bool = True,
    ) -> None:
        self._lane = lane
        loop = asyncio.get_running_loop()
        on_done = way_back.to(loop, on_end)
        if lane.is_busy:  # and so is the loop, which its answer will wait for
            age_s += way_back.typical_s
        self.entry = lane.submit([work], on_done=on_done, age_s=age_s, wake=wake, **vars(terms))
        left_s = terms.timeout_s - age_s
        self._timer = loop.call_later(left_s, lane.expire, self.entry) if terms.timeout_s else None

    def cancel(self) -> None:
        """Give it up: nobody waits for its result."""
        self._lane.cancel(self.entry)

    def end(self) -> None:
        """Free what it holds; one that has not ended is given up."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.entry.done.is_set():
            self.cancel()


class Awaited(Asked):
    """A request that a coroutine waits for: await ``future``, then call ``end``.

    ``future`` raises ``LateError`` once the timeout has passed, ``ClientGoneError`` after ``cancel``, or what
    the work raises.
    """

    def __init__(self, lane: RequestLane, way_back: WayBack, work: Callable[[], Any], terms: Terms) -> None:
        self.future, settle = _future()
        super().__init__(lane, way_back, work, terms, settle)


async def control(lane: Lane, work: Callable[[], T], *, after_waiting: bool = False) -> T:
    """Run work that changes the model, as ``Lane.control`` does; raises what it raises."""
    future, settle = _future()
    on_done = WayBack().to(asyncio.get_running_loop(), settle)
    lane.control(work, on_done=on_done, after_waiting=after_waiting)
    result: T = await future
    return result


class Unwritten(NamedTuple):
    """A model's outputs for one request of a batch, whose answer is written where it is awaited.

    So the lane's thread runs the next batch meanwhile.
    """

    work: Any
    servable: Servable
    outputs: Mapping[str, NDArray[Any]]
    """Copies."""
    took_s: float


def outcome_of(entry: Entry) -> tuple[Any, BaseException | None]:
    """Return the result of an entry that has ended, or why it has none.

    That is ``ClientGoneError`` where it was given up.
    """
    if entry.error is not None:
        is_given_up = isinstance(entry.error, concurrent.futures.CancelledError)
        return None, ClientGoneError() if is_given_up else entry.error
    result = entry.results[0]
    if not isinstance(result, Unwritten):
        return result, None
    try:
        return result.work.done(result.servable, result.outputs, result.took_s), None
    except Exception as error:  # noqa: BLE001 - it is raised again where the answer is awaited
        return None, error


def _future() -> tuple[asyncio.Future[Any], OnEnd]:
    """Return a future, and what gives it an entry's result."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(entry: Entry) -> None:
        if future.done():
            return
        result, error = outcome_of(entry)
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return future, settle
