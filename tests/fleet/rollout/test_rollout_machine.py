import pytest

from edgekit.core.errors import UsageError
from edgekit_fleet.rollout.machine import OPEN, TRANSITIONS, UNDONE, Event, State, step


def test_every_state_knows_what_a_restart_means():
    for state in State:
        assert step(state, Event.RESTARTED) is state


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_an_event_without_a_row_is_refused_with_what_is_possible(state, event):
    if (state, event) in TRANSITIONS:
        assert step(state, event) is TRANSITIONS[state, event]
        return
    with pytest.raises(UsageError, match=state.value) as error:
        step(state, event)
    assert error.value.hint


def test_a_rollout_that_is_over_stays_over():
    for (state, event), after in TRANSITIONS.items():
        if state not in OPEN:
            assert (event, after) == (Event.RESTARTED, state)


def test_every_open_rollout_can_be_aborted():
    assert all(step(state, Event.ABORT) in UNDONE for state in OPEN)
