"""Whom the end of a process is held against, of the models that it had."""

from types import SimpleNamespace

from edgekit.agent.supervisor.worker import _suspects


def model(worked_s, *, is_opening_variant=False, is_on_trial=False):
    return SimpleNamespace(worked_s=worked_s, is_opening_variant=is_opening_variant, is_on_trial=is_on_trial)


def test_a_crash_is_held_against_the_models_that_were_at_work_for_most_of_the_time_before():
    rare, often, as_often, idle = model(0.1), model(0.5), model(0.3), model(0.0)
    assert _suspects([rare, often, as_often, idle]) == [often, as_often]
    assert _suspects([idle, rare]) == [rare]


def test_where_none_was_at_work_it_may_have_been_each():
    hosted = [model(0.0), model(0.0)]
    assert _suspects(hosted) == hosted
    assert _suspects([]) == []


def test_a_variant_that_opens_and_then_a_version_on_trial_go_before_what_was_at_work():
    often, trial, opening = model(0.9), model(0.0, is_on_trial=True), model(0.0, is_opening_variant=True)
    assert _suspects([often, trial, opening]) == [opening]
    assert _suspects([often, trial]) == [trial]
