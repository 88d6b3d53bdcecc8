"""A served model that is open on several accelerators at once, each with a lane of its own.

A replica that is lost, hangs, or gives a wrong answer to a golden sample is taken out: the others have its
requests, and it comes back once it was opened again and is right. The model answers as long as one is left.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from edgekit.base.entry import Bounds
from edgekit.base.entry import Entry as LaneEntry
from edgekit.base.lane import Lane
from edgekit.core.errors import EdgekitError
from edgekit.serve.dispatch import Dispatcher, Replica
from edgekit.serve.errors import HttpError
from edgekit.serve.lane import control
from edgekit.serve.models import LOADING, READY, UNAVAILABLE, Entry, require_no_bug
from edgekit.serve.ports import Held, HeldReplica, Limits, Offer, ReplicaOffer, Servable
from edgekit.serve.refusals import Refusals
from edgekit.serve.tensors import FloatReader

logger = logging.getLogger(__name__)
_MOST_HANGING = 4
"""Replicas that hung, with a thread and a model that cannot be freed: then none of them is opened again."""
_SHOWN = (
    *("state", "reason", "variant", "backend", "accelerator", "precision", "why", "typical_ms", "batch"),
    *("returns", "excluded", "failed_returns"),
)


class Replicated(Entry):
    """One model by name and version, with the replicas of its offer.

    Its own lane runs no model: it looks after the replicas, ten times a second.

    Args:
        offer: The model, with replicas.
        limits: The bounds, of each replica.
        needs_all: Whether the first ``load`` fails where one of them cannot be opened.
    """

    def __init__(self, offer: Offer, limits: Limits, *, needs_all: bool) -> None:
        super().__init__(offer, limits, Lane(f"replicas-{offer.name}", between=self._look))
        self.is_own, self._needs_all = True, needs_all
        self.floats = _FloatReaders()
        self._bounds = Bounds(limits.waiting, limits.held_bytes, limits.stuck_s, limits.inline_s)
        self._shared, self._opening = threading.Lock(), set[Replica]()
        self._losses = Counter[str]()
        self._hanging: list[Lane] = []
        self._offers: dict[Replica, ReplicaOffer] = {}
        self._held_by: dict[Replica, _Held] = {}
        for each in offer.replicas:
            held, entry, lane = self._made(each)
            replica = Replica(each.name, entry, lane, held.doubt)
            self._offers[replica], self._held_by[replica] = each, held
        self._dispatcher = Dispatcher(tuple(self._offers), self._not_ready)
        self.lane, self.refusals = self._dispatcher, Refusals(self._dispatcher)

    def _made(self, offer: ReplicaOffer) -> tuple[_Held, Entry, Lane]:
        """Return what a replica begins with, and has after it hung."""
        held = _Held(offer, lambda: self.should_load, lambda: self._losses.update([offer.name]))
        lane = Lane(f"model-{self.offer.name}-{offer.name}", self._bounds, held.between, lock=self._shared)
        limits = msgspec.structs.replace(self._limits, cache_bytes=0)
        one = Offer(self.offer.name, self.offer.version, held.open)
        held.entry = Entry(one, limits, lane, self._changed)
        held.entry.is_own = True
        return held, held.entry, lane

    @property
    def is_held(self) -> bool:
        """Whether one of them is open, or looks by itself whether it can be."""
        return any(replica.entry.is_held for replica in self._offers)

    # -- what its owner asks of it

    async def load(self) -> None:
        """Open every replica that is not open.

        Raises:
            EdgekitError: None can be opened; or, the first time, not all.
        """
        async with self._changing:
            if not self.should_load:
                for offer in self._offers.values():
                    offer.forget()
            self.should_load = True
            tried = [(replica.name, await _error_of(replica.entry.load)) for replica in self._offers]
            errors = [(name, error) for name, error in tried if error is not None]
            if errors and (self._needs_all or self.state != READY):
                raise self._failure(errors)
            self._needs_all = False
            self._changed()
            self._changes.control(lambda: None)  # from now on it looks

    def _failure(self, errors: list[tuple[str, EdgekitError]]) -> EdgekitError:
        (name, first), *others = errors
        message = f"{self.offer.name} {self.offer.version}: replica {name!r}: {first.message}"
        more = tuple(f"replica {other!r}: {error.one_line()}" for other, error in others)
        return type(first)(message, reasons=(*first.reasons, *more), hint=first.hint)

    async def unload(self, reason: str = "unloaded") -> None:
        """Accept no more requests, answer those that wait, and free every replica."""
        async with self._changing:
            self.should_load = False
            self.state, self.reason = UNAVAILABLE, reason
            for replica in self._offers:
                await control(replica.lane, lambda: None)  # what is being opened is open then, and closed
                await replica.entry.unload(reason)
            self.servable = self.cache = None

    def end(self) -> None:
        """Free every replica and end its thread, once the event loop has ended; skips one that hangs."""
        self.should_load = False
        self._changes.close()
        for replica in self._offers:
            replica.entry.end()

    # -- changes, in whichever thread they happen

    def _changed(self) -> None:
        """Have others answer for a replica that is not ready; answer, or not, with what is."""
        if not self.should_load:
            return
        with self._stating:
            entries = [replica.entry for replica in self._offers]
            ready = [entry.servable for entry in entries if entry.state == READY]
            self.servable = next(iter(ready), None)
            self.cache = self._cache_for(self.servable) if self.servable is not None else None
            states = {LOADING if self._needs_all else entry.state for entry in entries}
            self.state = next(state for state in (READY, LOADING, UNAVAILABLE) if state in states)
            self.reason = "" if ready else "; ".join(f"{r.name}: {r.entry.reason}" for r in self._offers)
            self.failovers = self._losses.total()
            self.returns = sum(entry.returns for entry in entries)
        for replica in self._offers:
            if replica.entry.state != READY:
                self._dispatcher.leave(replica)

    # -- its own lane's thread

    def _look(self, _: int) -> bool:
        if not self.should_load:
            return False
        for replica, offer in self._offers.items():
            if replica.entry.state == READY and replica.lane.is_stuck:
                if any(each.is_ready for each in self._offers):
                    self._give_up(replica, offer)
            elif not replica.entry.is_held and replica not in self._opening and self._may_open(offer):
                self._opening.add(replica)
                work, tried = (functools.partial(each, replica) for each in (self._reopen, self._tried))
                replica.lane.control(work, on_done=tried)
        return False

    def _may_open(self, offer: ReplicaOffer) -> bool:
        hanging = [lane for lane in self._hanging if lane.is_busy]
        return len(hanging) < _MOST_HANGING and time.monotonic() >= offer.due_s

    def _give_up(self, replica: Replica, offer: ReplicaOffer) -> None:
        """Take out a replica that hangs: its thread, and what it has open, may not end before the process."""
        reason = f"an inference took longer than {self._limits.stuck_s:g} s"
        logger.error("%s: replica %s is taken out: %s", self.offer.name, replica.name, reason)
        old = replica.entry
        self._hanging = [*(lane for lane in self._hanging if lane.is_busy), replica.lane]
        self._losses[offer.name] += 1
        self._held_by[replica].rest()
        old.abandon(reason)
        offer.lost(reason)
        held, entry, lane = self._made(offer)
        entry.state, entry.reason, entry.returns = UNAVAILABLE, reason, old.returns
        self._held_by[replica], replica.doubt = held, held.doubt
        error = HttpError(503, f"{self.offer.name!r}, replica {replica.name}: {reason}")
        self._dispatcher.give_up(replica, entry, lane, error)
        self._changed()

    def _reopen(self, replica: Replica) -> None:
        if replica.entry.is_held:
            return
        with contextlib.suppress(EdgekitError):  # it is the replica's state, and in the log
            replica.entry.open()
            replica.entry.returns += 1
            self._changed()

    def _tried(self, replica: Replica, entry: LaneEntry) -> None:
        self._opening.discard(replica)
        require_no_bug(entry)

    # -- what can be seen of it

    def replicas(self) -> list[dict[str, Any]]:
        """Return a row for each replica."""
        return [
            {
                "name": replica.name,
                "variant": "",
                "ready": replica.is_ready,
                "outstanding": replica.outstanding,
                "answered": replica.answered,
                "moved": replica.moved,
                "losses": self._losses[replica.name],
                **{name: row[name] for name in _SHOWN if name in (row := replica.entry.status())},
            }
            for replica in self._offers
        ]

    def status(self) -> dict[str, Any]:
        """Return this model's part of ``/status``: the first ready replica's, with a row for each."""
        rows = self.replicas()
        counts, most = self.lane.counts, max(row["batch"]["most"] for row in rows)
        batch = {"most": most, "why": "see replicas", "batches": counts.batches, "requests": counts.batched}
        return {**super().status(), "batch": batch, "runs_on": "a thread of each replica", "replicas": rows}


async def _error_of(load: Callable[[], Awaitable[None]]) -> EdgekitError | None:
    try:
        await load()
    except EdgekitError as error:
        return error
    return None


class _FloatReaders(threading.local, FloatReader):
    """A reader for each thread."""


class _Held:
    """What a replica has open, as its entry holds it; also what its lane does between two requests.

    Args:
        offer: How it is opened.
        is_wanted: Whether it may be open.
        on_lost: Called each time that it is taken out.
    """

    entry: Entry

    def __init__(
        self, offer: ReplicaOffer, is_wanted: Callable[[], bool], on_lost: Callable[[], object]
    ) -> None:
        self._offer, self._is_wanted, self._on_lost = offer, is_wanted, on_lost
        self._held: HeldReplica | None = None

    def _require(self) -> HeldReplica:
        assert self._held is not None
        return self._held

    def open(self) -> Held:
        """Open it, unless it is open; raises ``EdgekitError``."""
        if self._held is None:
            if not self._is_wanted():
                raise EdgekitError("the model was unloaded")
            self._held = self._offer.open()
        return self

    def between(self, waiting: int) -> bool:
        """Check its golden samples again if it is time, and take it out where it is wrong."""
        if self._held is None or self.entry.state != READY:
            return False
        try:
            return self._held.recheck(waiting)
        except EdgekitError as error:
            self.entry.lose(error)
            return False

    def doubt(self) -> None:
        """Check its golden samples soon."""
        if self._held is not None:
            self._held.doubt()

    def rest(self) -> None:
        """Open nothing any more."""
        if self._held is not None:
            self._held.rest()

    # -- as what its entry holds

    @property
    def servable(self) -> Servable:
        return self._require().servable

    def fail_over(self, lost: Servable, error: EdgekitError) -> Servable:
        self._on_lost()
        return self._require().fail_over(lost, error)

    def watch(self, switch: Callable[[Servable], object]) -> None:
        self._require().watch(switch)

    def status(self) -> dict[str, Any]:
        return self._require().status()

    def close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()
