"""What happens to simulated devices, drawn from a seed: the same seed gives the same weather."""

from __future__ import annotations

import random
from dataclasses import dataclass

YEAR_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Plan:
    """How long, how much, and what goes wrong.

    Args:
        seconds: How long the devices live after the last one has had its chance to connect.
        connect_s: Over how many seconds they connect at first, and again after a storm.
        report_s: Seconds between two metric reports of a device.
        event_s: Seconds between two events of a device, on average.
        flapping: The share of devices whose link comes and goes.
        flap_s: How long such a link holds and is gone, on average.
        storm_s: All links break each so many seconds; 0 for never.
        storms: How often at most; 0 for as long as it lasts.
        bad_clocks: The share of devices whose clock is wrong: 1970, or a year off either way.
        seed: Draws all of it.
    """

    seconds: float = 60.0
    connect_s: float = 10.0
    report_s: float = 30.0
    event_s: float = 60.0
    flapping: float = 0.0
    flap_s: float = 20.0
    storm_s: float = 0.0
    storms: int = 0
    bad_clocks: float = 0.0
    seed: int = 0


@dataclass
class Weather:
    """What happens to one device; times in seconds, drawn anew at each call."""

    plan: Plan
    dice: random.Random
    is_flapping: bool
    clock_off_ms: int | None
    """How far its clock is off; None for a clock that begins at 1970 when the device starts."""

    def first_connect_s(self) -> float:
        """Return when it connects first, and how long it waits after a storm."""
        return self.dice.uniform(0, self.plan.connect_s)

    def event_s(self) -> float:
        """Return the time to its next event."""
        return self.dice.uniform(0.5, 1.5) * self.plan.event_s

    def flap_s(self) -> float:
        """Return how long the link holds, or is gone."""
        return self.dice.expovariate(1 / self.plan.flap_s)

    def retry_s(self, attempt: int) -> float:
        """Return the pause before connection attempt ``attempt``: full jitter, at most a minute."""
        return self.dice.uniform(0, min(60.0, 2.0**attempt))

    def unix_ms(self, now_unix_ms: int, lived_s: float) -> int:
        """Return what its clock shows."""
        return int(lived_s * 1000) if self.clock_off_ms is None else now_unix_ms + self.clock_off_ms


def weather_of(plan: Plan, number: int) -> Weather:
    """Return the weather of device ``number``.

    >>> weather_of(Plan(seed=1), 3).first_connect_s() == weather_of(Plan(seed=1), 3).first_connect_s()
    True
    """
    dice = random.Random(f"{plan.seed}/{number}")  # noqa: S311 - weather, no secret
    is_flapping = dice.random() < plan.flapping
    is_wrong = dice.random() < plan.bad_clocks
    off_ms = dice.choice([None, YEAR_MS, -YEAR_MS])
    return Weather(plan, dice, is_flapping, off_ms if is_wrong else 0)
