"""The served models: which are loaded, and how one is loaded, replaced when lost, and unloaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from edgekit.core.errors import AcceleratorLostError, EdgekitError, UsageError
from edgekit.core.spec import version_key
from edgekit.serve.errors import HttpError
from edgekit.serve.lane import Lane
from edgekit.serve.metrics import Meter
from edgekit.serve.ports import Limits, Offer, Servable

logger = logging.getLogger(__name__)
READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"


class Entry:
    """One model by name and version, loaded or not."""

    def __init__(self, offer: Offer, limits: Limits) -> None:
        self.offer = offer
        self.servable: Servable | None = None
        self.state, self.reason = UNAVAILABLE, "not loaded yet"
        self.should_load = True
        self.failovers = 0
        self.lane = Lane(f"model-{offer.name}", limits)
        self.meter = Meter()
        self._changing = asyncio.Lock()
        self._excluded: dict[str, str] = {}
        self._failover: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered."""
        return self.state == READY and not self.lane.is_stuck

    def require(self) -> Servable:
        """Return the loaded model.

        Raises:
            HttpError: 503: it is not loaded.
        """
        if self.servable is None or self.state != READY:
            why = self.reason or "it is being loaded"
            raise HttpError(503, f"model {self.offer.name!r} is not ready: {why}", ((b"retry-after", b"1"),))
        return self.servable

    def open_first(self) -> None:
        """Load the model before there is an event loop.

        Raises:
            EdgekitError: It cannot be opened.
        """
        self.servable = self.lane.call_blocking(lambda: self.offer.open({}))
        self.state, self.reason = READY, ""

    def end(self) -> None:
        """Free the model and end its thread, once the event loop has ended; skips one that hangs."""
        servable, self.servable = self.servable, None
        if servable is not None and not self.lane.is_busy:
            self.lane.call_blocking(servable.close)
        self.lane.stop()

    async def load(self) -> None:
        """Load the model if it is not loaded; every variant may be chosen again.

        Raises:
            EdgekitError: It cannot be opened.
        """
        async with self._changing:
            self.should_load = True
            if self.state != READY:
                self._excluded.clear()
                await self._open()

    async def unload(self, reason: str = "unloaded") -> None:
        """Accept no more requests, answer those that wait, and free the model."""
        async with self._changing:
            self.should_load = False
            await self._close(reason)

    def lost(self, servable: Servable, error: AcceleratorLostError) -> None:
        """Close a model whose accelerator is lost, and open another variant of it."""
        if servable is self.servable and self.state == READY:
            self.state, self.reason = LOADING, error.message
            self._excluded[servable.variant] = f"lost its accelerator: {error.message}"
            logger.warning("%s: variant %s is lost: %s", self.offer.name, servable.variant, error)
            self._failover = asyncio.get_running_loop().create_task(self._fail_over(error.message))

    async def _fail_over(self, reason: str) -> None:
        async with self._changing:
            await self._close(reason)
            try:
                await self._open()
            except EdgekitError:
                return  # in ``reason`` and the log
            self.failovers += 1

    async def _open(self) -> None:
        self.state = LOADING
        excluded = dict(self._excluded)
        try:
            self.servable = await self.lane.call(lambda: self.offer.open(excluded))
        except EdgekitError as error:
            self.state, self.reason = UNAVAILABLE, "; ".join((error.message, *error.reasons))
            logger.exception("%s %s cannot be loaded", self.offer.name, self.offer.version)
            raise
        self.state, self.reason = READY, ""
        logger.info("%s %s: variant %s is loaded", self.offer.name, self.offer.version, self.servable.variant)

    async def _close(self, reason: str) -> None:
        servable, self.servable = self.servable, None
        self.state, self.reason = UNAVAILABLE, reason
        if servable is not None:
            await self.lane.call(servable.close)

    def status(self) -> dict[str, Any]:
        """Return this model's part of ``/status``."""
        lane = self.lane
        return {
            "name": self.offer.name,
            "version": self.offer.version,
            "state": self.state,
            "reason": self.reason,
            "stuck": lane.is_stuck,
            "failovers": self.failovers,
            "waiting": lane.depth,
            "typical_ms": {kind: round(lane.pace(kind).typical_s * 1e3, 4) for kind in ("infer", "predict")},
            "runs_on": "event loop" if lane.runs_inline("infer") else "its own thread",
            **(self.servable.status() if self.servable is not None else {}),
        }


class Models:
    """Every model of the command line, by name and version.

    Raises:
        UsageError: A name and version appear twice.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries: dict[str, dict[str, Entry]] = {}
        for entry in entries:
            versions = self._entries.setdefault(entry.offer.name, {})
            if versions.setdefault(entry.offer.version, entry) is not entry:
                raise UsageError(f"{entry.offer.name} {entry.offer.version} is named twice")

    def __iter__(self) -> Any:
        return (entry for versions in self._entries.values() for entry in versions.values())

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, oldest first."""
        return sorted(self._entries.get(name, ()), key=version_key)

    def find(self, name: str, version: str = "") -> Entry:
        """Return a model; without a version, its newest that was not unloaded, or its newest.

        Raises:
            HttpError: 404: there is none.
        """
        known = self._entries.get(name)
        if known is None:
            raise HttpError(404, f"there is no model {name[:64]!r}")
        if version:
            if version not in known:
                raise HttpError(404, f"model {name!r} has no version {version[:32]!r}")
            return known[version]
        newest = sorted(known.values(), key=lambda e: (e.should_load, version_key(e.offer.version)))
        return newest[-1]

    @property
    def is_ready(self) -> bool:
        """Whether every model that was not unloaded on purpose answers."""
        return all(entry.is_ready for entry in self if entry.should_load)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Free every model, except one that hangs for longer than ``timeout_s``."""
        tasks = [asyncio.ensure_future(entry.unload("the server ends")) for entry in self]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
