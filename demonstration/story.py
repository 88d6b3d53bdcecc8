"""Tells the story as it happens: one line for each step, with the time since the start."""

from __future__ import annotations

import sys
import time


class Story:
    """Writes progress lines to standard error, so that standard output stays the summary's."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        print(f"\n[{self.seconds:5.0f} s] {title}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Tell one thing that happened."""
        print(f"          {line}", file=sys.stderr, flush=True)
