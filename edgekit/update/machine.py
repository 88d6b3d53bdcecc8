"""The update of one model as data: states, events, and one table.

The driver saves a state, then acts on it, so every state has a row for RESTARTED: the process died in it.
"""

from enum import Enum

from edgekit.core.errors import EdgekitError


class State(Enum):
    """The state of one model's update."""

    IDLE = "IDLE"
    FETCHING = "FETCHING"
    INSTALLING = "INSTALLING"
    TRIAL = "TRIAL"
    ROLLING_BACK = "ROLLING_BACK"


class Event(Enum):
    """An event of an update.

    WANTED: the fleet desires a version. REVERTED: a person or the fleet wants the version before. FETCHED,
    INSTALLED: that step is done. RETRY: it failed for now. POSTPONED: the tries of this round are used up, or
    it was interrupted; tried again later. REJECTED: refused for good, before any trial. COMMITTED: the trial
    passed. FAILED: it did not. CANCELLED: the fleet desires another version. ROLLED_BACK: the version before
    runs again. RESTARTED: the process died and restarted.
    """

    WANTED = "WANTED"
    REVERTED = "REVERTED"
    FETCHED = "FETCHED"
    INSTALLED = "INSTALLED"
    RETRY = "RETRY"
    POSTPONED = "POSTPONED"
    REJECTED = "REJECTED"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    ROLLED_BACK = "ROLLED_BACK"
    RESTARTED = "RESTARTED"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.WANTED): State.FETCHING,
    (State.IDLE, Event.REVERTED): State.ROLLING_BACK,
    (State.IDLE, Event.RESTARTED): State.IDLE,
    (State.FETCHING, Event.FETCHED): State.INSTALLING,
    (State.FETCHING, Event.RETRY): State.FETCHING,
    (State.FETCHING, Event.POSTPONED): State.IDLE,
    (State.FETCHING, Event.REJECTED): State.IDLE,
    (State.FETCHING, Event.CANCELLED): State.IDLE,
    (State.FETCHING, Event.RESTARTED): State.FETCHING,
    (State.INSTALLING, Event.INSTALLED): State.TRIAL,
    (State.INSTALLING, Event.RETRY): State.INSTALLING,
    (State.INSTALLING, Event.POSTPONED): State.IDLE,
    (State.INSTALLING, Event.REJECTED): State.IDLE,
    (State.INSTALLING, Event.CANCELLED): State.IDLE,
    (State.INSTALLING, Event.RESTARTED): State.INSTALLING,
    (State.TRIAL, Event.COMMITTED): State.IDLE,
    (State.TRIAL, Event.FAILED): State.ROLLING_BACK,
    (State.TRIAL, Event.CANCELLED): State.ROLLING_BACK,
    (State.TRIAL, Event.RESTARTED): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.ROLLED_BACK): State.IDLE,
    (State.ROLLING_BACK, Event.POSTPONED): State.IDLE,
    (State.ROLLING_BACK, Event.RETRY): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.RESTARTED): State.ROLLING_BACK,
}


def step(state: State, event: Event) -> State:
    """Return the state after an event.

    >>> step(State.TRIAL, Event.RESTARTED)
    <State.ROLLING_BACK: 'ROLLING_BACK'>

    Raises:
        EdgekitError: The event has no row in this state: a bug in the caller.
    """
    next_state = TRANSITIONS.get((state, event))
    if next_state is None:
        possible = ", ".join(e.name for s, e in TRANSITIONS if s is state)
        raise EdgekitError(f"update: {event.name} cannot happen in {state.name}; possible are {possible}")
    return next_state


def is_possible(state: State, event: Event) -> bool:
    """Return whether an event has a row in this state."""
    return (state, event) in TRANSITIONS
