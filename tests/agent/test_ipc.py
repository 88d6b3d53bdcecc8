from __future__ import annotations

import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.ipc import (
    MAX_FRAME_BYTES,
    MAX_PENDING_BYTES,
    BlockingChannel,
    Channel,
    Deframer,
    Ended,
    FromWorker,
    Keep,
    ModelFailed,
    Opened,
    Progress,
    Running,
    Stop,
    Swap,
    Swapped,
    ToWorker,
    frame,
)
from edgekit.core.errors import LinkError, ProtocolError
from edgekit.core.sketch import Histogram

RUNNING = Running(model="m", version="1.0.0", variant="v", backend="null", accelerator="cpu", digest="d")


def some_messages():
    latency = Histogram()
    latency.add(3.5)
    return [
        Opened(model="m", running=RUNNING, load_ms=1.5),
        Progress(pipeline="p", period_s=1.0, frames=3, infer_ms=latency.to_wire(), running=RUNNING),
        Swapped(model="m", swap=1, purpose="trial", running=RUNNING, load_ms=2.0, gap_ms=0.1),
        ModelFailed(model="m", code="model.bundle", reason="no"),
        Ended(pipeline="p", reason="stopped"),
    ]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_messages_come_out_whole_however_the_stream_is_cut(cuts):
    data = b"".join(map(frame, some_messages()))
    deframer, found, at = Deframer(FromWorker), [], 0
    for cut in [*cuts, len(data)]:
        found += deframer.feed(data[at : at + cut])
        at += cut
    assert found == some_messages()


@given(st.binary(max_size=200))
def test_garbage_never_does_more_than_raise_a_protocol_error(data):
    try:
        for message in Deframer(FromWorker).feed(data):
            assert isinstance(message, msgspec.Struct)
    except ProtocolError:
        pass


def test_a_length_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError, match="at most"):
        list(Deframer(FromWorker).feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


def test_a_message_over_the_limit_is_not_sent():
    with pytest.raises(ProtocolError, match="frame"):
        frame(Swap(model="m", swap=1, purpose="trial", path="x" * MAX_FRAME_BYTES))


def test_the_two_directions_do_not_take_each_others_messages():
    with pytest.raises(ProtocolError):
        list(Deframer(ToWorker).feed(frame(Ended(pipeline="p", reason="stopped"))))


def test_a_peer_that_does_not_read_counts_as_gone_at_the_bound():
    ours, theirs = socket.socketpair()
    channel = Channel(ours, FromWorker)
    big = Swap(model="m", swap=1, purpose="trial", path="x" * (MAX_FRAME_BYTES - 100))
    for _ in range(MAX_PENDING_BYTES // MAX_FRAME_BYTES):
        channel.send(big)
    with theirs, pytest.raises(LinkError, match="does not read"):
        channel.send(big)
    channel.close()


def test_both_ends_talk_and_a_closed_end_is_told():
    ours, theirs = socket.socketpair()
    supervisor, worker = Channel(ours, FromWorker), BlockingChannel(theirs, ToWorker)
    supervisor.send(Keep(model="m"))
    supervisor.send(Stop())
    incoming = iter(worker)
    assert [next(incoming), next(incoming)] == [Keep(model="m"), Stop()]
    worker.send(Ended(pipeline="p", reason="stopped"))
    assert supervisor.receive() == ([Ended(pipeline="p", reason="stopped")], False)
    worker.close()
    assert supervisor.receive() == ([], True)
    with pytest.raises(LinkError, match="gone"):
        supervisor.send(Stop())
    supervisor.close()
