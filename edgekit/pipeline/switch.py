"""Whether a pipeline takes frames, and which profile it has: kept over restarts, with the reason.

Its sinks, the page, the agent and the schedule all turn this one switch; the loop reads it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.base.kept import keep, read_kept
from edgekit.core.errors import UsageError

if TYPE_CHECKING:  # a worker without profiles has the memory
    from edgekit.pipeline.profiles import ProfileTable

logger = logging.getLogger(__name__)
_LOSS = "a pipeline that was switched off is on again"


class Turned(msgspec.Struct, frozen=True, kw_only=True):
    """How a switch stands, since when, why, and with which profile; ``is_chosen``: by hand."""

    is_on: bool = True
    why: str = ""
    since_unix_ms: int = 0
    profile: str = ""
    is_chosen: bool = False


class Switch:
    """On by default; safe from any thread.

    Args:
        path: The file that keeps it; None keeps it nowhere.
        profiles: What it can be turned to, beside on and off.
        retune: Called with a profile's score threshold, where it has one.
    """

    def __init__(
        self,
        path: Path | None = None,
        profiles: Sequence[ProfileTable] = (),
        retune: Callable[[float], object] = lambda _threshold: None,
    ) -> None:
        self._path, self._retune = path, retune
        self.profiles = {row.name: row for row in profiles}
        self._changed = threading.Condition()
        self._watchers: list[Callable[[], object]] = []
        self._tuned = ""
        self.turned = Turned() if path is None else read_kept(path, Turned, Turned(), _LOSS)

    @property
    def is_on(self) -> bool:
        """Whether the pipeline takes frames."""
        return self.turned.is_on

    @property
    def words(self) -> tuple[str, ...]:
        """What ``command`` takes."""
        return ("on", "off", *(("auto", *self.profiles) if self.profiles else ()))

    def document(self) -> dict[str, Any]:
        """Return how it stands, for ``status``; empty where nobody ever turned it."""
        return msgspec.to_builtins(self.turned) if self.turned.since_unix_ms else {}

    def turn(self, *, on: bool, why: str = "") -> None:
        """Turn it on or off, and call the watchers if that is a change."""
        self._set(why=why, on=on, profile=self.turned.profile, is_chosen=self.turned.is_chosen)

    def command(self, text: str, why: str) -> None:
        """Do what a command says: ``on``, ``off``, a profile's name, or ``auto``, the schedule's profile.

        Raises:
            UsageError: It says something else.
        """
        word = text.strip().lower()
        if word in ("on", "off"):
            self.turn(on=word == "on", why=why)
        elif word in self.profiles:
            self._use(self.profiles[word], why, is_chosen=True)
        elif word == "auto" and self.profiles:
            if (due := self._due()) is not None:
                self._use(due, why, is_chosen=False)
            else:
                self._set(why=why, on=self.is_on, profile="", is_chosen=False)
        else:
            raise UsageError(f"want {', '.join(self.words)}, got {text[:40]!r}")

    def tick(self) -> None:
        """Begin the profile whose time has come; to be called often."""
        if not self.profiles:
            return
        if self.turned.is_chosen and (chosen := self.profiles.get(self.turned.profile)) is not None:
            self._tune(chosen)
            return
        due = self._due()
        if due is None:
            return
        if due.name != self.turned.profile:
            self._use(due, f"schedule, from {due.starts}", is_chosen=False)
        else:
            self._tune(due)

    def _due(self) -> ProfileTable | None:
        from edgekit.pipeline.profiles import scheduled

        return scheduled(tuple(self.profiles.values()), time.strftime("%H:%M"))

    def _use(self, profile: ProfileTable, why: str, *, is_chosen: bool) -> None:
        self._tune(profile)
        self._set(
            why=f"{why}: profile {profile.name}", on=profile.run, profile=profile.name, is_chosen=is_chosen
        )

    def _tune(self, profile: ProfileTable) -> None:
        """Decode with the profile's threshold, also after a restart with the same profile."""
        if profile.name != self._tuned and profile.score_threshold is not None:
            self._retune(profile.score_threshold)
        self._tuned = profile.name

    def _set(self, *, why: str, on: bool, profile: str, is_chosen: bool) -> None:
        with self._changed:
            old = self.turned
            if (on, profile, is_chosen) == (old.is_on, old.profile, old.is_chosen):
                return
            now_ms = time.time_ns() // 1_000_000
            self.turned = Turned(
                is_on=on, why=why, since_unix_ms=now_ms, profile=profile, is_chosen=is_chosen
            )
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                keep(self._path, self.turned, _LOSS)
            self._changed.notify_all()
        logger.info("switched %s: %s", "on" if on else "off", why or "asked for")
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
