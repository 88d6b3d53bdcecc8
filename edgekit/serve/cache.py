"""A served model's answers that are kept: the same request is not run again.

Keys are hashes of what a request asks the model, without its id, deadline and priority. A model that is
replaced gets a new cache, so no answer outlives what gave it. Off by default: then a request costs one
comparison more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from edgekit.core.errors import LateError
from edgekit.serve.body import Receive, hung_up
from edgekit.serve.errors import ClientGoneError
from edgekit.serve.metrics import Meter
from edgekit.serve.reply import Done, Reply

T = TypeVar("T")
HIT = (b"cache-status", b"edgekit; hit")
"""Of an answer that was kept. Source: RFC 9211."""
_LARGE_BYTES = 64 << 10


class Repeatable(Protocol):
    """A request's work whose result can be kept."""

    kept: Any
    """Its result once it ran, if ``keeps`` was set."""
    keeps: bool

    @property
    def size_bytes(self) -> int:
        """Its length."""

    def key(self) -> bytes:
        """Return a hash of what it asks, empty where it must run each time."""

    def again(self, kept: Any) -> Done:
        """Return its answer, given the result of an equal one."""

    def kept_bytes(self) -> int:
        """Return the memory that ``kept`` takes."""


class _Kept(msgspec.Struct, frozen=True):
    value: Any
    size_bytes: int
    until_s: float


class Cache:
    """The kept answers of one model; used in one event loop. Of too many, the least recently used goes first.

    Args:
        most_bytes: The memory of all answers.
        keep_s: How long one is kept.
        meter: Counts hits and misses.
        clock: Monotonic seconds.
    """

    def __init__(
        self, most_bytes: int, keep_s: float, meter: Meter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes, self._keep_s, self._meter, self._clock = most_bytes, keep_s, meter, clock
        self._answers: OrderedDict[bytes, _Kept] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[_Kept | None]] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    async def answer(
        self, work: Repeatable, run: Callable[[], Awaitable[Done]], timeout_s: float, receive: Receive
    ) -> Done:
        """Return the answer to a request: a kept one, that of an equal request which runs, or by ``run``.

        Where an equal one fails, it is run all the same.

        Raises:
            LateError: ``timeout_s`` (0: never) passed while an equal request ran.
            ClientGoneError: The client hung up meanwhile.
        """
        began_s = self._clock()
        key = await _aside(work.size_bytes, work.key)
        if not key:
            return await run()
        kept = self._find(key)
        if kept is None and key in self._flights:
            kept = await _followed(self._flights[key], timeout_s, receive)
            if kept is None:
                return await run()
        if kept is not None:
            return await self._hit(work, kept, began_s)
        self._meter.miss_s += self._clock() - began_s
        return await self._first(key, work, run)

    async def _hit(self, work: Repeatable, kept: _Kept, began_s: float) -> Done:
        value = kept.value
        done = await _aside(kept.size_bytes, lambda: work.again(value))
        self._meter.hits += 1
        self._meter.hit_s += self._clock() - began_s
        reply = done.reply
        marked = Reply(reply.body, reply.status, (*reply.headers, HIT))
        return msgspec.structs.replace(done, reply=marked, is_kept=True)

    async def _first(self, key: bytes, work: Repeatable, run: Callable[[], Awaitable[Done]]) -> Done:
        self._meter.misses += 1
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        kept = None
        work.keeps = True
        try:
            done = await run()
            began_s = self._clock()
            kept = _Kept(work.kept, work.kept_bytes() + len(key), began_s + self._keep_s)
            self._put(key, kept)
            self._meter.miss_s += self._clock() - began_s
            return done
        finally:
            del self._flights[key]
            flight.set_result(kept)

    def _find(self, key: bytes) -> _Kept | None:
        kept = self._answers.get(key)
        if kept is None:
            return None
        if kept.until_s <= self._clock():
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return kept

    def _put(self, key: bytes, kept: _Kept) -> None:
        if kept.size_bytes > self._most_bytes:
            return
        self._answers[key] = kept
        self.held_bytes += kept.size_bytes
        while self.held_bytes > self._most_bytes:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        self.held_bytes -= self._answers.pop(key).size_bytes


async def _aside(size_bytes: int, call: Callable[[], T]) -> T:
    """Return what a call returns; a long one leaves the event loop to others."""
    if size_bytes <= _LARGE_BYTES:
        return call()
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def _followed(flight: asyncio.Future[_Kept | None], timeout_s: float, receive: Receive) -> _Kept | None:
    """Return the result of a request that runs for somebody else."""
    gone = asyncio.get_running_loop().create_task(hung_up(receive))
    try:
        either: set[asyncio.Future[Any]] = {flight, gone}
        ended, _ = await asyncio.wait(either, timeout=timeout_s or None, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if flight in ended:
        return flight.result()
    if gone in ended:
        raise ClientGoneError
    raise LateError("the timeout has passed")
