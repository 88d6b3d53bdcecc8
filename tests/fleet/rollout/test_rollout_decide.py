"""What must hold of every rollout, whatever its devices do."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.spec import Guards
from edgekit_fleet.rollout.decide import Advance, Direct, Member, Move, Restore, View, decide
from edgekit_fleet.rollout.evidence import Tally
from edgekit_fleet.rollout.machine import OPEN, UNDONE, Event, State, is_possible, step
from edgekit_fleet.rollout.plan import Spec
from edgekit_fleet.rollout.standing import Outcome

NOW_MS = 1_800_000_000_000


def apply(view, actions, now_ms):
    """Do what was decided, as the engine does."""
    members = {one.device: one for one in view.members}
    for action in actions:
        if isinstance(action, Direct):
            members[action.device] = replace(members[action.device], is_directed=True)
        elif isinstance(action, Restore):
            members[action.device] = replace(members[action.device], is_directed=False)
        elif isinstance(action, Advance):
            view = replace(view, wave=action.wave, wave_since_ms=now_ms)
        else:
            view = replace(view, state=step(view.state, action.event))
    return replace(view, members=tuple(members.values()))


def settle(view, now_ms):
    """Decide and do until there is nothing left; it must come to rest."""
    for _ in range(100):
        actions = decide(view, now_ms)
        if not actions:
            return view
        view = apply(view, actions, now_ms)
        check(view)
    raise AssertionError("does not come to rest")


def check(view):
    """The blast radius: no device of a later wave is ever directed."""
    assert all(one.wave <= view.wave for one in view.members if one.is_directed)
    assert view.wave < len(view.spec.waves)


specs = st.builds(
    Spec,
    model=st.just("m"),
    version=st.just("1.0.0"),
    waves=st.integers(1, 4).map(lambda count: ("1",) * count),
    soak_s=st.sampled_from([0, 10]),
    success_ratio=st.sampled_from([0.5, 0.9, 1.0]),
    max_failures=st.integers(0, 3),
    wave_timeout_s=st.just(100),
    guards=st.just(Guards(error_ratio=0.02)),
)
happenings = st.lists(
    st.tuples(
        st.sampled_from(["commit", "fail", "err", "offline", "wait", "pause", "resume", "abort", "join"]),
        st.integers(0, 11),
        st.integers(0, 60),
    ),
    max_size=40,
)


def happen(view, what, which, now_ms):
    members = list(view.members)
    if what in {"pause", "resume", "abort"}:
        event = Event[what.upper()]
        return replace(view, state=step(view.state, event)) if is_possible(view.state, event) else view
    if what == "join":
        late = Member(f"late-{len(members)}", len(view.spec.waves) - 1)
        return replace(view, members=(*members, late)) if view.state is not State.DONE else view
    number = which % len(members)
    one = members[number]
    if one.is_directed and one.outcome is Outcome.WAITING and what in {"commit", "fail"}:
        outcome = Outcome.COMMITTED if what == "commit" else Outcome.FAILED
        members[number] = replace(one, outcome=outcome, settled_ms=now_ms)
    elif one.is_directed and what == "err":
        members[number] = replace(one, after=Tally(500, 400, 5))
    elif what == "offline":
        members[number] = replace(one, is_online=not one.is_online)
    return replace(view, members=tuple(members))


@settings(max_examples=400, deadline=None)
@given(specs, st.lists(st.integers(0, 3), min_size=1, max_size=8), happenings)
def test_a_rollout_keeps_its_promises_whatever_happens(spec, waves, story):
    """Blast radius, way back, and rest, after every single action of any story."""
    members = tuple(Member(f"d{i}", min(wave, len(spec.waves) - 1)) for i, wave in enumerate(waves))
    now_ms = NOW_MS
    view = settle(View(spec, State.RUNNING, 0, now_ms, members), now_ms)
    for what, which, seconds in story:
        now_ms += seconds * 1000
        view = settle(happen(view, what, which, now_ms), now_ms)
        assert decide(view, now_ms) == []
        directed = [one for one in view.members if one.is_directed]
        if view.state in UNDONE:
            assert not directed
        failed = sum(one.outcome is Outcome.FAILED for one in directed)
        assert view.state not in OPEN or failed <= spec.max_failures
        if view.state is State.DONE:
            assert all(one.is_directed for one in view.members if one.wave <= view.wave)


@settings(deadline=None)
@given(specs, st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_a_rollout_that_all_devices_take_is_done_in_the_end(spec, waves):
    members = tuple(Member(f"d{i}", min(wave, len(spec.waves) - 1)) for i, wave in enumerate(waves))
    view, now_ms = View(spec, State.RUNNING, 0, NOW_MS, members), NOW_MS
    for _ in range(2 * len(spec.waves) + 1):
        view = settle(view, now_ms)
        for number, one in enumerate(view.members):
            if one.is_directed:
                view = happen(view, "commit", number, now_ms)
        now_ms += 20_000
    assert view.state is State.DONE


@settings(deadline=None)
@given(specs, st.lists(st.integers(0, 3), min_size=1, max_size=8), st.permutations(range(8)))
def test_the_order_of_devices_decides_nothing(spec, waves, order):
    members = [Member(f"d{i}", min(wave, len(spec.waves) - 1)) for i, wave in enumerate(waves)]
    shuffled = [members[i] for i in order if i < len(members)]
    one = settle(View(spec, State.RUNNING, 0, NOW_MS, tuple(members)), NOW_MS)
    other = settle(View(spec, State.RUNNING, 0, NOW_MS, tuple(shuffled)), NOW_MS)
    assert {m.device for m in one.members if m.is_directed} == {
        m.device for m in other.members if m.is_directed
    }


def test_a_draft_directs_nobody():
    members = (Member("a", 0),)
    assert decide(View(Spec(model="m", version="1.0.0"), State.DRAFT, 0, NOW_MS, members), NOW_MS) == []


def test_the_reason_of_a_pause_names_at_most_a_few_devices():
    members = tuple(Member(f"d{i}", 0, is_directed=True, is_online=False) for i in range(9))
    spec = Spec(model="m", version="1.0.0", wave_timeout_s=10)
    (move,) = decide(View(spec, State.RUNNING, 0, NOW_MS, members), NOW_MS + 11_000)
    assert isinstance(move, Move)
    assert move.reason.endswith("d4 (offline) and 4 more")
