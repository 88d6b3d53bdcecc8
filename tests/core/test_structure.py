"""A mistake in a file names the field, what it may be, and what stands there."""

import enum
from typing import Annotated, Literal, Optional

import msgspec
import pytest

from edgekit.core.errors import BundleError, ConfigError
from edgekit.core.spec import parse_manifest
from edgekit.core.structure import decode_json, decode_toml, structure_problems


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["fast", "slow"]
    colour: Optional[Colour] = None  # noqa: UP045 - both spellings are taken
    rate: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    words: tuple[Literal["counts", "labels"], ...] = ()
    inner: Inner | None = None
    rows: list[Inner] = []
    named: dict[str, Inner] = {}
    pair: tuple[int, str] = (0, "")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"words": ["labels", "count"]}, "words[1]: want one of 'counts', 'labels', got 'count'"),
        ({"inner": {"mode": "quick"}}, "inner.mode: want one of 'fast', 'slow', got 'quick'"),
        (
            {"inner": {"mode": "fast", "colour": "green"}},
            "inner.colour: want one of 'red', 'blue', got 'green'",
        ),
        ({"inner": {}}, "inner.mode: want one of 'fast', 'slow', got nothing"),
        ({"rows": [{"mode": "fast", "rate": -1}]}, "rows[0].rate: want a float > 0.0, got -1"),
        ({"named": {"a": {"mode": "fast", "rat": 1}}}, "named.a.rat: want one of colour, mode, rate, got an"),
        ({"pair": [1, 2]}, "pair[1]: want a str, got 2"),
        ({"pair": [1]}, "pair: want a list of length 2, got [1]"),
        ({"inner": 3}, "inner: want a table | null, got 3"),
        ({"words": "labels"}, "words: want a list, got 'labels'"),
    ],
)
def test_a_mistake_names_its_field_what_is_allowed_and_what_stands_there(raw, problem):
    assert structure_problems(raw, Outer)[0].startswith(problem)


def test_every_mistake_is_reported_at_once():
    raw = {"words": ["x", "labels", "y"], "inner": {"mode": 1, "rat": 2}, "extra": 0}
    assert [line.partition(":")[0] for line in structure_problems(raw, Outer)] == [
        "extra",
        "words[0]",
        "words[2]",
        "inner.rat",
        "inner.mode",
    ]


def test_a_huge_value_is_shortened():
    (problem,) = structure_problems({"words": ["x" * 10_000]}, Outer)
    assert len(problem) < 200


def test_data_that_fits_has_no_problem():
    assert structure_problems({"words": ["labels"], "inner": {"mode": "fast"}}, Outer) == []


def test_a_manifest_names_the_field_the_value_and_the_allowed_values():
    with pytest.raises(BundleError) as caught:
        parse_manifest(
            b'{"format":1,"model":"m","version":"1.0.0","task":"raw","inputs":[],"outputs":[],'
            b'"variants":[{"id":"a","backend":"litert","precision":"int7"},{"backend":"X!"}]}'
        )
    lines = caught.value.render().splitlines()
    assert lines[0].startswith("bundle.json: variants[0].precision: want one of 'fp32', ")
    assert lines[0].endswith("got 'int7'")
    assert "variants[1].id: want a str, got nothing" in lines[1]
    assert "variants[1].backend: want " in lines[2]


def test_what_is_not_json_or_not_toml_is_said():
    with pytest.raises(BundleError, match=r"x\.json: "):
        decode_json(b"{", Outer, "x.json", BundleError)
    with pytest.raises(ConfigError, match=r"x\.toml: not TOML"):
        decode_toml("= 1", Outer, "x.toml")


def test_toml_reports_each_mistake_with_its_file():
    with pytest.raises(ConfigError) as caught:
        decode_toml('words = ["count"]\ncolour = 1\n', Outer, "x.toml")
    assert caught.value.message == "x.toml is not valid"
    assert caught.value.reasons[1] == "x.toml:words[0]: want one of 'counts', 'labels', got 'count'"
