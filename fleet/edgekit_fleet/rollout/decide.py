"""What a rollout does next, decided from the state of its devices. Pure, and safe to repeat at any time.

``decide`` looks at one state and returns actions. The engine carries them out and calls it again until
it returns none. An action that was carried out changes the state, so it is not returned again; an
action that was lost in a crash is.
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
"""A reason names this many devices; of the others it gives the number."""


@dataclass(frozen=True)
class Member:
    """One device of a rollout.

    Args:
        device: Its id.
        wave: The wave it belongs to, from 0.
        is_directed: Whether this rollout set its desired state to this rollout's version.
        outcome: What became of it.
        reason: Why it failed.
        settled_ms: When the outcome was known, Unix time; 0 before.
        is_online: Whether it is connected.
        before: Measurements of the version before on it, where known.
        after: Measurements of this version on it so far.
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
    """A rollout at one moment; ``wave`` is the current wave, begun at ``wave_since_ms``."""

    spec: Spec
    state: State
    wave: int
    wave_since_ms: int
    members: Sequence[Member]


@dataclass(frozen=True)
class Direct:
    """Set a device's desired state to the rollout's version."""

    device: str


@dataclass(frozen=True)
class Restore:
    """Set a device's desired state to what it was before the rollout."""

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
    """Return what to do now; nothing when the rollout is done or waits for its devices.

    A device of a later wave is never directed. A halted or aborted rollout restores every directed
    device. A paused rollout directs no device, but halts when a guard is breached.
    """
    if view.state in UNDONE:
        return [Restore(member.device) for member in view.members if member.is_directed]
    if view.state is State.DRAFT:
        return []
    if view.state is not State.DONE and (reason := _halt_reason(view)):
        return [Move(Event.HALT, reason)]
    if view.state is State.PAUSED:
        return []
    due = [member for member in view.members if member.wave <= view.wave and not member.is_directed]
    if due:
        return [Direct(member.device) for member in due]
    return [] if view.state is State.DONE else _progress(view, now_ms)


def _halt_reason(view: View) -> str:
    directed = [member for member in view.members if member.is_directed]
    failed = [member for member in directed if member.outcome is Outcome.FAILED]
    if failed:
        first = min(failed, key=lambda member: (member.settled_ms, member.device))
        why = f"{first.device}: {first.reason}"
        if len(failed) > view.spec.max_failures:
            return f"{_count(len(failed), 'device')} failed, {view.spec.max_failures} may; {why}"
        if len(failed) == len(directed):  # allowed failures alone are no evidence that it works anywhere
            return f"it failed on every device so far ({len(failed)}); {why}"
    before = {member.device: member.before for member in directed if member.before is not None}
    after = {member.device: member.after for member in directed}
    return evidence.breach(view.spec.guards, before, after) or ""


def _progress(view: View, now_ms: int) -> list[Action]:
    spec, is_last = view.spec, view.wave >= len(view.spec.waves) - 1
    members = [member for member in view.members if member.wave == view.wave]
    committed = [member for member in members if member.outcome is Outcome.COMMITTED]
    able = len(members) - sum(member.outcome is Outcome.FAILED for member in members)
    if len(committed) >= math.ceil(spec.success_ratio * able - 1e-9):
        watched_ms = max((member.settled_ms for member in committed), default=0) + spec.soak_s * 1000
        if now_ms < watched_ms:
            return []
        return [Move(Event.FINISH, "")] if is_last else [Advance(view.wave + 1)]
    if now_ms - view.wave_since_ms > spec.wave_timeout_s * 1000:
        waiting = [member for member in members if member.outcome is Outcome.WAITING]
        names = [f"{member.device}{'' if member.is_online else ' (offline)'}" for member in waiting]
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
