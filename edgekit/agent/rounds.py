"""Times variants in short rounds, in turn, so that a busy machine slows all of them alike.

Whatever else runs on a machine only ever adds time. A variant's speed is therefore read from its
quieter rounds, the lower quartile of their medians: a quarter of undisturbed rounds is enough for it,
where the median over everything wants more than half.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgekit.agent.lab import LabProcess
from edgekit.core.errors import BackendError

ROUND_S = 0.1
_FEWEST = 4


@dataclass
class Rounds:
    """What one variant's rounds took.

    ``times_us`` has the microseconds of every inference, by round; ``pre_ms`` the milliseconds of
    filling the input from an image's bytes, by round, and is empty where that was not asked for.
    """

    times_us: list[list[float]] = field(default_factory=list)
    pre_ms: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        """The median inference of a quiet round."""
        return quiet([statistics.median(times) for times in self.times_us]) / 1e3

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
        ranked = sorted(statistics.median(times) for times in self.times_us)
        count = len(ranked)
        return (ranked[(3 * count) // 4] - ranked[count // 4]) / ranked[count // 2]


def quiet(values: Sequence[float]) -> float:
    """Return the lower quartile, the lower of two neighbours.

    >>> quiet([9.0, 2.0, 1.0, 3.0, 70.0])
    2.0
    """
    return sorted(values)[(len(values) - 1) // 4]


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
    return {name: rounds for name, rounds in found.items() if name not in errors}, errors
