"""Whoever tries secrets waits longer and longer; whoever has a good one does not."""

import pytest
from fastapi import HTTPException
from starlette.requests import Request

from edgekit_fleet.web import throttle
from edgekit_fleet.web.throttle import FORGET_S, FREE_REFUSALS, MAX_ADDRESSES, Throttle, address_of


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(clock):
    return Throttle(clock)


def wait_s(gate, address="a", secret="guess"):
    try:
        gate.admit(address, secret)
    except HTTPException as refused:
        return refused.status_code == 429 and int(refused.headers["Retry-After"])
    return 0


def test_ten_refusals_are_free_and_then_the_wait_doubles_up_to_a_minute(gate, clock):
    waits = []
    for _ in range(FREE_REFUSALS + 9):
        clock.now_s += wait_s(gate)
        gate.refuse("a", "token")
        waits.append(wait_s(gate))
    assert waits == [0] * FREE_REFUSALS + [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert gate.refused["token"] == FREE_REFUSALS + 9
    assert gate.delayed == 17


def test_another_address_does_not_wait(gate):
    for _ in range(50):
        gate.refuse("a", "login")
    assert (wait_s(gate), wait_s(gate, "b")) == (60, 0)


def test_a_secret_that_was_good_from_this_address_passes_during_the_wait(gate):
    gate.accept("a", "good")
    for _ in range(50):
        gate.refuse("a", "token")
    assert (wait_s(gate, secret="good"), wait_s(gate, secret="guess")) == (0, 60)


def test_an_address_is_forgotten_after_a_while(gate, clock):
    for _ in range(50):
        gate.refuse("a", "enrolment")
    clock.now_s += FORGET_S + 1
    gate.refuse("a", "enrolment")
    assert wait_s(gate) == 0


def test_what_is_remembered_is_bounded(gate):
    for number in range(MAX_ADDRESSES + 10):
        gate.refuse(f"10.{number}", "token")
        gate.accept(f"10.{number}", "good")
    assert len(gate._records) == len(gate._good) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(host, address):
    assert address_of(Request({"type": "http", "client": (host, 1)})) == address
    assert throttle.address_of(Request({"type": "http", "client": None})) == ""
