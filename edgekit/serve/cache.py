"""A served model's answers that are kept: the same request is not run again.

Keys are hashes of what a request asks the model, without its id, deadline and priority. A model that is
replaced gets a new cache, so no answer outlives what gave it. Off by default: then a request costs one
comparison more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from edgekit.core.errors import EdgekitError, LateError
from edgekit.serve.body import Receive, hung_up
from edgekit.serve.errors import ClientGoneError, HttpError
from edgekit.serve.metrics import Meter
from edgekit.serve.reply import Done, Reply

logger = logging.getLogger(__name__)
T = TypeVar("T")
Run = Callable[[], Awaitable[Done]]
HIT = b"edgekit; hit"
"""Of an answer that was kept; with a negative ``ttl`` once it is stale. Source: RFC 9211, 2.1 and 2.5."""
_LARGE_BYTES = 64 << 10
_REFRESHES = 4
"""Stale answers that are made anew at once: each holds its request's body until it ends."""


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
        keep_s: How long one is fresh.
        stale_s: How much longer one is given, while it is made anew. Source: RFC 5861, 3.
        meter: Counts hits and misses.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        most_bytes: int,
        keep_s: float,
        meter: Meter,
        stale_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_bytes, self._keep_s, self._stale_s = most_bytes, keep_s, stale_s
        self._meter, self._clock = meter, clock
        self._refreshes: set[asyncio.Task[None]] = set()
        self._answers: OrderedDict[bytes, _Kept] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[_Kept | None]] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def status(self) -> dict[str, int]:
        """Return its part of ``/status``."""
        stale, failed = self._meter.stale_hits, self._meter.failed_refreshes
        return {
            "answers": len(self),
            "bytes": self.held_bytes,
            "stale_hits": stale,
            "failed_refreshes": failed,
        }

    async def answer(
        self, work: Repeatable, run: Run, refresh: Run, timeout_s: float, receive: Receive
    ) -> Done:
        """Return the answer to a request: a kept one, that of an equal request which runs, or by ``run``.

        Where an equal one fails, it is run all the same. ``refresh`` runs ``work`` after a stale answer.

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
            done = await self._hit(work, kept, began_s)
            if kept.until_s <= began_s:
                self._meter.stale_hits += 1
                self._begin_refresh(key, work, refresh)
            return done
        self._meter.miss_s += self._clock() - began_s
        return await self._first(key, work, run)

    async def _hit(self, work: Repeatable, kept: _Kept, began_s: float) -> Done:
        value = kept.value
        done = await _aside(kept.size_bytes, lambda: work.again(value))
        self._meter.hits += 1
        self._meter.hit_s += self._clock() - began_s
        reply = done.reply
        left_s = kept.until_s - began_s
        mark = HIT if left_s > 0 else b"%b; ttl=%d" % (HIT, math.floor(left_s))
        marked = Reply(reply.body, reply.status, (*reply.headers, (b"cache-status", mark)))
        return msgspec.structs.replace(done, reply=marked, is_kept=True)

    def _begin_refresh(self, key: bytes, work: Repeatable, refresh: Run) -> None:
        """Make a stale answer anew, unless that is done already, or for too many others."""
        if key not in self._flights and len(self._refreshes) < _REFRESHES:
            task = asyncio.get_running_loop().create_task(self._refresh(self._fly(key, work, refresh)))
            self._refreshes.add(task)
            task.add_done_callback(self._refreshes.discard)

    async def _refresh(self, flying: Awaitable[Done]) -> None:
        try:
            await flying
        except (EdgekitError, HttpError, ClientGoneError) as cause:
            self._meter.failed_refreshes += 1
            logger.warning("a stale answer could not be made anew: %s", cause)
        except Exception:
            self._meter.failed_refreshes += 1
            logger.exception("making a stale answer anew ended in a bug")  # a task of its own would hide it

    async def _first(self, key: bytes, work: Repeatable, run: Run) -> Done:
        self._meter.misses += 1
        return await self._fly(key, work, run)

    def _fly(self, key: bytes, work: Repeatable, run: Run) -> Awaitable[Done]:
        """Run work, keep what it gives, and hand it to the equal requests that wait, from this call on."""
        self._flights[key] = asyncio.get_running_loop().create_future()
        return self._flown(key, work, run)

    async def _flown(self, key: bytes, work: Repeatable, run: Run) -> Done:
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
            self._flights.pop(key).set_result(kept)

    def _find(self, key: bytes) -> _Kept | None:
        kept = self._answers.get(key)
        if kept is None:
            return None
        if kept.until_s + self._stale_s <= self._clock():
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return kept

    def _put(self, key: bytes, kept: _Kept) -> None:
        if kept.size_bytes > self._most_bytes:
            return
        if key in self._answers:
            self._drop(key)
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
