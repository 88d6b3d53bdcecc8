"""Keeps a pipeline within its latency, temperature and power by giving up rate, resolution or quality.

Pure: the caller passes the time, the latencies and the sensors' values, and carries out each ``Change``.
One object for each pipeline.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.pipeline.budget_frames import Frames, Seen

STEPS = {"rate": 3, "resolution": 2, "variant": 3}
"""How often each lever can be pulled: the first two halve, the last takes the next faster variant."""
MAX_GAIN = {"rate": 1.5, "resolution": 4.0, "variant": 16.0}
"""The most by which one step shortens the work on a frame; more is a load that ended meanwhile."""
WINDOW_S = 1.0
OVER_S, CALM_S, TRIAL_S = 1.6, 3.0, 0.5
"""How long a limit is exceeded before a step down, how long all is calm before a step up, and how long most
frames are late before a step up is taken back."""
CALM_RATIO, PROMISE_RATIO = 0.85, 0.9
"""A step up needs the worst limit used by less than the first, and the latency to expect by the second."""
USEFUL_GAIN = 1.1
FELL_RATIO = 0.7
"""Where the work on a frame fell to this, the load is another one, and a step up need not wait."""
WAIT_S, LONGEST_WAIT_S = 60.0, 600.0
LASTED_S = 120.0
"""A step up that is undone within this time has failed."""
DEGREES = 20.0
"""So many degrees below the limit weigh as half of it, so that 3 degrees make calm."""


@dataclass
class _Retry:
    """When a step may be tried again that has failed: each failure doubles the wait."""

    after_s: float = -math.inf
    wait_s: float = WAIT_S

    def failed(self, now_s: float) -> None:
        self.after_s = now_s + self.wait_s
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)


@dataclass
class _Lever:
    name: str
    at: int = 0
    gains: list[float] = field(default_factory=lambda: [1.0] * max(STEPS.values()))
    """By step: the work on a frame before it over the work after it."""
    up: _Retry = field(default_factory=_Retry)
    down: _Retry = field(default_factory=_Retry)
    raised_s: float = -math.inf
    low_ms: float = math.inf
    """The work on a frame before the last step up."""
    failed_ms: float = math.inf
    """After a step up that failed: the work on a frame below which the load has changed."""
    is_for_latency: bool = True

    def learn(self, step: int, gain: float) -> None:
        self.gains[step] = min(max(gain, 1.0), MAX_GAIN[self.name])


@dataclass(frozen=True)
class Change:
    """The levers' new positions (0: nothing is given up), the reason, and whether more is given up now."""

    setting: dict[str, int]
    reason: str
    is_down: bool


class Budget:
    """Decides which lever to pull. After a ``Change`` it waits for ``applied`` or ``refused``.

    A step down that brings nothing is taken back for the next lever. A step up is tried as soon as the work
    on a frame has fallen to ``FELL_RATIO`` of what it was after the step down, and what that step brought
    says that it will hold; else ``WAIT_S`` after the last change. Each that fails doubles that wait.

    Args:
        order: The levers, names of ``STEPS``; the first is pulled first, and let go last.
        p95_ms: The 95th percentile of the latency; 0 is no limit.
        limits: The highest values of sensors: ``temperature_c``, ``power_w``.
    """

    def __init__(self, order: Sequence[str], p95_ms: float, limits: Mapping[str, float]) -> None:
        self._levers = [_Lever(name) for name in order]
        self._p95_ms, self._limits = p95_ms, limits
        self._frames = Frames()
        self._changed_s = -math.inf
        self._over_s = self._calm_s = self._late_s = self._fell_s = math.inf
        """Since when a limit is exceeded, all is calm, most frames are late, the load is another one."""
        self._is_changing = self._is_trial = False
        self._before: dict[str, int] = {}
        self._step: tuple[_Lever, Seen] | None = None
        """The step down to be judged, and what was seen before it."""
        self._settled_ms = 0.0
        """The work on a frame as after the last step down, at the setting of now."""
        self._times_s = deque([-math.inf] * 2, maxlen=2)
        self.changes = 0
        """How many changes were carried out."""

    @property
    def setting(self) -> dict[str, int]:
        """The position of each lever."""
        return {lever.name: lever.at for lever in self._levers}

    def finished(self, captured_s: float, seq: int, latency_ms: float, work_ms: float) -> None:
        """Add a frame that reached the sinks; ``work_ms`` is the latency without the waiting."""
        self._frames.add(captured_s, seq, latency_ms, work_ms)

    def applied(self, now_s: float) -> None:
        """Begin to judge the last ``Change``, which is in force now."""
        self.changes += 1
        self._times_s.append(now_s)
        if self._step is not None:
            self._settled_ms = 0.0  # it is to be judged first
        self._begin(now_s)

    def refused(self, now_s: float, name: str) -> None:
        """Take back a step of one lever that could not be carried out, and pause it in that direction."""
        for lever in self._levers:
            if lever.name == name:
                (lever.down if lever.at > self._before[name] else lever.up).failed(now_s)
                lever.at = self._before[name]
        self._step = None
        self._begin(now_s)

    def forget(self, name: str) -> None:
        """Set a lever to 0, since somebody else has let it go."""
        for lever in self._levers:
            if lever.name == name:
                lever.at = 0

    def _begin(self, now_s: float) -> None:
        self._changed_s, self._is_changing = now_s, False
        self._frames.begin(now_s)
        self._over_s = self._calm_s = self._late_s = self._fell_s = math.inf

    def step(self, now_s: float, sensors: Mapping[str, float]) -> Change | None:
        """Return the change to carry out now; None for none."""
        seen = self._frames.seen(now_s, WINDOW_S)
        if self._is_changing or seen is None or self._is_too_often(now_s):
            return None
        load, why, is_for_latency = self._load(seen.latency_ms, sensors)
        self._note(now_s, load, seen)
        is_over = load > 1
        before = self._before = self.setting
        if self._step is not None and now_s - self._changed_s >= OVER_S:
            self._judge(now_s, seen, is_over and is_for_latency)
        if now_s - self._over_s >= OVER_S or now_s - self._late_s >= TRIAL_S:
            self._down(now_s, seen, is_for_latency)
        elif now_s - self._calm_s >= CALM_S:
            self._up(now_s)
        if self.setting == before:
            return None
        self._is_changing, self._is_trial = True, not is_over
        return Change(self.setting, why, is_over)

    def _note(self, now_s: float, load: float, seen: Seen) -> None:
        is_late = self._is_trial and 0 < self._p95_ms < seen.median_ms
        has_fallen = seen.work_ms <= FELL_RATIO * self._settled_ms
        self._over_s = min(self._over_s, now_s) if load > 1 else math.inf
        self._calm_s = min(self._calm_s, now_s) if load <= CALM_RATIO else math.inf
        self._late_s = min(self._late_s, now_s) if is_late else math.inf
        self._fell_s = min(self._fell_s, now_s) if has_fallen else math.inf

    def _is_too_often(self, now_s: float) -> bool:
        """Return whether two changes in a minute are enough, since nothing that was tried lasts."""
        waits_s = (retry.wait_s for lever in self._levers for retry in (lever.up, lever.down))
        return now_s - self._times_s[0] < WAIT_S and max(waits_s) > 2 * WAIT_S

    def _load(self, latency_ms: float, sensors: Mapping[str, float]) -> tuple[float, str, bool]:
        """Return how far the worst limit is used (above 1: exceeded), in words, and whether it is latency."""
        loads = []
        if self._p95_ms:
            load = latency_ms / self._p95_ms
            if load > 1 and not self._frames.are_late(self._p95_ms):
                load = 1.0
            loads.append((load, f"p95 {latency_ms:.0f} of {self._p95_ms:g} ms", True))
        for name, limit in self._limits.items():
            if (value := sensors.get(name)) is not None:
                load = 1 + (value - limit) / DEGREES if name == "temperature_c" else value / limit
                loads.append((load, f"{name} {value:.1f} of {limit:g}", False))
        return max(loads, default=(0.0, "", True))

    def _judge(self, now_s: float, seen: Seen, is_over: bool) -> None:
        """Learn what the last step down brought; take it back if that is nothing."""
        assert self._step is not None
        (lever, before), self._step = self._step, None
        if seen.work_ms <= lever.failed_ms < math.inf:  # a load that ended meanwhile: all is known already
            self._settled_ms = lever.failed_ms / FELL_RATIO
        else:
            lever.learn(lever.at - 1, before.work_ms / max(seen.work_ms, 1e-3))
            self._settled_ms = max(seen.work_ms, before.work_ms / lever.gains[lever.at - 1])
        if is_over and lever.is_for_latency and before.latency_ms < USEFUL_GAIN * seen.latency_ms:
            lever.at -= 1
            lever.down.failed(now_s)
            self._over_s = -math.inf  # the next lever, at once

    def _down(self, now_s: float, seen: Seen, is_for_latency: bool) -> None:
        """Pull the lever that was let go too early, or else the first one.

        The rate is the last where the work on one frame is too long: then waiting is not the trouble.
        """
        is_slow = is_for_latency and seen.work_ms > PROMISE_RATIO * self._p95_ms
        for lever in sorted(
            self._levers, key=lambda x: (now_s - x.raised_s >= LASTED_S, is_slow and x.name == "rate")
        ):
            has_failed = now_s - lever.raised_s < LASTED_S
            if lever.at == STEPS[lever.name] or now_s < lever.down.after_s:
                continue
            if has_failed:
                lever.failed_ms = FELL_RATIO * min(lever.failed_ms, lever.low_ms)
                lever.up.failed(now_s)
            elif lever.raised_s > -math.inf:
                lever.up.wait_s, lever.failed_ms = WAIT_S, math.inf
            lever.raised_s = -math.inf
            lever.at += 1
            lever.is_for_latency = is_for_latency
            self._step = lever, seen
            return

    def _up(self, now_s: float) -> None:
        """Let go all that promises to hold, where the load fell; else one step that has waited enough."""
        if (seen := self._frames.seen(now_s, CALM_S)) is None:
            return
        before, gain = self.setting, 1.0
        pulled = [lever for lever in reversed(self._levers) if lever.at]
        for lever in pulled:
            is_allowed = now_s >= lever.up.after_s or seen.work_ms <= lever.failed_ms < math.inf
            while is_allowed and now_s - self._fell_s >= CALM_S and lever.is_for_latency and lever.at:
                next_gain = gain * lever.gains[lever.at - 1]
                rate = self.setting.get("rate", 0) - (lever.name == "rate")
                if seen.above(next_gain, rate) > PROMISE_RATIO * self._p95_ms:
                    break
                gain = next_gain
                self._raise(lever, now_s, seen.work_ms)
        for lever in pulled:
            if self.setting == before and now_s >= max(lever.up.after_s, self._changed_s + lever.up.wait_s):
                self._raise(lever, now_s, seen.work_ms)

    def _raise(self, lever: _Lever, now_s: float, work_ms: float) -> None:
        lever.at -= 1
        lever.raised_s, lever.low_ms = now_s, work_ms
        self._settled_ms *= lever.gains[lever.at]
        self._step = None
