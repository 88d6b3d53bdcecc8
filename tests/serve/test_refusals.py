"""A busy model refuses equal requests unasked, for as long as that is what they would be told."""

import math

import numpy as np
import pytest
from scripted import doubling, served

from edgekit.core.errors import BusyError
from edgekit.serve.refusals import Refusals, key_of
from edgekit.serve.work import HEADER_LENGTH

X = np.arange(4, dtype=np.float32).tobytes()


class Lane:
    left = again = 0

    def refused_again(self):
        self.again += 1


def test_a_refusal_is_given_again_while_it_holds_and_nothing_leaves_the_lane():
    lane, now_s = Lane(), [0.0]
    refusals = Refusals(lane, lambda: now_s[0])
    assert refusals.find("a") is None
    refusals.keep("a", BusyError("overloaded", wait_s=2.0, holds_s=0.5), lane.left)
    refusals.keep("b", BusyError("full", holds_s=math.inf), lane.left)
    reply = refusals.find("a")
    assert (reply.status, b"overloaded" in reply.body, (b"retry-after", b"2") in reply.headers) == (
        429,
        True,
        True,
    )
    assert refusals.find("other") is None
    now_s[0] = 0.5
    assert (refusals.find("a"), refusals.find("b").status, lane.again) == (None, 429, 2)
    lane.left += 1
    assert (refusals.find("b"), lane.again) == (None, 2)


def test_a_refusal_that_a_lane_outran_or_that_holds_no_time_is_not_kept():
    lane = Lane()
    refusals = Refusals(lane)
    refusals.keep("a", BusyError("overloaded", holds_s=9.0), lane.left - 1)
    assert refusals.find("a") is None
    refusals.keep("a", BusyError("overloaded", holds_s=-0.1), lane.left)
    refusals.keep(None, BusyError("overloaded", holds_s=9.0), lane.left)
    assert (refusals.find("a"), refusals.find(None)) == (None, None)


def test_requests_are_equal_by_their_json_length_and_headers_and_all_json_is_read():
    key = key_of(b"{}1234", 2, {b"timeout": b"5"}, (b"timeout",))
    assert key == key_of(b"{}4321", 2, {b"timeout": b"5", b"other": b"1"}, (b"timeout",))
    others = [(b"[]1234", 2, b"5"), (b"{}123", 2, b"5"), (b"{}1234", 2, b"6"), (b"{}1234", 1, b"5")]
    assert all(key_of(data, at, {b"timeout": s}, (b"timeout",)) != key for data, at, s in others)
    assert key_of(b"{}1234", None, {}, ()) is key_of(b"{}1234", 7, {}, ()) is None


@pytest.fixture
def busy():
    """A server whose model runs a request and has others waiting, with a client and the model."""
    offer, opener = doubling()
    with served(offer) as server:
        model, lane = opener.opened[0], server.entries[0].lane
        for _ in range(8):
            lane.pace("infer").add(1.0)
        model.gate.clear()
        waiting = [lane.submit([lambda: model.gate.wait(60)], kind="infer", client="other") for _ in range(3)]
        yield server, model, waiting
        model.gate.set()


def post(server, **headers):
    given = {
        HEADER_LENGTH.decode(): "0",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return server.client.post("/v2/models/double/infer", content=X, headers=given)


def test_what_is_refused_again_is_counted_and_is_answered_once_there_is_room(busy):
    server, model, waiting = busy
    answers = [post(server, x_request_timeout_ms="1500") for _ in range(3)]
    assert {each.status_code for each in answers} == {429}
    assert len({each.text for each in answers}) == 1  # else each would name the wait of its own moment
    entry = server.entries[0]
    assert (entry.lane.counts.shed, entry.meter.answers) == (3, {429: 3})
    model.gate.set()
    for each in waiting:
        entry.lane.result(each)
    assert post(server, x_request_timeout_ms="60000").status_code == 200


def test_a_bad_request_is_told_so_though_others_are_refused(busy):
    server, _, _ = busy
    assert post(server, x_request_timeout_ms="1500").status_code == 429
    assert post(server, x_request_timeout_ms="soon").status_code == 400
    assert post(server, x_request_timeout_ms="1500", content_type="image/gif").status_code == 415
