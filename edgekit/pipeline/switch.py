"""Whether a pipeline takes frames: turned by its sinks, read by its loop, kept over restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from edgekit.base.kept import keep, read_kept

_LOSS = "a pipeline that was switched off is on again"


class Switch:
    """On by default; safe from any thread.

    Args:
        path: The file that keeps it; None keeps it nowhere.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._watchers: list[Callable[[], object]] = []
        self.is_on = True if path is None else read_kept(path, bool, True, _LOSS)

    def turn(self, *, on: bool) -> None:
        """Turn it on or off, and call the watchers if that is a change."""
        with self._changed:
            if on == self.is_on:
                return
            self.is_on = on
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                keep(self._path, on, _LOSS)
            self._changed.notify_all()
        for watcher in list(self._watchers):
            watcher()

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call ``watcher`` after each change, on its thread; return a function that ends this."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher) if watcher in self._watchers else None

    def wait_on(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` until it is on; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_on, timeout_s)
