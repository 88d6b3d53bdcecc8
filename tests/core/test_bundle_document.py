"""docs/bundle.md says of every field of the manifest what the structures say."""

import re
import types
import typing
from pathlib import Path

import msgspec
import pytest

from edgekit.core.spec import BUNDLE_FORMAT, Manifest, parse_manifest

TEXT = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")
PLAIN = {str: "text", int: "integer", float: "number", bool: "boolean", typing.Any: "anything"}


def type_name(kind):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in arguments if a is not type(None))
    if origin is typing.Literal:
        return "text"
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"map of {type_name(arguments[1])}"
    return PLAIN.get(kind) or kind.__name__


def default_of(field):
    if field.required:
        return "required"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "`{}`" if isinstance(default, msgspec.Struct) else f"`{msgspec.json.encode(default).decode()}`"


def structures(kind, found):
    """Put every structure below a type into ``found``, by name."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in msgspec.structs.fields(kind):
                structures(field.type, found)
    else:
        for part in typing.get_args(kind):
            structures(part, found)
    return found


STRUCTURES = structures(Manifest, {})
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE))


def test_every_structure_of_the_manifest_has_a_section_and_no_other():
    assert SECTIONS.keys() == STRUCTURES.keys()


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_the_document_has_every_field_with_its_type_default_and_meaning(name):
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.+?) \|$", SECTIONS[name], re.MULTILINE)
    assert [row[:3] for row in rows] == [
        (field.encode_name, type_name(field.type), default_of(field))
        for field in msgspec.structs.fields(STRUCTURES[name])
    ]
    assert all(len(meaning) > 3 for *_, meaning in rows)


def test_the_documents_example_is_a_manifest():
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    manifest = parse_manifest(example.encode(), "docs/bundle.md")
    assert manifest.format == BUNDLE_FORMAT
    assert manifest.every_file()
