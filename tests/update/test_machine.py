from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import EdgekitError
from edgekit.update.machine import TRANSITIONS, Event, State, is_possible, step


@pytest.mark.parametrize("state", State)
def test_every_state_says_what_a_restart_means(state):
    assert is_possible(state, Event.RESTARTED)


def test_a_restart_during_a_trial_rolls_back():
    assert step(State.TRIAL, Event.RESTARTED) is State.ROLLING_BACK


@pytest.mark.parametrize("state", State)
def test_every_state_leads_back_to_idle(state):
    reached, todo = {state}, [state]
    while todo:
        here = todo.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is here and target not in reached:
                reached.add(target)
                todo.append(target)
    assert State.IDLE in reached


def test_only_a_passed_trial_commits_and_no_trial_ends_in_idle_without_rolling_back():
    assert [key for key in TRANSITIONS if key[1] is Event.COMMITTED] == [(State.TRIAL, Event.COMMITTED)]
    ends = {
        event
        for (state, event), target in TRANSITIONS.items()
        if (state, target) == (State.TRIAL, State.IDLE)
    }
    assert ends == {Event.COMMITTED}


@given(st.sampled_from(State), st.sampled_from(Event))
def test_an_event_without_a_row_is_a_bug_and_raises(state, event):
    if is_possible(state, event):
        assert step(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(EdgekitError, match="cannot happen"):
            step(state, event)


def test_the_document_shows_this_very_table():
    rows = [f"{s.name:<13} {e.name:<12} -> {after.name}" for (s, e), after in TRANSITIONS.items()]
    text = (Path(__file__).parents[2] / "docs" / "updates.md").read_text()
    assert "\n".join(rows) in text
