"""Which channels go is a pure decision."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_optimize.shrink.channels import BLOCK, Slack, choose


@st.composite
def slack_sets(draw):
    sets = []
    for number in range(draw(st.integers(1, 4))):
        initial = draw(st.integers(1, 80))
        left = draw(st.integers(max(1, initial // 2), initial))
        values = draw(st.lists(st.floats(0, 1e6), min_size=left, max_size=left))
        cost, storage = draw(st.floats(0, 1)), draw(st.floats(0, 1))
        sets.append(
            Slack(name=str(number), importances=tuple(values), cost=cost, storage=storage, initial=initial)
        )
    return sets


@settings(deadline=None)
@given(slack_sets(), st.floats(0, 1))
def test_what_is_left_is_a_multiple_of_eight_and_at_least_eight_and_an_eighth(sets, wanted):
    removed = choose(sets, wanted)
    for slack in sets:
        count = removed.get(slack.name, 0)
        left = len(slack.importances) - count
        if count:
            assert left % BLOCK == 0
            assert left >= max(BLOCK, slack.initial / 8)


@settings(deadline=None)
@given(slack_sets(), st.floats(1e-6, 100))
def test_it_saves_the_requested_share_or_all_that_can_be_removed(sets, wanted):
    removed = choose(sets, wanted)
    saved = sum(removed.get(slack.name, 0) * slack.cost for slack in sets)
    if saved < wanted:
        assert not [slack for slack in sets if slack.without(removed.get(slack.name, 0)).step]


def test_channels_are_removed_where_importance_per_cost_is_least():
    dear = Slack(name="dear", importances=(1.0,) * 32, cost=0.1, initial=32)
    cheap = Slack(name="cheap", importances=(1.0,) * 32, cost=0.001, initial=32)
    assert choose([dear, cheap], saving=0.801) == {"dear": 16}
    weak = Slack(name="weak", importances=(0.001,) * 32, cost=0.001, initial=32)
    assert choose([dear, weak], saving=0.009) == {"weak": 16}


def test_storage_counts_as_much_as_computation():
    large = Slack(name="large", importances=(1.0,) * 32, cost=0.001, storage=0.1, initial=32)
    busy = Slack(name="busy", importances=(1.0,) * 32, cost=0.05, initial=32)
    assert choose([large, busy], saving=0.008) == {"large": 8}
