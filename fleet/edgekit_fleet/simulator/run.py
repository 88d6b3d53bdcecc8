"""Runs simulated devices on one event loop, and adds up what happened."""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.core.errors import ConfigError
from edgekit_fleet.simulator.device import TICK_S, Device, Totals
from edgekit_fleet.simulator.identities import Identity
from edgekit_fleet.simulator.weather import Plan, weather_of

SPARE_FILES = 200
DRAIN_S = 60.0
SETTLE_S = 30.0
_TICKS = 10
"""Parts of the devices that look after their links in turn: timers of 10,000 devices would be as many more
entries of the event loop each second."""


@dataclass(frozen=True)
class Outcome:
    """What happened.

    Args:
        boot: The name of each device's outbox.
        document: The figures.
        sent: The last sequence number and the watermark of each device's outbox.
        acknowledged: When each record was acknowledged that was sent once (Unix seconds), and how long after.
    """

    boot: str
    document: dict[str, Any]
    sent: dict[str, tuple[int, int]]
    acknowledged: list[tuple[float, float]]


def simulate(
    identities: Sequence[Identity], plan: Plan, progress: Callable[[dict[str, int]], None] = lambda _: None
) -> Outcome:
    """Run devices for as long as the plan says, then until everything is acknowledged, a minute at most.

    Args:
        identities: Enrolled devices.
        plan: How long, how much, and what goes wrong.
        progress: Called each second.

    Raises:
        ConfigError: This process may not open enough connections.
    """
    _allow_files(len(identities) + SPARE_FILES)
    try:
        return asyncio.run(_Simulation(plan, progress).run(identities))
    finally:
        gc.unfreeze()


class _Simulation:
    def __init__(self, plan: Plan, progress: Callable[[dict[str, int]], None]) -> None:
        self._plan, self._progress = plan, progress
        self._boot = f"simulated-{plan.seed}-{secrets.token_hex(4)}"
        self._totals = Totals()
        self._all_up_s: float | None = None
        self._began_s = 0.0
        self._lags: list[tuple[float, float]] = []
        """When, and by how much the simulator itself was late."""
        self._storms = 0
        self._broken_s: float | None = None
        self._back_s: float | None = None
        """How long it took after the last storm until all devices were back."""

    async def run(self, identities: Sequence[Identity]) -> Outcome:
        loop, plan = asyncio.get_running_loop(), self._plan
        devices = [
            Device(identity, weather_of(plan, number), self._totals, self._boot)
            for number, identity in enumerate(identities)
        ]
        began_s = loop.time()
        for device in devices:
            device.start()
        ticking = asyncio.create_task(self._tick(devices))
        if plan.storm_s:
            loop.call_later(plan.connect_s + plan.storm_s, self._storm, devices)
        end_s = began_s + plan.connect_s + plan.seconds
        self._began_s = began_s
        while loop.time() < end_s:
            due_s = loop.time() + min(0.5, max(end_s - loop.time(), 0.01))
            await asyncio.sleep(due_s - loop.time())
            self._lags.append((loop.time(), loop.time() - due_s))
            self._watch(devices, began_s)
        for device in devices:
            device.end_reports()
        while any(device.unacknowledged for device in devices) and loop.time() < end_s + DRAIN_S:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.1)
        outcome = self._outcome(identities, devices)
        ticking.cancel()
        for device in devices:
            device.stop()
        await asyncio.sleep(0.1)
        return outcome

    async def _tick(self, devices: Sequence[Device]) -> None:
        """Have each device look after its link once each ``TICK_S``, until cancelled."""
        loop = asyncio.get_running_loop()
        for part in itertools.cycle(range(_TICKS)):
            now_s = loop.time()
            for device in devices[part::_TICKS]:
                device.tick(now_s)
            await asyncio.sleep(TICK_S / _TICKS)

    def _storm(self, devices: Sequence[Device]) -> None:
        loop = asyncio.get_running_loop()
        self._storms, self._broken_s, self._back_s = self._storms + 1, loop.time(), None
        for device in devices:
            device.break_link()
        if self._storms != self._plan.storms:
            loop.call_later(self._plan.storm_s, self._storm, devices)

    def _watch(self, devices: Sequence[Device], began_s: float) -> None:
        up = sum(device.is_up for device in devices)
        if asyncio.get_running_loop().time() < began_s + self._plan.connect_s:
            gc.freeze()  # devices stay: to look at 10,000 of them for garbage holds all of them up
        if up == len(devices) and self._all_up_s is None:
            self._all_up_s = asyncio.get_running_loop().time() - began_s
        if up == len(devices) and self._broken_s is not None and self._back_s is None:
            self._back_s = asyncio.get_running_loop().time() - self._broken_s
        waiting = sum(device.unacknowledged for device in devices)
        self._progress({"up": up, "unacknowledged": waiting})

    def _outcome(self, identities: Sequence[Identity], devices: Sequence[Device]) -> Outcome:
        totals = self._totals
        sent = {
            identity.device: (device.outbox.last_seq, device.outbox.watermark)
            for identity, device in zip(identities, devices, strict=True)
        }
        document = {
            "devices": len(devices),
            "connected": sum(device.is_up for device in devices),
            "all_connected_s": self._all_up_s and round(self._all_up_s, 2),
            "storm_s": self._back_s and round(self._back_s, 2),
            "records": sum(last for last, _ in sent.values()),
            "unacknowledged": sum(last - watermark for last, watermark in sent.values()),
            "dropped": sum(device.outbox.dropped for device in devices),
            "repeated": totals.counts["repeated"],
            "connections": totals.counts["connected"],
            "refused": dict(totals.refusals),
            "ended": dict(totals.ends.most_common(10)),
            "refused_records": totals.counts["reasons"],
            "acknowledged_ms": _quantiles([took for _, took in totals.acks]),
            "steady_ms": _quantiles([took for when, took in totals.acks if when >= self._steady_s()]),
            "by_minute": self._by_minute(),
            "connect_ms": _quantiles(totals.connect_s),
            "boot": self._boot,
        }
        ahead_s = time.time() - asyncio.get_running_loop().time()
        return Outcome(self._boot, document, sent, [(when + ahead_s, took) for when, took in totals.acks])

    def _steady_s(self) -> float:
        """Return from when on all devices were connected, and what had waited for that was acknowledged."""
        settle_s = min(SETTLE_S, self._plan.seconds / 3)
        return self._began_s + max(self._all_up_s or 0.0, self._plan.connect_s) + settle_s

    def _by_minute(self) -> dict[str, list[float]]:
        """Return, minute by minute, the 99th percentile of acknowledgements and of its own lag, ms."""
        return {
            "acknowledged_p99_ms": self._p99_by_minute(self._totals.acks),
            "simulator_lag_p99_ms": self._p99_by_minute(self._lags),
        }

    def _p99_by_minute(self, rows: Sequence[tuple[float, float]]) -> list[float]:
        minutes: dict[int, list[float]] = {}
        for when_s, took_s in rows:
            minutes.setdefault(int((when_s - self._began_s) // 60), []).append(took_s)
        return [_quantiles(minutes.get(n, []))["p99"] for n in range(max(minutes, default=-1) + 1)]


def _quantiles(values: list[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile and maximum of times in seconds, as milliseconds."""
    ordered = sorted(values) or [0.0]
    last = len(ordered) - 1
    named = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[int(last * q)] * 1000, 1) for name, q in named.items()}


def _allow_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > hard != resource.RLIM_INFINITY:
        raise ConfigError(
            f"{needed} connections need as many open files, and {hard} are allowed",
            hint="raise the limit (ulimit -Hn), or simulate fewer devices",
        )
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
