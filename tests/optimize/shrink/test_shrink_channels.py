"""Which channels go is a pure decision."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.optimize.shrink.channels import BLOCK, Slack, choose


@st.composite
def slack_sets(draw):
    sets = []
    for number in range(draw(st.integers(1, 4))):
        initial = draw(st.integers(1, 80))
        left = draw(st.integers(max(1, initial // 2), initial))
        values = draw(st.lists(st.floats(0, 1e6), min_size=left, max_size=left))
        cost = draw(st.floats(0, 1e6))
        sets.append(Slack(name=str(number), importances=tuple(values), cost=cost, initial=initial))
    return sets


@settings(deadline=None)
@given(slack_sets(), st.floats(0, 1e9))
def test_what_is_left_is_a_multiple_of_eight_and_at_least_eight_and_an_eighth(sets, wanted):
    removed = choose(sets, wanted)
    for slack in sets:
        count = removed.get(slack.name, 0)
        left = len(slack.importances) - count
        if count:
            assert left % BLOCK == 0
            assert left >= max(BLOCK, slack.initial / 8)


@settings(deadline=None)
@given(slack_sets(), st.floats(1, 1e9))
def test_it_saves_what_was_asked_or_all_that_may_go(sets, wanted):
    removed = choose(sets, wanted)
    saved = sum(removed.get(slack.name, 0) * slack.cost for slack in sets)
    if saved < wanted:
        assert not [slack for slack in sets if slack.without(removed.get(slack.name, 0)).step]


def test_channels_go_where_they_matter_least_for_their_work():
    dear = Slack(name="dear", importances=(1.0,) * 32, cost=100, initial=32)
    cheap = Slack(name="cheap", importances=(1.0,) * 32, cost=1, initial=32)
    assert choose([dear, cheap], wanted=801) == {"dear": 16}
    weak = Slack(name="weak", importances=(0.001,) * 32, cost=1, initial=32)
    assert choose([dear, weak], wanted=9) == {"weak": 16}
