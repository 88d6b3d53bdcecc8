"""Sends ledger entries of a worker's own brokers to the supervisor, which owns the ledger.

A worker does not write the ledger itself: native code may kill it before entries are written, and only one
process may move a damaged file aside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from edgekit.agent.ipc import LedgerEntry, LedgerOut

Decision: TypeAlias = Literal["passed", "refused"]


class LedgerRelay:
    """Sums decisions of the gate until ``flush``; satisfies ``edgekit.sync.gate.Books``. Thread-safe."""

    def __init__(self, pipeline: str, send: Callable[[Any], None]) -> None:
        self._pipeline, self._send = pipeline, send
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str, Decision], list[int]] = {}

    def add(
        self, pipeline: str, data_class: str, destination: str, decision: Decision, size: int, count: int = 1
    ) -> None:
        """Count decisions about data of this relay's ``pipeline``."""
        del pipeline
        with self._lock:
            tally = self._waiting.setdefault((data_class, destination, decision), [0, 0])
            tally[0] += count
            tally[1] += size

    def flush(self) -> None:
        """Send the sums.

        Raises:
            LinkError: The supervisor is gone.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        if waiting:
            entries = tuple(LedgerEntry(*key, *tally) for key, tally in waiting.items())
            self._send(LedgerOut(pipeline=self._pipeline, entries=entries))
