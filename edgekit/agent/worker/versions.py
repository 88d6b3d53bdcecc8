"""The updates of a pipeline's model as its sinks see them; the supervisor has them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

from edgekit.agent.ipc import Asked, Offered
from edgekit.core.ports import Versions


class OfferedVersions:
    """Satisfies ``edgekit.core.ports.Updates``; safe from any thread."""

    def __init__(self, pipeline: str, send: Callable[[Any], None]) -> None:
        self._pipeline, self._send = pipeline, send
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], object]] = []
        self._versions: Versions | None = None

    def versions(self) -> Versions | None:
        """Return what the supervisor said last."""
        return self._versions

    def ask(self, action: Literal["install", "rollback"]) -> None:
        """Pass a request on to the supervisor, which decides."""
        self._send(Asked(pipeline=self._pipeline, action=action))

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call ``watcher`` after each change, and have the supervisor say what there is."""
        with self._lock:
            self._watchers.append(watcher)
        self._send(Asked(pipeline=self._pipeline, action="versions"))

        def unwatch() -> None:
            with self._lock:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

        return unwatch

    def take(self, message: Offered) -> None:
        """Keep what the supervisor says, and call the watchers."""
        self._versions = Versions(message.model, message.installed, message.latest, message.is_busy)
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()
