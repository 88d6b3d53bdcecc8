"""One table says what can leave a device, and everything works from it."""

import re
from pathlib import Path

import msgspec
import pytest

from edgekit.core import wire
from edgekit.core.egress import CLASSES, ENVELOPE, LISTS, NAMES, UNKNOWN, class_of, passing, permitted, sizes
from edgekit.core.spec import Item
from edgekit.core.tasks import TASKS
from edgekit.pipeline.events import Event

ROOT = Path(__file__).parents[2]
SEEN = {
    "kind": "appeared",
    "seq": 4,
    "label": "car",
    "previous": "dog",
    "count": 2,
    "total": 3,
    "score": 0.5,
    "value": 7.0,
    "box": [1, 2, 3, 4],
    "points": [[1, 2]],
    "mask": "m",
    "track": 8,
    "text": "AB 123",
    "vector": [0.5],
    "raw": [1],
    "crop": "c",
    "image": "i",
    "audio": "a",
}


def test_a_field_belongs_to_one_class():
    fields = [field for row in CLASSES.values() for field in row.fields]
    assert len(fields) == len(set(fields))
    assert not set(fields) & set(LISTS)


@pytest.mark.parametrize("kind", [Item, Event, wire.EventRecord])
def test_every_field_of_what_is_seen_has_a_class(kind):
    """A field that somebody adds must be given a class first; until then it never leaves."""
    fields = set(kind.__struct_fields__) - {"item"}  # whose own fields have classes
    assert [field for field in fields if class_of(field) == UNKNOWN] == []


@pytest.mark.parametrize("name", NAMES)
def test_one_class_lets_out_its_own_fields_and_the_envelope_alone(name):
    kept = permitted(SEEN, passing([name], "broker"))
    assert {class_of(field) for field in kept} == {name, ENVELOPE}
    assert kept == {field: value for field, value in SEEN.items() if class_of(field) in (name, ENVELOPE)}


def test_counts_are_a_total_and_no_label():
    document = {
        "pipeline": "p",
        "total": 2,
        "counts": {"car": 2},
        "items": [{"label": "car", "score": 1.0}] * 2,
    }
    assert permitted(document, {"counts"}) == {"pipeline": "p", "total": 2}
    assert permitted(document, {"labels"})["items"] == [{"label": "car"}] * 2


def test_a_field_without_a_class_never_leaves():
    assert permitted({"license_plate": "AB 123"}, CLASSES) == {}


def test_what_the_device_says_of_itself_goes_to_its_fleet_only():
    assert "health" in passing([], "fleet")
    assert "health" not in passing([], "broker")


def test_sizes_are_by_class_at_any_depth():
    document = {"seq": 1, "total": 2, "items": [{"label": "car", "score": 1.0}, {"label": "dog"}]}
    assert sizes(document, lambda _, value: len(str(value))) == {"counts": 1, "labels": 6, "scores": 3}


def test_the_vocabulary_stands_in_one_table():
    """A literal that names three classes of data is a second table; a task names those of its items."""
    quoted = re.compile("|".join(f'"{name}"' for name in NAMES))
    found = set()
    for folder in ("edgekit", "fleet/edgekit_fleet"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for literal in re.findall(r"[(\[{][^()\[\]{}]*[)\]}]", text):
                if len(set(quoted.findall(literal))) >= 3:
                    found.add(str(path.relative_to(ROOT)))
    assert found - {"edgekit/core/egress.py"} == {"edgekit/core/tasks.py"}
    assert {name for row in TASKS.values() for name in row.egress} <= set(NAMES)
    assert quoted.search((ROOT / "edgekit/core/egress.py").read_text())


def test_the_documentation_shows_the_table():
    text = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    for name, row in CLASSES.items():
        receivers = ", ".join(row.receivers) + (" (always)" if row.is_free else "")
        assert f"| `{name}` | {row.covers} | {receivers} |" in text


def test_an_event_of_version_0_1_has_no_total():
    old = msgspec.msgpack.encode(
        {"type": "event", "mono_ns": 1, "unix_ms": 2, "pipeline": "p", "model": "m", "version": "1",
         "kind": "k", "label": "car", "count": 2}
    )  # fmt: skip
    assert wire.decode_record(old).total == 0
