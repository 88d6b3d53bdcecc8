import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.core.errors import ProtocolError

EVENT = wire.EventRecord(
    mono_ns=1, unix_ms=2, pipeline="p", model="m", version="1.0.0", kind="appear", label="cat"
)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.sampled_from(wire.UP))
def test_a_topic_says_its_device_and_leaf(device, leaf):
    assert wire.parse_topic(wire.up(device, leaf)) == (device, "up", leaf)


@pytest.mark.parametrize(
    "topic", ["", "ek/v1/a/up", "ek/v2/a/up/m", "ek/v1/a b/up/m", "ek/v1/a/up/desired", "ek/v1/a/x/m"]
)
def test_any_other_topic_is_refused(topic):
    with pytest.raises(ProtocolError):
        wire.parse_topic(topic)


@given(st.text(max_size=60))
def test_junk_topics_never_raise_anything_else(topic):
    try:
        wire.parse_topic(topic)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "kind", [wire.Birth, wire.Reported, wire.Batch, wire.Desired, wire.Ack, wire.Request, wire.Command]
)
@given(data=st.binary(max_size=200))
def test_junk_bodies_raise_protocol_errors_and_nothing_else(kind, data):
    try:
        wire.decode(data, kind)
    except ProtocolError:
        pass


def test_a_batch_of_encoded_records_is_the_batch_itself():
    whole = wire.Batch(boot="b", seq0=7, items=[EVENT, wire.Gap(mono_ns=0, unix_ms=0, first=1, last=3)])
    raw = wire.RawBatch(boot="b", seq0=7, items=[msgspec.Raw(wire.encode_record(r)) for r in whole.items])
    assert wire.encode(raw) == wire.encode(whole)
    assert wire.decode(wire.encode(whole), wire.Batch) == whole


def test_a_desired_state_over_eight_kilobytes_is_refused():
    with pytest.raises(ProtocolError, match="at most"):
        wire.decode(wire.encode(wire.Desired("d", 1, config={"x": "y" * 9000})), wire.Desired)


def test_the_signature_covers_fields_this_version_does_not_know():
    known = wire.encode(wire.Desired("d", 1, signature={"keyid": "k", "sig": "s"}))
    extended = msgspec.json.decode(known) | {"tomorrow": 1}
    assert wire.signed_bytes(known) == wire.signed_bytes(wire.encode(wire.Desired("d", 1)))
    assert b"tomorrow" in wire.signed_bytes(msgspec.json.encode(extended))


def test_a_chunk_is_a_sixteen_byte_header_and_its_bytes():
    frame = wire.encode(wire.Chunk(3, 1 << 33, b"abc"))
    assert len(frame) == 16 + 3
    assert wire.decode_response(frame) == wire.Chunk(3, 1 << 33, b"abc")


@given(st.binary(max_size=40))
def test_junk_responses_raise_protocol_errors_and_nothing_else(data):
    for prefix in (b"", b"EKC1"):
        try:
            wire.decode_response(prefix + data)
        except ProtocolError:
            pass
