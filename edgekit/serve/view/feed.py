"""The frames of one pipeline for everybody who watches it: each is encoded once, and not too often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from edgekit.serve.view.ports import Shown, View

MOST_PER_S = 12.0
"""Frames that are encoded in a second, however many watch: an eye sees motion from 10 on."""
WAIT_S = 10.0


class Feed:
    """Gives watchers the newest frame; belongs to one event loop.

    ``is_closing()``: whether nobody is to wait any longer; looked at after each frame.
    """

    def __init__(
        self, view: View, is_closing: Callable[[], bool] = lambda: False, most_per_s: float = MOST_PER_S
    ) -> None:
        self._view, self._is_closing, self._pause_s = view, is_closing, 1 / most_per_s
        self._lock = asyncio.Lock()
        self._shown: Shown | None = None
        self._at_s = float("-inf")

    async def after(self, number: int, wait_s: float = WAIT_S) -> Shown | None:
        """Return a frame that is newer than ``number``, or None if none comes within ``wait_s``.

        A number that is above the newest one is of an earlier run, and as good as 0.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        async with woken(self._view) as changed:
            while (left_s := until_s - loop.time()) > 0 and not self._is_closing():
                changed.clear()
                number = number if number <= self._view.number else 0
                if (shown := await self._newer(number)) is not None:
                    return shown
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), left_s)
        return None

    async def _newer(self, number: int) -> Shown | None:
        loop = asyncio.get_running_loop()
        async with self._lock:
            age_s = loop.time() - self._at_s
            is_newest = self._shown is not None and self._shown.number == self._view.number
            if (
                self._shown is not None
                and self._shown.number > number
                and (age_s < self._pause_s or is_newest)
            ):
                return self._shown  # encoded for another watcher
            if age_s < self._pause_s:
                await asyncio.sleep(self._pause_s - age_s)
            shown = await asyncio.to_thread(self._view.frame) if self._view.number > number else None
            if shown is None or shown.number <= number:
                return None
            self._shown, self._at_s = shown, loop.time()
            return shown


@contextlib.asynccontextmanager
async def woken(view: View) -> AsyncIterator[asyncio.Event]:
    """Yield what is set after each frame."""
    changed, loop = asyncio.Event(), asyncio.get_running_loop()
    with view.watched(lambda: loop.call_soon_threadsafe(changed.set)):
        yield changed
