"""What a rollout does next: pure, from how its devices fare; safe to ask again at any time.

``decide`` looks at one state and returns actions; whoever carries them out asks again until there
are none. Carrying an action out changes what the next question sees, so an action that was carried
out is not returned again, and one that was lost in a crash is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Union

from edgekit_fleet.rollout import evidence
from edgekit_fleet.rollout.evidence import Baseline, Tally
from edgekit_fleet.rollout.machine import UNDONE, Event, State
from edgekit_fleet.rollout.plan import Spec
from edgekit_fleet.rollout.standing import Outcome

_NAMED = 5
"""Devices that a reason names; of more, the number."""


@dataclass(frozen=True)
class Member:
    """One device of a rollout.

    Args:
        device: Its id.
        wave: The wave it belongs to, from 0.
        is_directed: Whether its desired state names this rollout's version, by this rollout.
        outcome: What became of it.
        reason: Why it failed.
        settled_ms: When the outcome was known, Unix time; 0 before.
        is_online: Whether it is connected.
        before: What the version before did on it, where known.
        after: What this version did on it so far.
    """

    device: str
    wave: int
    is_directed: bool = False
    outcome: Outcome = Outcome.WAITING
    reason: str = ""
    settled_ms: int = 0
    is_online: bool = True
    before: Baseline | None = None
    after: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class View:
    """A rollout at one moment; ``wave`` is the one under way, since ``wave_since_ms``."""

    spec: Spec
    state: State
    wave: int
    wave_since_ms: int
    members: Sequence[Member]


@dataclass(frozen=True)
class Direct:
    """Have a device run the rollout's version."""

    device: str


@dataclass(frozen=True)
class Restore:
    """Have a device run what it ran before."""

    device: str


@dataclass(frozen=True)
class Advance:
    """Begin the next wave."""

    wave: int


@dataclass(frozen=True)
class Move:
    """Change the rollout's state."""

    event: Event
    reason: str


Action = Union[Direct, Restore, Advance, Move]  # noqa: UP007 - evaluated at run time


def decide(view: View, now_ms: int) -> list[Action]:
    """Return what to do now; nothing when all is done or there is something to wait for.

    A device of a later wave is never directed. In a halted or aborted rollout every directed device
    is restored. A paused one directs nobody, but halts where a guard breaks.
    """
    if view.state in UNDONE:
        return [Restore(one.device) for one in view.members if one.is_directed]
    if view.state is State.DRAFT:
        return []
    if view.state is not State.DONE and (reason := _halt_reason(view)):
        return [Move(Event.HALT, reason)]
    if view.state is State.PAUSED:
        return []
    due = [one for one in view.members if one.wave <= view.wave and not one.is_directed]
    if due:
        return [Direct(one.device) for one in due]
    return [] if view.state is State.DONE else _progress(view, now_ms)


def _halt_reason(view: View) -> str:
    directed = [one for one in view.members if one.is_directed]
    failed = [one for one in directed if one.outcome is Outcome.FAILED]
    if failed:
        first = min(failed, key=lambda one: (one.settled_ms, one.device))
        why = f"{first.device}: {first.reason}"
        if len(failed) > view.spec.max_failures:
            return f"{_count(len(failed), 'device')} failed, {view.spec.max_failures} may; {why}"
        if len(failed) == len(directed):  # allowed failures alone are no evidence that it works anywhere
            return f"it failed on every device so far ({len(failed)}); {why}"
    before = {one.device: one.before for one in directed if one.before is not None}
    after = {one.device: one.after for one in directed}
    return evidence.breach(view.spec.guards, before, after) or ""


def _progress(view: View, now_ms: int) -> list[Action]:
    spec, is_last = view.spec, view.wave >= len(view.spec.waves) - 1
    members = [one for one in view.members if one.wave == view.wave]
    committed = [one for one in members if one.outcome is Outcome.COMMITTED]
    able = len(members) - sum(one.outcome is Outcome.FAILED for one in members)
    if len(committed) >= math.ceil(spec.success_ratio * able - 1e-9):
        watched_ms = max((one.settled_ms for one in committed), default=0) + spec.soak_s * 1000
        if now_ms < watched_ms:
            return []
        return [Move(Event.FINISH, "")] if is_last else [Advance(view.wave + 1)]
    if now_ms - view.wave_since_ms > spec.wave_timeout_s * 1000:
        waiting = [one for one in members if one.outcome is Outcome.WAITING]
        names = [f"{one.device}{'' if one.is_online else ' (offline)'}" for one in waiting]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return [
            Move(
                Event.PAUSE,
                f"wave {view.wave + 1} is not done after {spec.wave_timeout_s} s;"
                f" waiting for {', '.join(names[:_NAMED])}{more}",
            )
        ]
    return []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
