"""What the page needs of a pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Sent = Callable[[str, int], object]
"""Called with a client's address and a number of bytes once they are handed to the network."""


class Shown(NamedTuple):
    """A frame as it may leave: its number, its document as JSON, its JPEG (empty if none may leave)."""

    number: int
    head: bytes
    image: bytes
    sent: Sent


class Told(NamedTuple):
    """An event, or the figures (number 0), as they may leave, as JSON."""

    number: int
    body: bytes
    sent: Sent


class Clip(NamedTuple):
    """A kept clip that may be shown: its file."""

    path: Path
    sent: Sent


class View(Protocol):
    """One pipeline, behind redaction and the egress gate. Its methods may be called from any thread."""

    name: str

    @property
    def number(self) -> int:
        """The number of the newest frame; 0 before the first."""

    def watched(self, wake: Callable[[], object]) -> contextlib.AbstractContextManager[None]:
        """Have ``wake`` called after each frame, in another thread."""

    def frame(self) -> Shown | None:
        """Return the newest frame, encoded now; None until the next one, if nobody has asked lately."""

    def events(self, after: int) -> list[Told]:
        """Return the kept events with a number above ``after``, oldest first."""

    def figures(self) -> Told:
        """Return what runs, its rate and latency, and the settings that can be changed."""

    def shapes(self) -> Told:
        """Return the zones and lines of the pipeline's file, or why they cannot be changed here."""

    def save(self, wanted: dict[str, Any]) -> str:
        """Write zones and lines into the pipeline's file; return when they take effect.

        Raises:
            UsageError: The pipeline has no file of its own.
            ConfigError: They are not valid; the file is as before.
        """

    def clips(self, words: str) -> Told:
        """Return the newest kept clips whose events say all ``words``, or why there are none."""

    def clip(self, name: str) -> Clip:
        """Return one clip.

        Raises:
            UsageError: There is none of this name, or no picture may leave.
        """

    def change(self, wanted: dict[str, Any]) -> None:
        """Change ``score_threshold`` from the next frame on.

        Raises:
            UsageError: There is no such setting, or its value is out of range.
        """

    def turn(self, wanted: dict[str, Any]) -> None:
        """Turn the pipeline's switch to ``to``: ``on``, ``off``, a profile or ``auto``; for a ``reason``.

        Raises:
            UsageError: It cannot be turned to that.
            StorageError: It cannot be kept.
        """
