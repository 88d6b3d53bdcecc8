"""Agents and fleets of neighbouring versions understand each other.

``recorded_0_1`` holds one message of each kind as version 0.1 (commit 30738f0) sent it, ``structs_0_1``
its structures, word for word. Neither is ever changed.
"""

import json
import types
import typing
from pathlib import Path

import msgspec
import pytest
import structs_0_1 as old

from edgekit.core import wire
from edgekit.core.spec import AcceleratorKind, BackendName, LevelName

RECORDED = Path(__file__).parent / "recorded_0_1"
JSON = {
    "birth": wire.Birth,
    "reported": wire.Reported,
    "desired": wire.Desired,
    "ack": wire.Ack,
    "request": wire.Request,
    "response": wire.Response,
    "command": wire.Command,
    "enroll_request": wire.EnrollRequest,
    "enroll_response": wire.EnrollResponse,
}
BATCHES = ("metrics", "events")
RECORDS = typing.get_args(wire.Record)


def structs_below(*kinds):
    """Return every structure that stands in some types, by name."""
    found, left = {}, list(kinds)
    while left:
        kind = left.pop()
        left += typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__name__ not in found:
            found[kind.__name__] = kind
            left += [field.type for field in msgspec.structs.fields(kind)]
    return found


def structs_in(module):
    own = [v for v in vars(module).values() if getattr(v, "__module__", "") == module.__name__]
    return [v for v in own if isinstance(v, type) and issubclass(v, msgspec.Struct)]


WIRE = structs_below(*structs_in(wire))
OLD = structs_below(*structs_in(old))
OLD_NAMES = {"Guards": "RolloutGuards"}
"""What has another name today."""


def full(kind):
    """Return a value of a type in which every field says something."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return full(next(a for a in arguments if a is not type(None)))
    if origin is typing.Literal:
        return arguments[-1]
    if origin in (tuple, list):
        parts = [full(a) for a in arguments if a is not ...]
        return origin(parts)
    if origin is dict:
        return {"key": full(arguments[1])}
    return SAMPLES[kind] if kind in SAMPLES else filled(kind)


def filled(kind):
    return kind(**{field.name: full(field.type) for field in msgspec.structs.fields(kind)})


SAMPLES = {
    typing.Any: {"any": 1},
    str: "text",
    int: 3,
    float: 1.5,
    bool: True,
    bytes: b"bytes",
    AcceleratorKind: "cpu",  # a name today, of a closed list in 0.1; so are the next three
    BackendName: "litert",
    LevelName: "present",
    wire.CommandKind: "report",
}


def fields_said(plain, value):
    """Assert that a structure holds everything that a plain document says."""
    if isinstance(value, msgspec.Struct):
        for name, part in plain.items():
            if name == "type":
                assert value.__struct_config__.tag == part
            else:
                fields_said(part, getattr(value, name))
    elif isinstance(value, (list, tuple)):
        assert len(plain) == len(value)
        for one, other in zip(plain, value, strict=True):
            fields_said(one, other)
    elif isinstance(value, dict):
        assert plain.keys() == value.keys()
        for name, part in plain.items():
            fields_said(part, value[name])
    else:
        assert plain == value


@pytest.mark.parametrize("name", JSON)
def test_a_json_message_of_0_1_is_read_with_all_it_says(name):
    data = (RECORDED / f"{name}.json").read_bytes()
    fields_said(json.loads(data), wire.decode(data, JSON[name]))


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_of_0_1_is_read_with_all_it_says(name):
    data = (RECORDED / f"{name}.msgpack").read_bytes()
    batch = wire.decode(data, wire.Batch)
    fields_said(msgspec.msgpack.decode(data), batch)
    raw = wire.decode(data, wire.RawBatch)
    assert [wire.decode_record(bytes(item)) for item in raw.items] == batch.items


def test_a_chunk_of_0_1_is_read():
    assert wire.decode_response((RECORDED / "chunk.bin").read_bytes()) == wire.Chunk(4, 131072, b"bytes")


def test_every_kind_of_message_of_0_1_was_recorded():
    kinds = {kind.__name__ for kind in JSON.values()}
    for name in BATCHES:
        batch = wire.decode((RECORDED / f"{name}.msgpack").read_bytes(), wire.Batch)
        kinds |= {type(item).__name__ for item in batch.items} | {"Batch", "RawBatch"}
    assert structs_below(*(OLD[kind] for kind in kinds)).keys() == OLD.keys() - {"_Strict", "Chunk"}


@pytest.mark.parametrize("name", sorted({*(kind.__name__ for kind in JSON.values()), "Batch"}))
def test_0_1_reads_what_is_sent_today(name):
    """With every field set: what 0.1 does not know it passes over, and the rest arrives."""
    today = full(WIRE[name])
    if name == "Batch":
        today = msgspec.structs.replace(today, items=[full(kind) for kind in RECORDS])
        arrived = msgspec.msgpack.decode(wire.encode(today), type=old.Batch)
    else:
        arrived = msgspec.json.decode(wire.encode(today), type=OLD[name])
    known_said(arrived, today)


def known_said(arrived, sent):
    """Assert that what an old structure knows says what was sent."""
    if isinstance(arrived, msgspec.Struct):
        for name in arrived.__struct_fields__:
            known_said(getattr(arrived, name), getattr(sent, name))
    elif isinstance(arrived, (list, tuple)):
        for one, other in zip(arrived, sent, strict=True):
            known_said(one, other)
    elif isinstance(arrived, dict):
        assert arrived.keys() == sent.keys()
        for name, part in arrived.items():
            known_said(part, sent[name])
    else:
        assert arrived == sent


@pytest.mark.parametrize("name", sorted(WIRE))
def test_no_structure_of_the_wire_refuses_what_a_newer_neighbour_adds(name):
    assert not WIRE[name].__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("name", sorted(OLD.keys() - {"_Strict"}))
def test_a_field_of_0_1_stays_and_no_new_one_is_required(name):
    now = {field.name: field for field in msgspec.structs.fields(WIRE[OLD_NAMES.get(name, name)])}
    before = {field.name: field for field in msgspec.structs.fields(OLD[name])}
    assert before.keys() <= now.keys(), "a field that 0.1 sends or reads is gone"
    for field in now.values():
        was = before.get(field.name)
        if was is None:
            assert not field.required, f"0.1 does not send {field.name}"
        else:
            assert field.required <= was.required
            assert repr(field.default) == repr(was.default), (
                f"a {field.name} that is left out must mean the same"
            )
