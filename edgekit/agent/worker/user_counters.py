"""The counters of one user of a model, a pipeline or a later stage of one, for each variant it ran on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgekit.agent.ipc import Progress, Running
from edgekit.agent.worker.bundle_counters import BundleCounters
from edgekit.core.ports import Result


class UserCounters:
    """Counters by version and variant; safe from any thread. ``current`` is of what runs, or is about to."""

    def __init__(self, pipeline: str, stage: str = "") -> None:
        self.current: BundleCounters | None = None
        self._pipeline, self._stage = pipeline, stage
        self._counters: dict[tuple[str, str], BundleCounters] = {}
        self._reporting = threading.Lock()
        self._reported_ns = time.monotonic_ns()

    def of(self, running: Running) -> BundleCounters:
        """Return the counters of a variant."""
        with self._reporting:
            key = (running.version, running.variant)
            counters = self._counters.setdefault(key, BundleCounters(running))
            counters.running = running
            return counters

    def of_result(self, result: Result) -> BundleCounters:
        """Return the counters of the variant that a result is from."""
        return self._counters[result.version, result.variant]

    def report(
        self,
        send: Callable[[Progress], object],
        with_more: Callable[[Progress], Progress] = lambda progress: progress,
    ) -> None:
        """Send the counts since the last report, of each version by itself, those of what runs last.

        ``with_more``: adds to these.
        """
        with self._reporting:
            if (current := self.current) is None:
                return
            for counters in list(self._counters.values()):
                if counters is not current and not counters.is_empty:
                    send(self._taken(counters))
            send(with_more(self._taken(current)))

    def _taken(self, counters: BundleCounters) -> Progress:
        now_ns = time.monotonic_ns()
        period_s, self._reported_ns = (now_ns - self._reported_ns) / 1e9, now_ns
        return counters.take(self._pipeline, period_s, self._stage)
