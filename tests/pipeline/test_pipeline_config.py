"""A pipeline's file is checked whole, and every mistake is told at once."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import ConfigError
from edgekit.pipeline.config import load_config, parse_config
from edgekit.pipeline.sinks import SINKS
from edgekit.pipeline.sources import SOURCES

WHOLE = """
[pipeline]
name = "door"
model = "person-detect"
[source]
kind = "camera"
uri = "0"
fps = 15
[budget]
p95_ms = 80
[privacy]
egress = ["counts", "boxes"]
redact = ["person"]
[model]
threads = 2
score_threshold = 0.4
[events]
appear = 2
[[sink]]
kind = "mqtt"
[[sink]]
kind = "jsonl"
path = "out.jsonl"
"""


def reasons(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "p.toml")
    return caught.value.reasons


def test_the_example_of_the_design_is_valid():
    config = parse_config(WHOLE)
    assert (config.pipeline.name, config.source.kind, config.source.options.fps) == ("door", "camera", 15.0)
    assert [sink.kind for sink in config.sinks] == ["mqtt", "jsonl"]
    assert config.privacy.egress == ("counts", "boxes")
    assert config.model.score_threshold == 0.4
    assert config.model.iou_threshold is None
    assert config.events.appear == 2


def test_every_problem_is_told_at_once_with_its_key():
    found = reasons(
        WHOLE.replace("fps = 15", 'fps = "fast"\nzoom = 2')
        .replace("p95_ms = 80", "p95_ms = -1")
        .replace('path = "out.jsonl"', "")
        .replace('name = "door"', "")
        + "[extra]\n"
    )
    assert [reason.split(": ")[0] for reason in found] == [
        "p.toml:extra",
        "p.toml:pipeline.name",
        "p.toml:budget.p95_ms",
        "p.toml:source.zoom",
        "p.toml:source.fps",
        "p.toml:sink[1].path",
    ]
    assert "p.toml:source.fps: want a float, got 'fast'" in found
    assert "p.toml:budget.p95_ms: want a float >= 0.0, got -1" in found
    assert all(": want " in reason and ", got " in reason for reason in found)


def test_a_mistake_of_form_does_not_hide_the_mistakes_of_value_beside_it():
    """One run names all: keys that are missing, of a wrong type, unknown, and of a value that cannot be."""
    found = reasons(
        WHOLE.replace('name = "door"\nmodel = "person-detect"', 'name = "The Door"\nmodle = "m"')
        .replace('egress = ["counts", "boxes"]', 'egress = ["faces"]\nredact_hold = "long"')
        .replace("appear = 2", "appear = 9\nvanish = 0")
        .replace('kind = "mqtt"', 'kind = "mqtt"\ntopic = "a/#"\nqos = 1')
    )
    keys = [reason.split(":")[1] for reason in found]
    assert keys == [
        "pipeline.modle",
        "pipeline.name",
        "pipeline.model",
        "privacy.redact_hold",
        "privacy.egress[0]",
        "events.vanish",
        "events.appear",
        "sink[0].qos",
        "sink[0].topic",
    ]


def test_an_unknown_kind_names_the_known_ones():
    (reason,) = reasons(WHOLE.replace('kind = "camera"', 'kind = "webcam"'))
    built = ", ".join(sorted(SOURCES))
    assert ", camera, " in built
    assert reason == (
        f"p.toml:source.kind: want one of {built}, got 'webcam', "
        "which no installed package adds (group edgekit.sources)"
    )


def test_a_sink_that_sends_off_the_device_needs_egress():
    (reason,) = reasons(WHOLE.replace('egress = ["counts", "boxes"]', ""))
    assert reason == "p.toml:sink[0]: want [privacy] egress to name what it may send, got nothing"


def test_appear_cannot_be_more_than_its_window():
    (reason,) = reasons(WHOLE.replace("appear = 2", "appear = 9\nwindow = 4"))
    assert reason == "p.toml:events.appear: want at most events.window (4), got 9"


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("pipeline = 3", "pipeline: want a table, got 3"),
        ('[pipeline]\nname = "a"\nmodel = "m"', "source: want a table, got nothing"),
        (WHOLE.replace("[[sink]]\n", "", 2).replace('kind = "mqtt"', "", 1), "is not"),
        ('[pipeline]\nname = "Bad Name"\nmodel = ""', "pipeline.name: want lower-case letters"),
        ("sink = 5", "sink: want [[sink]] tables, got 5"),
        ("sink = [5]", "sink[0]: want a table, got 5"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_words(text, needle):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "p.toml")
    assert needle in caught.value.render()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read"):
        load_config(tmp_path / "nothing.toml")


def test_relative_paths_start_beside_the_file(tmp_path):
    (tmp_path / "p.toml").write_text(WHOLE)
    assert load_config(tmp_path / "p.toml").folder == str(tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=4,
)
KEYS = ["kind", "uri", "fps", "path", "name", "model", "egress", "redact", "appear", "threads", "topic"]
tables = st.dictionaries(st.sampled_from(KEYS), values | st.sampled_from([*SOURCES, *SINKS]), max_size=4)


def to_toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return '""'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {to_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return repr(value) if not isinstance(value, str) else f'"{value}"'


@given(
    st.dictionaries(
        st.sampled_from(["pipeline", "source", "sink", "privacy", "events", "q"]), tables | values
    )
)
def test_no_table_whatever_is_in_it_gives_anything_but_a_config_error(document):
    text = "\n".join(f"{key} = {to_toml(value)}" for key, value in document.items())
    with contextlib.suppress(ConfigError):
        parse_config(text)


@given(st.binary(max_size=200))
def test_no_bytes_give_anything_but_a_config_error(data):
    with pytest.raises(ConfigError):
        parse_config(data)


def test_an_order_that_gives_up_nothing_or_the_same_twice_is_refused():
    for order in ("[]", '["rate", "rate"]'):
        (reason,) = reasons(WHOLE.replace("p95_ms = 80", f"p95_ms = 80\norder = {order}"))
        assert reason.startswith("p.toml:budget.order: want each at most once, and at least one, got")
    (reason,) = reasons(WHOLE.replace("p95_ms = 80", 'p95_ms = 80\norder = ["regions"]'))
    assert reason.startswith("p.toml:budget.order[0]: want ")


TRACKED = """
[track]
labels = ["person"]
[[zone]]
name = "hall"
polygon = [[0, 0], [1, 0], [1, 1]]
[[line]]
name = "door"
points = [[0.5, 0], [0.5, 1]]
"""


def test_zones_and_lines_are_checked_like_every_other_table():
    config = parse_config(WHOLE + TRACKED)
    assert config.track.labels == ("person",)
    assert config.zones[0].polygon == ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    assert config.lines[0].directions == ("forward", "backward")
    wrong = (
        TRACKED.replace("[1, 1]]", "[2, 1]]")
        .replace("[0.5, 1]]", "[0.5, 0]]\ndirections = ['in', 'in']")
        .replace('["person"]', '["person"]\nmin_height = 0.9\nmax_height = 0.5\nground = [[0, 0]]\niou = 0.3')
        + '[[zone]]\nname = "bow"\npolygon = [[0, 0], [1, 1], [1, 0], [0, 1]]\n'
        + '[[zone]]\nname = "bow"\npolygon = [[0, 0], [1, 1]]\n'
    )
    assert [reason.removeprefix("p.toml:").split(": ")[0] for reason in reasons(WHOLE + wrong)] == [
        "track.iou",
        "track.min_height",
        "track.ground",
        "zone[0].polygon[2][0]",
        "zone[1].polygon",
        "zone[2].polygon",
        "line[0].points",
        "line[0].directions",
    ]
    twice = TRACKED + '[[line]]\nname = "door"\npoints = [[0, 0], [1, 1]]\n'
    assert reasons(WHOLE + twice) == ("p.toml:line: the name 'door' stands twice",)


def test_zones_and_lines_need_a_tracker():
    found = reasons(WHOLE + TRACKED.replace('[track]\nlabels = ["person"]', ""))
    assert [reason.split(", since")[0] for reason in found] == [
        "p.toml:zone: want a [track] table beside it",
        "p.toml:line: want a [track] table beside it",
    ]


STAGED = """
[pipeline]
name = "gate"
[source]
kind = "synthetic"
[[stage]]
name = "people"
model = "person-detect"
every = 2
score_threshold = 0.4
[[stage]]
name = "face"
model = "face-embed"
on = "people"
gallery = "known.json"
"""


def test_the_first_stage_is_the_pipelines_model():
    config = parse_config(STAGED)
    assert (config.pipeline.model, config.model.score_threshold) == ("person-detect", 0.4)
    assert [(stage.name, stage.on, stage.every) for stage in config.stages] == [
        ("people", "frames", 2),
        ("face", "people", 1),
    ]
    assert parse_config(WHOLE).stages == ()


@pytest.mark.parametrize(
    ("old", "new", "needle"),
    [
        (
            'name = "gate"',
            'name = "gate"\nmodel = "m"',
            "stage: want the models in the [[stage]] tables alone",
        ),
        ('on = "people"', 'on = "cars"', "stage[1].on: want 'frames' or a stage before it, got 'cars'"),
        (
            'on = "people"',
            'on = "people"\ntiles = [2, 2]',
            "stage[1].on: want 'frames', since tiles and motion",
        ),
        ('model = "face-embed"', "", "stage[1].model: want either a model or a function"),
        ('name = "face"', 'name = "people"', "stage[1].name: the name 'people' stands twice"),
        ("every = 2", 'on = "face"', "stage[0].on: want 'frames' of the first stage, got 'face'"),
        ("every = 2", "every = 0", "stage[0].every: want an int >= 1, got 0"),
    ],
)
def test_a_graph_that_cannot_be_is_refused_with_the_key(old, new, needle):
    assert any(needle in reason for reason in reasons(STAGED.replace(old, new))), reasons(
        STAGED.replace(old, new)
    )
