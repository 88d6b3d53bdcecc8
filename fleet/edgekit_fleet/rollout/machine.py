"""The states of a rollout, its events, and the table of transitions."""

from __future__ import annotations

from enum import Enum

from edgekit.core.errors import UsageError


class State(Enum):
    """The state of a rollout. HALTED and ABORTED restore every device to the version before."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    HALTED = "halted"
    ABORTED = "aborted"


class Event(Enum):
    """What happens to a rollout.

    START, PAUSE, RESUME, ABORT come from people (PAUSE also from a wave that takes too long); HALT
    from a guard; FINISH after the last wave; RESTARTED when the fleet manager starts again.
    """

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    HALT = "halt"
    FINISH = "finish"
    RESTARTED = "restarted"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.DRAFT, Event.START): State.RUNNING,
    (State.DRAFT, Event.RESUME): State.RUNNING,
    (State.DRAFT, Event.ABORT): State.ABORTED,
    (State.DRAFT, Event.RESTARTED): State.DRAFT,
    (State.RUNNING, Event.PAUSE): State.PAUSED,
    (State.RUNNING, Event.HALT): State.HALTED,
    (State.RUNNING, Event.ABORT): State.ABORTED,
    (State.RUNNING, Event.FINISH): State.DONE,
    (State.RUNNING, Event.RESTARTED): State.RUNNING,
    (State.PAUSED, Event.RESUME): State.RUNNING,
    (State.PAUSED, Event.HALT): State.HALTED,
    (State.PAUSED, Event.ABORT): State.ABORTED,
    (State.PAUSED, Event.RESTARTED): State.PAUSED,
    (State.DONE, Event.RESTARTED): State.DONE,
    (State.HALTED, Event.RESTARTED): State.HALTED,
    (State.ABORTED, Event.RESTARTED): State.ABORTED,
}

OPEN = frozenset({State.DRAFT, State.RUNNING, State.PAUSED})
"""States in which a rollout is not over: a model has at most one rollout in these."""
UNDONE = frozenset({State.HALTED, State.ABORTED})
"""States in which devices are restored to the version before."""


def step(state: State, event: Event) -> State:
    """Return the state that an event leads to.

    >>> step(State.RUNNING, Event.HALT)
    <State.HALTED: 'halted'>

    Raises:
        UsageError: The event is not possible in this state.
    """
    following = TRANSITIONS.get((state, event))
    if following is None:
        possible = ", ".join(e.value for s, e in TRANSITIONS if s is state and e is not Event.RESTARTED)
        raise UsageError(
            f"a rollout that is {state.value} cannot {event.value}",
            hint=f"possible: {possible}" if possible else "it is over: create a new one",
        )
    return following


def is_possible(state: State, event: Event) -> bool:
    """Say whether an event has a row in this state."""
    return (state, event) in TRANSITIONS
