"""Times variants in short rounds, in turn, so that the machine's noise is shared by all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from edgekit.agent.bundle import Bundle
from edgekit.agent.lab import LabProcess
from edgekit.core.errors import BackendError
from edgekit.core.spec import Profile, Variant
from edgekit.optimize.study import Timing

_ROUND_S = 0.2
_FEWEST_ROUNDS = 3


def time_in_rounds(
    bundle: Bundle,
    variants: Sequence[Variant],
    profile: Profile,
    threads: int,
    seconds: float,
    done: Callable[[str], None],
) -> dict[str, Timing | str]:
    """Run each variant in a process of its own, a fifth of a second at a time, each in its turn.

    Args:
        bundle: Where the files lie.
        variants: Those to time; each may run here.
        profile: This machine's, for the options of its backends.
        threads: CPU threads for the runtimes.
        seconds: How long each runs in all.
        done: Told each variant's id after each of its rounds.

    Returns:
        By id, the timing, or the reason why there is none.
    """
    field = _Field(bundle, profile, threads)
    try:
        for variant in variants:
            field.load(variant)
        for _ in range(rounds_of(seconds)):
            for name in field.running():
                field.run(name)
                done(name)
        for name in field.running():
            field.finish(name)
    finally:
        field.close()
    return field.found


def rounds_of(seconds: float) -> int:
    """Return how many rounds each variant runs."""
    return max(_FEWEST_ROUNDS, round(seconds / _ROUND_S))


class _Field:
    """The processes that run, and what is known of each variant."""

    def __init__(self, bundle: Bundle, profile: Profile, threads: int) -> None:
        self._bundle, self._profile, self._threads = bundle, profile, threads
        self._labs: dict[str, LabProcess] = {}
        self._rounds: dict[str, list[list[float]]] = {}
        self.found: dict[str, Timing | str] = {}

    def running(self) -> list[str]:
        return [name for name in self._labs if name not in self.found]

    def load(self, variant: Variant) -> None:
        try:
            self._labs[variant.id] = LabProcess(self._bundle, variant, self._profile, self._threads)
            self._rounds[variant.id] = []
        except BackendError as error:
            self.found[variant.id] = error.message

    def run(self, name: str) -> None:
        try:
            self._rounds[name].append(self._labs[name].measure(_ROUND_S))
        except BackendError as error:
            self.found[name] = error.message

    def finish(self, name: str) -> None:
        try:
            pre_ms = self._labs[name].pre_ms()
        except BackendError as error:
            self.found[name] = error.message
            return
        loaded, rounds = self._labs[name].loaded, self._rounds[name]
        p50, p95, p99 = _quantiles_ms([time_us for times in rounds for time_us in times])
        self.found[name] = Timing(
            profile=self._profile.id,
            threads=self._threads,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            pre_ms=pre_ms,
            load_ms=loaded["load_ms"],
            rss_mb=loaded["rss_mb"],
            noise=_spread([statistics.median(times) for times in rounds]),
            rounds=len(rounds),
            measured=time.strftime("%Y-%m-%d", time.gmtime()),
        )

    def close(self) -> None:
        for lab in self._labs.values():
            lab.close()


def _quantiles_ms(times_us: Sequence[float]) -> tuple[float, float, float]:
    ranked = sorted(times_us)
    p50, p95, p99 = (ranked[int(q * (len(ranked) - 1))] / 1e3 for q in (0.5, 0.95, 0.99))
    return p50, p95, p99


def _spread(medians: Sequence[float]) -> float:
    """Return the range of the middle half of the rounds' medians, relative to their middle."""
    ranked = sorted(medians)
    count = len(ranked)
    return (ranked[(3 * count) // 4] - ranked[count // 4]) / ranked[count // 2]
