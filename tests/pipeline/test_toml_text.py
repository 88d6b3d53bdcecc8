"""Single values change in a TOML text, and nothing else does."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import ConfigError
from edgekit.pipeline.config import load_config
from edgekit.pipeline.shape_file import ShapeFile
from edgekit.pipeline.toml_text import statements, toml_value, with_tables

DOOR = '''# the door of the house
[pipeline]
name = "door"  # by which it is known
model = "person-detect"

[source]
kind = "camera"
uri = """
[[zone]]
not a zone \\""" still not"""

# where people wait
[[zone]]
name = "mat"      # the doormat
polygon = [
  [0.1, 0.2],     # the corner by the bell
  [0.6, 0.2], [0.6, 0.9],
]
count = "enter"   # those who come

[[zone]]
name = "road"
polygon = [[0, 0], [1, 0], [1, 0.1]]

# who it is for
[[sink]]
kind = "jsonl"
path = "out # not a comment.jsonl"
'''
TRIANGLE = [[0.5, 0.5], [0.75, 0.5], [0.5, 1.0]]


def decoded(text):
    return msgspec.toml.decode(text)


def test_a_polygon_is_replaced_and_comments_and_other_keys_stay():
    rows = [{"name": "road", "polygon": [[0, 0], [1, 0], [1, 0.1]]}, {"name": "mat", "polygon": TRIANGLE}]
    text = with_tables(DOOR, "zone", rows)
    expected = decoded(DOOR)
    expected["zone"][0]["polygon"] = TRIANGLE
    assert decoded(text) == expected
    for comment in ("the doormat", "those who come", "where people wait", "who it is for"):
        assert f"# {comment}" in text


def test_a_zone_is_added_after_the_last_one_and_taken_out_with_its_comment():
    text = with_tables(DOOR, "zone", [{"name": "step", "polygon": TRIANGLE}])
    assert [zone["name"] for zone in decoded(text)["zone"]] == ["step"]
    assert "doormat" not in text
    assert "where people wait" not in text
    assert text.index('[[zone]]\nname = "step"') < text.index("# who it is for") < text.index("[[sink]]")
    assert decoded(with_tables(DOOR, "zone", [])) == {k: v for k, v in decoded(DOOR).items() if k != "zone"}


def test_any_text_and_number_comes_back_from_its_toml():
    for value in ["".join(map(chr, range(0x2100))), '\U0001f600"\\', [1, -2.5, ["a"]], True]:
        assert msgspec.toml.decode(f"key = {toml_value(value)}\n")["key"] == value


def test_the_first_table_of_a_kind_ends_the_text():
    text = with_tables(DOOR.rstrip("\n"), "line", [{"name": "sill", "points": [[0, 0.5], [1, 0.5]]}])
    assert text.startswith(DOOR.rstrip("\n"))
    assert decoded(text)["line"] == [{"name": "sill", "points": [[0, 0.5], [1, 0.5]]}]


def test_tables_without_a_name_are_known_by_their_place():
    first = "[[blackout]]\npolygon = [[0, 0], [1, 0], [1, 1]] # the neighbours\n"
    text = first + "[[blackout]]\npolygon = [[0, 0]]\n"
    changed = with_tables(text, "blackout", [{"polygon": TRIANGLE}])
    assert decoded(changed) == {"blackout": [{"polygon": TRIANGLE}]}
    assert "# the neighbours" in changed


@given(st.text(alphabet="[]{}#=\"'\\\n ab1,", max_size=60))
def test_the_statements_of_any_text_are_the_text(text):
    assert "".join(row.text for row in statements(text)) == text


def test_zones_are_saved_into_the_file_and_a_wrong_one_leaves_it_as_it_was(tmp_path):
    path = tmp_path / "door.toml"
    path.write_text(DOOR.replace("[source]", "[track]\n\n[source]"))
    file = ShapeFile(path)
    assert [zone["name"] for zone in file.shapes()["zone"]] == ["mat", "road"]
    file.save({"zone": [{"name": "mat", "polygon": TRIANGLE}], "line": []})
    config = load_config(path)
    assert [(zone.name, zone.count) for zone in config.zones] == [("mat", "enter")]
    assert "# those who come" in path.read_text()
    before = path.read_bytes()
    for wrong in (
        [{"name": "Mat!", "polygon": TRIANGLE}],
        [{"name": "mat", "polygon": [[0, 0], [2, 2]]}],
        "zone",
    ):
        with pytest.raises(ConfigError):
            file.save({"zone": wrong})
        assert path.read_bytes() == before


def test_a_form_that_cannot_be_changed_in_place_is_refused(tmp_path):
    path = tmp_path / "door.toml"
    text = DOOR.partition("# where people wait")[0]
    path.write_text('zone = [{name = "mat", polygon = [[0, 0], [1, 0], [1, 1]]}]\ntrack = {}\n' + text)
    with pytest.raises(ConfigError, match="in place|not TOML"):
        ShapeFile(path).save({"zone": [{"name": "mat", "polygon": TRIANGLE}]})


def test_the_first_line_brings_the_tracker_with_it(tmp_path):
    path = tmp_path / "door.toml"
    path.write_text(DOOR.partition("# where people wait")[0])
    ShapeFile(path).save({"line": [{"name": "sill", "points": [[0.0, 0.5], [1.0, 0.5]]}]})
    config = load_config(path)
    assert config.track is not None
    assert config.lines[0].name == "sill"
