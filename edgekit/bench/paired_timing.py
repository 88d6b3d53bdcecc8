"""Paired timing: variants run in short rounds, in turn, so that a busy machine slows all of them alike.

The effect of each round, shared by all variants, is removed before they are compared. Source: median polish,
Tukey, "Exploratory Data Analysis", 1977, here on logarithms. Times are given at the level of the quieter
rounds, the lower quartile, because other work only ever adds time.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.bench.variant_process import VariantProcess
from edgekit.core.errors import BackendError

ROUND_S = 0.1
_FEWEST = 4
_SWEEPS = 6


@dataclass
class Rounds:
    """The times of one variant's rounds.

    ``times_us``: microseconds of every inference, by round. ``pre_ms``: milliseconds to fill the input from
    an image, by round; empty unless requested. ``p50_ms``: the median inference in a quiet round, comparable
    between the variants of one ``take_turns``.
    """

    times_us: list[list[float]] = field(default_factory=list)
    pre_ms: list[float] = field(default_factory=list)
    p50_ms: float = math.nan

    def medians_us(self) -> list[float]:
        """Return the median inference of each round."""
        return [statistics.median(times) for times in self.times_us]

    def quantile_ms(self, q: float) -> float:
        """Return a quantile over all inferences of all rounds, disturbed ones included."""
        ranked = sorted(self.all_us())
        return ranked[int(q * (len(ranked) - 1))] / 1e3

    def all_us(self) -> list[float]:
        """Return the microseconds of every inference."""
        return [time_us for times in self.times_us for time_us in times]

    @property
    def noise(self) -> float:
        """The interquartile range of the rounds' medians, relative to their median."""
        ranked = sorted(self.medians_us())
        count = len(ranked)
        return (ranked[(3 * count) // 4] - ranked[count // 4]) / ranked[count // 2]


def quiet(values: Sequence[float]) -> float:
    """Return the lower quartile, the lower of two neighbours.

    >>> quiet([9.0, 2.0, 1.0, 3.0, 70.0])
    2.0
    """
    return sorted(values)[(len(values) - 1) // 4]


def levelled(rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each row's time in a quiet round, with the effect that rounds had on all rows removed.

    Args:
        rows: Times above 0, one per round, the same number of rounds for all.

    >>> {name: round(ms, 3) for name, ms in levelled({"a": [2, 4, 2, 6], "b": [3, 6, 3, 9]}).items()}
    {'a': 2.0, 'b': 3.0}
    """
    logs = {name: [math.log(time) for time in row] for name, row in rows.items()}
    own = {name: statistics.median(row) for name, row in logs.items()}
    shared: list[float] = []
    for _ in range(_SWEEPS):
        per_round = zip(*([log - own[name] for log in row] for name, row in logs.items()), strict=True)
        shared = [statistics.median(each) for each in per_round]
        own = {
            name: statistics.median(log - level for log, level in zip(row, shared, strict=True))
            for name, row in logs.items()
        }
    level = quiet(shared) if shared else 0.0
    return {name: math.exp(log + level) for name, log in own.items()}


def rounds_in(seconds: float) -> int:
    """Return how many rounds each variant needs to run for ``seconds`` in all."""
    return max(_FEWEST, round(seconds / ROUND_S))


def take_turns(
    processes: Sequence[VariantProcess],
    seconds: float,
    *,
    fill: bool = False,
    done: Callable[[str], None] = lambda _name: None,
) -> tuple[dict[str, Rounds], dict[str, str]]:
    """Run each variant for a round, in random order each time, until each has run for ``seconds``.

    Args:
        processes: One process per variant.
        seconds: How long each runs in all; at least four rounds.
        fill: Also time filling an image input, in each round.
        done: Called with a variant's id after each of its rounds.

    Returns:
        The rounds of the variants that ran and the errors of those that failed, by variant id.
    """
    taken: dict[str, Rounds] = {process.variant.id: Rounds() for process in processes}
    errors: dict[str, str] = {}
    order = random.Random(0)  # noqa: S311 - no secret; a random order favours no variant
    for _ in range(rounds_in(seconds)):
        running = [process for process in processes if process.variant.id not in errors]
        for process in order.sample(running, len(running)):
            name = process.variant.id
            try:
                taken[name].times_us.append(process.measure(ROUND_S))
                if fill:
                    taken[name].pre_ms.append(process.pre_ms())
            except BackendError as cause:
                errors[name] = cause.message
            done(name)
    ran = {name: rounds for name, rounds in taken.items() if name not in errors}
    for name, time_us in levelled({name: rounds.medians_us() for name, rounds in ran.items()}).items():
        ran[name].p50_ms = time_us / 1e3
    return ran, errors
