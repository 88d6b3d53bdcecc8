"""The served models: which are loaded, and how one is loaded, replaced when lost, and unloaded."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from edgekit.base.entry import Bounds
from edgekit.base.entry import Entry as LaneEntry
from edgekit.base.lane import Lane
from edgekit.core.errors import AcceleratorLostError, EdgekitError, UsageError
from edgekit.core.spec import version_key
from edgekit.serve.batching import Batching
from edgekit.serve.cache import Cache
from edgekit.serve.errors import HttpError
from edgekit.serve.lane import WayBack, control
from edgekit.serve.metrics import Meter, ShadowCounts
from edgekit.serve.ports import Held, Limits, Offer, RequestLane, Servable
from edgekit.serve.refusals import Refusals
from edgekit.serve.sequences import Sequences
from edgekit.serve.tensors import FloatReader

logger = logging.getLogger(__name__)
T = TypeVar("T")
_NAMED = 5
END_S = 1.0
READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"


class Entry:
    """One model by name and version, loaded or not.

    Its model changes on its lane's thread: each request runs on what is there when its turn comes.

    Args:
        offer: The model.
        limits: The bounds.
        lane: The lane of a model that its owner uses for something else too, and closes.
        on_change: Called after each change of what runs or of ``state``, in whichever thread changed it.
    """

    def __init__(
        self,
        offer: Offer,
        limits: Limits,
        lane: Lane | None = None,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.offer = offer
        self.servable: Servable | None = None
        self.state, self.reason = UNAVAILABLE, "not loaded yet"
        self.should_load = True
        self.failovers = self.returns = 0
        self.is_own = lane is None
        """Whether nobody else uses the model."""
        bounds = Bounds(limits.waiting, limits.held_bytes, limits.stuck_s, limits.inline_s)
        self._changes = lane or Lane(f"model-{offer.name}", bounds)
        self.lane: RequestLane = self._changes
        """Where requests wait."""
        self.batching = Batching(self._changes, self.run)
        self.meter = Meter()
        self.shadow: ShadowCounts | None = None
        """What came of comparing its answers; None where no version is in the shadow."""
        self.cache: Cache | None = None
        """Answers of the model that runs; None where none are kept."""
        self.sequences = Sequences(limits.sequences, limits.sequence_idle_s)
        self.refusals, self.way_back = Refusals(self.lane), WayBack()
        self.floats = FloatReader()
        """Of requests written as JSON; used on the lane."""
        self._limits, self._on_change = limits, on_change
        self._held: Held | None = None
        self._changing = asyncio.Lock()
        self._stating = threading.Lock()  # of what is held and the state: an unload may come in between

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered."""
        return self.state == READY and not self.lane.is_stuck

    @property
    def is_held(self) -> bool:
        """Whether it is open, or looks by itself for a variant that can be."""
        return self._held is not None

    def require(self) -> Servable:
        """Return the loaded model.

        Raises:
            HttpError: 503: it is not loaded.
        """
        if self.servable is None or self.state != READY:
            raise self._not_ready()
        return self.servable

    def run(self, work: Callable[[Servable], T]) -> T:
        """Give work the model that is loaded now; called through the lane.

        A model whose accelerator is lost then is closed, and another variant of it opened.

        Raises:
            HttpError: 503: none is loaded.
            EdgekitError: What the work raises.
        """
        servable = self.servable
        if servable is None:
            raise self._not_ready()
        try:
            return work(servable)
        except AcceleratorLostError as error:
            if servable is self.servable and self.state == READY:
                self.state, self.reason = LOADING, error.message
                self._changes.control(
                    functools.partial(self._fail_over, servable, error), on_done=require_no_bug
                )
                self._on_change()
            raise

    def hold(self, held: Held) -> None:
        """Answer with what its owner has open, until the next call; on the lane's thread."""
        self._held = held
        self.use(held.servable)

    def use(self, servable: Servable) -> None:
        """Answer with this from now on; called on the lane's thread."""
        self.servable, self.state, self.reason = servable, READY, ""
        self.cache = self._cache_for(servable)
        self.sequences.forget()
        self.batching.use(servable)
        logger.info("%s %s: variant %s runs", self.offer.name, self.offer.version, servable.variant)
        self._on_change()

    def _cache_for(self, servable: Servable) -> Cache | None:
        limits = self._limits
        if not limits.cache_bytes or servable.keeps_state:
            return None
        return Cache(limits.cache_bytes, limits.cache_s, self.meter, limits.cache_stale_s)

    async def load(self) -> None:
        """Load the model if it is not loaded; every variant may be chosen again.

        Raises:
            EdgekitError: It cannot be opened.
        """
        async with self._changing:
            self.should_load = True
            if self.state != READY:
                await self._close("it is loaded again")
                self.state = LOADING
                await control(self._changes, self.open)

    async def unload(self, reason: str = "unloaded") -> None:
        """Accept no more requests, answer those that wait, and free the model.

        Raises:
            HttpError: 409: the model is its owner's.
        """
        if not self.is_own:
            raise HttpError(409, f"model {self.offer.name!r} is in use by pipelines of the agent")
        async with self._changing:
            self.should_load = False
            await self._close(reason)

    def end(self) -> None:
        """Free the model and end its thread, once the event loop has ended; skips one that hangs."""
        held, self._held, self.servable = self._held, None, None
        if held is not None:
            self._changes.control(lambda: self._free(held)).done.wait(END_S)
        if self.is_own:
            self._changes.close()

    async def _close(self, reason: str) -> None:
        with self._stating:
            held, self._held = self._held, None
            self.state, self.reason = UNAVAILABLE, reason
        if held is not None:
            await control(self._changes, functools.partial(self._free, held), after_waiting=True)

    def _not_ready(self) -> HttpError:
        why = self.reason or "it is being loaded"
        message = f"model {self.offer.name!r} is not ready: {why}"
        return HttpError(503, message, ((b"retry-after", b"1"),))

    # -- the lane's thread

    def open(self) -> None:
        """Open the model, and answer with it.

        Raises:
            EdgekitError: It cannot be opened.
        """
        try:
            held = self.offer.open()
        except EdgekitError as error:
            self._failed(error)
            raise
        self._held = held
        self.use(held.servable)
        held.watch(lambda new: self._changes.call(functools.partial(self._return_to, held, new)))

    def lose(self, error: EdgekitError) -> None:
        """Replace what runs, because of a wrong answer to a golden sample; on the lane's thread."""
        if (servable := self.servable) is not None:
            self.state, self.reason = LOADING, error.one_line()
            self._on_change()
            self._fail_over(servable, error)

    def abandon(self, reason: str) -> None:
        """Give up what runs, since it hangs; it is freed if its thread ever comes back."""
        with self._stating:
            held, self._held = self._held, None
            self.state, self.reason = UNAVAILABLE, reason
        if held is not None:
            self._changes.control(functools.partial(self._free, held), on_done=require_no_bug)

    def _fail_over(self, lost: Servable, error: EdgekitError) -> None:
        held = self._held
        if held is None:  # unloaded meanwhile
            return
        try:
            new = held.fail_over(lost, error)
        except EdgekitError as raised:
            with self._stating:
                if self._held is held:
                    self._failed(raised)
            return
        with self._stating:
            if self._held is held:
                self.failovers += 1
                self.use(new)
            else:  # what still waits has no model: unloading closes the new variant too
                self.servable = None

    def _return_to(self, held: Held, new: Servable) -> None:
        """Run a variant that works again."""
        with self._stating:
            if self._held is held:
                self.returns += 1
                self.use(new)

    def _failed(self, error: EdgekitError) -> None:
        self.servable = self.cache = None
        self.batching.use(None)
        self.state, self.reason = UNAVAILABLE, error.one_line()
        logger.error("%s %s cannot be loaded: %s", self.offer.name, self.offer.version, error)
        self._on_change()

    def _free(self, held: Held) -> None:
        self.servable = self.cache = None
        self.batching.use(None)
        self._on_change()
        held.close()

    def replicas(self) -> list[dict[str, Any]]:
        """Return a row for each replica of ``/status`` and the metrics; none for a model without."""
        return []

    def status(self) -> dict[str, Any]:
        """Return this model's part of ``/status``."""
        lane, cache = self.lane, self.cache
        return {
            "name": self.offer.name,
            "version": self.offer.version,
            "state": self.state,
            "reason": self.reason,
            "stuck": lane.is_stuck,
            "failovers": self.failovers,
            "returns": self.returns,
            **(self._held.status() if self._held is not None else {}),
            "waiting": lane.depth,
            "batch": self.batching.status(),
            "typical_ms": {kind: round(lane.pace(kind).typical_s * 1e3, 4) for kind in ("infer", "predict")},
            "runs_on": "event loop" if lane.is_quick("infer") and not cache else "its own thread",
            "cache": cache.status() if cache is not None else None,
            "shadow": self.shadow.status() if self.shadow is not None else None,
            **(self.servable.status() if self.servable is not None else {}),
        }


def require_no_bug(entry: LaneEntry) -> None:
    """Log what work that nobody waits for raised."""
    if entry.error is not None:
        logger.critical("a change of a model ended in a bug", exc_info=entry.error)


class Models:
    """Every model of the command line, by name and version.

    Raises:
        UsageError: A name and version appear twice.
    """

    def __init__(self, entries: Iterable[Entry], more_metrics: Callable[[], str] = str) -> None:
        self.more_metrics = more_metrics
        """Returns samples of what else runs in this process, for ``/metrics``."""
        self._entries: tuple[Entry, ...] = ()
        for entry in entries:
            if self.has(entry.offer.name, entry.offer.version):
                raise UsageError(f"{entry.offer.name} {entry.offer.version} is named twice")
            self.add(entry)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every model; another tuple after each change."""
        return self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def add(self, entry: Entry) -> None:
        """Serve one more; of two that have the same name and version the first answers."""
        self._entries = (*self._entries, entry)

    def remove(self, entry: Entry) -> None:
        """Serve one no more."""
        self._entries = tuple(each for each in self._entries if each is not entry)

    def has(self, name: str, version: str) -> bool:
        """Return whether there is such a model."""
        return any((each.offer.name, each.offer.version) == (name, version) for each in self._entries)

    def find(self, name: str, version: str = "") -> Entry:
        """Return a model; without a version, its newest that was not unloaded, or its newest.

        Raises:
            HttpError: 404: there is none.
        """
        known = [each for each in self._entries if each.offer.name == name]
        if not known:
            raise HttpError(404, f"there is no model {name[:64]!r}{self._names()}")
        if version:
            known = [each for each in known if each.offer.version == version]
            if not known:
                raise HttpError(404, f"model {name!r} has no version {version[:32]!r}")
        return max(known, key=lambda each: (each.should_load, version_key(each.offer.version)))

    def _names(self) -> str:
        """Return a phrase with some names: a bundle's folder may have another name than its model."""
        names = list(dict.fromkeys(each.offer.name for each in self._entries))
        return (
            f"; served are {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
            if names
            else ""
        )

    @property
    def is_ready(self) -> bool:
        """Whether every model that was not unloaded on purpose answers."""
        return all(entry.is_ready for entry in self if entry.should_load)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Free every model, except one that hangs for longer than ``timeout_s``."""
        own = [entry for entry in self if entry.is_own]
        tasks = [asyncio.ensure_future(entry.unload("the server ends")) for entry in own]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
