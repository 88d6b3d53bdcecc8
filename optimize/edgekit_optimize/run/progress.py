"""Show the progress of a long run: one redrawn line on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time

logger = logging.getLogger(__name__)

_WIDTH = 24
_TERMINAL = 100


class Progress:
    """Shows the stages of a run, one after another. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_terminal = sys.stderr.isatty()
        self._title, self._total, self._done, self._began = "", 1, 0.0, time.monotonic()

    def stage(self, title: str, total: int = 1) -> None:
        """Begin a stage with ``total`` pieces of work."""
        with self._lock:
            self._clear()
            self._title, self._total, self._done = title, max(total, 1), 0.0
            self._began = time.monotonic()
            if not self._is_terminal:
                logger.info("%s%s", title, f" ({total})" if total > 1 else "")
            self._draw("")

    def step(self, what: str) -> None:
        """Report that a piece is done."""
        with self._lock:
            self._done = min(self._done + 1, float(self._total))
            if not self._is_terminal:
                logger.info("  %s%s", what, self._left())
            self._draw(what)

    def tick(self, what: str) -> None:
        """Report that a piece too small for its own log line is done."""
        with self._lock:
            self._done = min(self._done + 1, float(self._total))
            self._draw(what)

    def within(self, share: float, what: str) -> None:
        """Report the share of this stage that is done, 0 to 1."""
        with self._lock:
            self._done = share * self._total
            self._draw(what)

    def close(self) -> None:
        """Clear the line on the terminal."""
        with self._lock:
            self._clear()

    def _left(self) -> str:
        if self._done < 1 or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        return f", about {_spoken(seconds)} left"

    def _draw(self, what: str) -> None:
        if not self._is_terminal:
            return
        filled = round(_WIDTH * self._done / self._total)
        bar = "#" * filled + "-" * (_WIDTH - filled)
        line = f"[{bar}] {self._title} {what}{self._left()}"
        sys.stderr.write(f"\r{line[:_TERMINAL]:<{_TERMINAL}}")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._is_terminal:
            sys.stderr.write("\r" + " " * _TERMINAL + "\r")
            sys.stderr.flush()


def _spoken(seconds: float) -> str:
    """Return a duration in words.

    >>> _spoken(8.2), _spoken(95), _spoken(4000)
    ('8 s', '1 min 35 s', '67 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 60:.0f} min"
