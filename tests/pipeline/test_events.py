"""Events are told once, and only when they are sure."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import prediction

from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.events import Debounce, EventMaker, Presence, State

rules = st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 6)).map(
    lambda r: Debounce(appear=r[0], window=r[0] + r[1], vanish=r[2])
)


@given(rules, st.lists(st.sets(st.sampled_from("ab")), max_size=60))
def test_a_label_appears_only_when_sure_and_vanishes_only_when_gone(rule, frames):
    presence, present, since = Presence(rule), {"a": False, "b": False}, {"a": 0, "b": 0}
    for number, labels in enumerate(frames):
        for label, is_present in presence.step(labels):
            assert present[label] != is_present  # it never appears twice, nor vanishes twice
            window = [label in f for f in frames[since[label] : number + 1]][-rule.window :]
            recent = [label in f for f in frames[: number + 1]][-rule.vanish :]
            if is_present:
                assert sum(window) >= rule.appear
            else:
                assert len(recent) == rule.vanish
                assert not any(recent)
                since[label] = number + 1
            present[label] = is_present
        for label in "ab":
            window = [label in f for f in frames[since[label] : number + 1]][-rule.window :]
            assert present[label] or sum(window) < rule.appear  # and it is never late
    assert len(presence._seen) <= 2


@given(rules)
def test_what_is_forgotten_takes_no_memory(rule):
    presence = Presence(rule)
    for number in range(200):
        presence.step({f"label-{number}"})
    for _ in range(rule.window + rule.vanish + 1):
        presence.step(set())
    assert not presence._seen


@given(rules, st.lists(st.sampled_from(["", "walk", "run"]), max_size=60))
def test_a_state_changes_only_to_what_the_last_frames_say(rule, labels):
    state, current = State(rule), ""
    for number, label in enumerate(labels):
        change = state.step(label)
        window = labels[max(0, number + 1 - rule.window) : number + 1]
        if change is not None:
            assert change == (current, label)
            assert change[0] != change[1]
            assert window.count(label) >= rule.appear
            current = label
        else:
            assert label == current or window.count(label) < rule.appear


def events(task, *frames, rule=Debounce(appear=2, window=3, vanish=2)):  # noqa: B008 - frozen
    return [
        (event.kind, event.label, event.previous, event.seq, event.count)
        for event in made(task, frames, rule)
    ]


def made(task, frames, rule=Debounce(appear=2, window=3, vanish=2)):  # noqa: B008 - frozen
    maker = EventMaker(rule, map(str, itertools.count()).__next__)
    found = []
    for seq, frame in enumerate(frames):
        index = 0 if frame in ("normal", "silence") else 1
        labels = (frame,) if isinstance(frame, str) else frame
        found += maker.step(prediction(task, *labels, index=index), seq, seq, seq)
    return found


def test_what_appears_and_vanishes_is_one_occurrence_that_ends_where_it_was_seen_last():
    found = made("detect", [["car"], ["car", "dog"], ["dog"], [], ["car"], ["car"]])
    assert [(e.kind, e.label, e.id, e.end_ns, e.end_unix_ms) for e in found] == [
        ("appeared", "car", "0", 0, 0),
        ("appeared", "dog", "1", 0, 0),
        ("vanished", "car", "0", 1, 1),
        ("vanished", "dog", "1", 2, 2),
        ("appeared", "car", "2", 0, 0),
    ]


def test_an_event_has_the_best_item_whole_and_the_tracks_of_all():
    best = Item(
        label="car", score=0.9, oriented_box=(5, 5, 4, 2, 0.5), track=7, text="B-XY 12", vector=(1.0,)
    )
    other = Item(label="car", score=0.5, track=9)
    maker = EventMaker(Debounce(appear=1, window=1, vanish=1), lambda: "x")
    (there,) = maker.step(Prediction(task="detect", items=(best, other)), 1, 2, 3)
    assert (there.item, there.tracks, there.count) == (best, (7, 9), 2)
    (gone,) = maker.step(Prediction(task="detect"), 4, 5, 6)
    assert (gone.item, gone.tracks, gone.count) == (None, (), 0)


def test_objects_appear_and_vanish_with_their_number():
    assert events("detect", ["car"], ["car", "car"], ["car"], [], []) == [
        ("appeared", "car", "", 1, 2),
        ("vanished", "car", "", 4, 0),
    ]


def test_an_anomaly_starts_and_ends_and_normal_is_no_event():
    assert events("anomaly", "normal", "anomaly", "anomaly", "normal", "normal", "normal") == [
        ("started", "anomaly", "", 2, 1),
        ("ended", "anomaly", "", 4, 0),
    ]


def test_a_sensors_class_changes():
    assert events("sensor", ["walk"], ["walk"], ["run"], ["run"], [], []) == [
        ("changed", "walk", "", 1, 1),
        ("changed", "run", "walk", 3, 1),
        ("changed", "", "run", 5, 0),
    ]


def test_raw_models_have_no_events():
    assert events("raw", ["x"], ["x"], ["x"]) == []
