"""Times variants in short rounds, in turn, so that a busy machine slows all of them alike.

A machine has faster and slower phases, of its clock, its neighbours, its own other work. What the
variants of a round share is therefore taken off before they are compared, so that none wins by having run
in more of the fast rounds. Source: median polish, Tukey, "Exploratory Data Analysis", 1977, here on
logarithms. All are then told at the level of the quieter rounds, the lower quartile: whatever else runs
only ever adds time.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.bench.variant_process import LabProcess
from edgekit.core.errors import BackendError

ROUND_S = 0.1
_FEWEST = 4
_SWEEPS = 6


@dataclass
class Rounds:
    """What one variant's rounds took.

    ``times_us`` has the microseconds of every inference, by round; ``pre_ms`` the milliseconds of
    filling the input from an image's bytes, by round, and is empty where that was not asked for.
    ``p50_ms`` is the median inference of a quiet round, comparable with that of the others of its turns.
    """

    times_us: list[list[float]] = field(default_factory=list)
    pre_ms: list[float] = field(default_factory=list)
    p50_ms: float = math.nan

    def medians_us(self) -> list[float]:
        """Return the median inference of each round."""
        return [statistics.median(times) for times in self.times_us]

    def quantile_ms(self, q: float) -> float:
        """Return a quantile over all inferences of all rounds, the disturbed ones too."""
        ranked = sorted(self.all_us())
        return ranked[int(q * (len(ranked) - 1))] / 1e3

    def all_us(self) -> list[float]:
        """Return the microseconds of every inference."""
        return [time_us for times in self.times_us for time_us in times]

    @property
    def noise(self) -> float:
        """The range of the middle half of the rounds' medians, relative to their middle."""
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
    """Return the time of each in a quiet round, freed of what the rounds did to all of them.

    Args:
        rows: Above 0; of each the time in every round, the same number of rounds for all.

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
    """Return how many rounds each variant runs, so that it runs for ``seconds`` in all."""
    return max(_FEWEST, round(seconds / ROUND_S))


def take_turns(
    labs: Sequence[LabProcess],
    seconds: float,
    *,
    fill: bool = False,
    done: Callable[[str], None] = lambda _name: None,
) -> tuple[dict[str, Rounds], dict[str, str]]:
    """Run each variant for a round, in another order each time, until each has run for ``seconds``.

    Args:
        labs: The processes, one for each variant.
        seconds: How long each runs in all; not less than four rounds.
        fill: Time the filling of an image input too, in each round.
        done: Told each variant's id after each of its rounds.

    Returns:
        By variant id the rounds of those that ran, and the error of each that failed.
    """
    found: dict[str, Rounds] = {lab.variant.id: Rounds() for lab in labs}
    errors: dict[str, str] = {}
    order = random.Random(0)  # noqa: S311 - no secret: which comes after which must not favour any
    for _ in range(rounds_in(seconds)):
        running = [lab for lab in labs if lab.variant.id not in errors]
        for lab in order.sample(running, len(running)):
            name = lab.variant.id
            try:
                found[name].times_us.append(lab.measure(ROUND_S))
                if fill:
                    found[name].pre_ms.append(lab.pre_ms())
            except BackendError as cause:
                errors[name] = cause.message
            done(name)
    ran = {name: rounds for name, rounds in found.items() if name not in errors}
    for name, time_us in levelled({name: rounds.medians_us() for name, rounds in ran.items()}).items():
        ran[name].p50_ms = time_us / 1e3
    return ran, errors
