"""Versions of a model share its requests as they were told to, and their answers are compared rightly."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import UsageError
from edgekit.serve.reply import Reply, json_reply
from edgekit.serve.shadow import difference
from edgekit.serve.traffic import Traffic, Turns, traffic_of
from edgekit.serve.work import HEADER_LENGTH

SERVED = {("door", "1.0"), ("door", "2.0"), ("door", "3.0"), ("gate", "1.0")}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_each_hundred_requests_are_shared_to_the_percent(weights):
    shares = {str(number): weight for number, weight in enumerate(weights)}
    turns, traffic = Turns(), Traffic("m", shares)
    total = sum(weights)
    for _ in range(2):
        answered = [turns.next(traffic, shares.keys()) for _ in range(total)]
        assert {version: answered.count(version) for version in shares} == shares


def test_a_version_that_is_not_ready_leaves_its_turns_to_the_others_and_owes_none_later():
    turns, traffic = Turns(), Traffic("m", {"1": 50, "2": 50})
    assert {turns.next(traffic, {"2"}) for _ in range(9)} == {"2"}
    assert [turns.next(traffic, {"1", "2"}) for _ in range(100)].count("1") == 50
    assert turns.next(traffic, ()) in traffic.shares  # none is ready: whoever it is says why


def test_without_a_split_the_newest_but_the_shadow_has_all_requests():
    (traffic,) = traffic_of([], ["door=3.0"], SERVED)
    assert (traffic.shares, traffic.shadow, traffic.main) == ({"2.0": 100}, "3.0", "2.0")


@pytest.mark.parametrize(
    ("split", "shadow", "message"),
    [
        ("door", "", "want MODEL="),
        ("door=1.0:90", "", "make 90 percent, not 100"),
        ("door=1.0:0,2.0:100", "", "from 1 to 100"),
        ("door=1.0:50,1.0:50", "", "each version once"),
        ("door=1.0:x,2.0:100", "", "want VERSION:PERCENT"),
        ("door=9.0:100", "", "door 9.0 is not among"),
        ("", "gate=1.0", "no other version of gate"),
        ("door=1.0:50,2.0:50", "door=2.0", "cannot be the shadow"),
        ("door=1.0:100", "door=9.0", "door 9.0 is not among"),
    ],
)
def test_what_cannot_be_shared_is_refused(split, shadow, message):
    with pytest.raises(UsageError, match=message):
        traffic_of([split] if split else [], [shadow] if shadow else [], SERVED)


def test_a_model_is_split_once():
    with pytest.raises(UsageError, match="named twice"):
        traffic_of(["door=1.0:100", "door=2.0:100"], [], SERVED)


def as_json(*arrays):
    rows = [
        {"name": str(n), "datatype": "FP32", "shape": list(a.shape), "data": a.ravel().tolist()}
        for n, a in enumerate(arrays)
    ]
    return json_reply({"outputs": rows})


def as_binary(*arrays):
    rows = [
        {
            "name": str(n),
            "datatype": "FP32",
            "shape": list(a.shape),
            "parameters": {"binary_data_size": a.nbytes},
        }
        for n, a in enumerate(arrays)
    ]
    head = msgspec.json.encode({"outputs": rows})
    length = (HEADER_LENGTH, str(len(head)).encode())
    return Reply(head + b"".join(a.tobytes() for a in arrays), headers=(length,))


SCORES = np.float32([[0.1, 0.9], [0.8, 0.2]])


@pytest.mark.parametrize("reply", [as_json, as_binary])
def test_scores_disagree_where_another_class_wins_and_numbers_where_they_are_far_apart(reply):
    near, other = SCORES * np.float32(0.99), SCORES[:, ::-1].copy()
    assert difference(reply(SCORES), reply(near)) == (pytest.approx(0.01, abs=1e-6), False)
    assert difference(reply(SCORES), reply(other)) == (pytest.approx(8 / 9, rel=1e-5), True)
    line = np.float32([[[1, 2, 4]]])
    assert difference(reply(SCORES, line), reply(SCORES, line + 0.1))[1] is False
    assert difference(reply(SCORES, line), reply(SCORES, line + 0.5)) == (pytest.approx(0.5 / 4.5), True)
    number, disagrees = difference(reply(line), reply(SCORES))
    assert disagrees
    assert math.isnan(number)  # shapes that differ have no distance
    assert difference(reply(line), reply(line * np.nan))[1] is True


def test_answers_to_a_file_disagree_where_their_labels_differ():
    cat, dog = ({"label": name, "score": 0.5} for name in ("cat", "dog"))

    def items(*found):
        return json_reply({"task": "detect", "items": list(found)})

    assert difference(items(cat, dog), items(dog, cat))[1] is False
    assert difference(items(cat), items(dog))[1] is True
    assert difference(items(cat), items(cat, cat))[1] is True


def texts(*words, is_binary=False):
    row = {"name": "t", "datatype": "BYTES", "shape": [len(words)], "data": list(words)}
    if not is_binary:
        return json_reply({"outputs": [row]})
    data = b"".join(len(word).to_bytes(4, "little") + word.encode() for word in words)
    head = msgspec.json.encode(
        {"outputs": [{**row, "data": None, "parameters": {"binary_data_size": len(data)}}]}
    )
    return Reply(head + data, headers=((HEADER_LENGTH, str(len(head)).encode()),))


@pytest.mark.parametrize("is_binary", [False, True])
def test_classes_disagree_where_another_one_is_first(is_binary):
    """As texts their scores differ in the sixth digit: every pair disagreed."""
    cat = texts("0.900000:3:cat", "0.100000:1:dog", is_binary=is_binary)
    also = texts("0.900001:3:cat", "0.090000:2:cow", is_binary=is_binary)
    dog = texts("0.900000:1:dog", "0.100000:3:cat", is_binary=is_binary)
    assert [difference(cat, each, has_classes=True)[1] for each in (cat, also, dog)] == [False, False, True]
    assert difference(cat, also)[1] is True


def test_texts_disagree_where_they_differ():
    assert difference(texts("a", "b"), texts("a", "b"))[1] is False
    assert difference(texts("a", "b"), texts("a", "c"))[1] is True
