"""A model's lane as coroutines await it: each result comes to the event loop that asked for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgekit.base.entry import Entry
from edgekit.base.joint import Joint
from edgekit.base.lane import Lane
from edgekit.serve.errors import ClientGoneError

T = TypeVar("T")


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


class Awaited:
    """A request that waits for a lane; await ``future``, then call ``end``.

    ``future`` raises ``LateError`` once the timeout has passed, ``ClientGoneError`` after ``cancel``, or what
    the work raises.

    Raises:
        BusyError: Too much waits, or it cannot end within the timeout.
    """

    def __init__(self, lane: Lane, work: Callable[[], Any], terms: Terms) -> None:
        self._lane = lane
        self.future, on_done = _future()
        self.entry = lane.submit([work], on_done=on_done, **vars(terms))
        loop, timeout_s = asyncio.get_running_loop(), terms.timeout_s
        self._timer = loop.call_later(timeout_s, lane.expire, self.entry) if timeout_s else None

    def cancel(self) -> None:
        """Give it up: nobody waits for its result."""
        self._lane.cancel(self.entry)

    def end(self) -> None:
        """Free what it holds; one that has not ended is given up."""
        if self._timer is not None:
            self._timer.cancel()
        self.cancel()


async def control(lane: Lane, work: Callable[[], T], *, after_waiting: bool = False) -> T:
    """Run work that changes the model, as ``Lane.control`` does; raises what it raises."""
    future, on_done = _future()
    lane.control(work, on_done=on_done, after_waiting=after_waiting)
    result: T = await future
    return result


def _future() -> tuple[asyncio.Future[Any], Callable[[Entry], None]]:
    """Return a future, and what gives it an entry's result from any thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(entry: Entry) -> None:
        if future.done():
            return
        if entry.error is None:
            future.set_result(entry.results[0])
        elif isinstance(entry.error, concurrent.futures.CancelledError):
            future.set_exception(ClientGoneError())
        else:
            future.set_exception(entry.error)

    def on_done(entry: Entry) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, entry)

    return future, on_done
