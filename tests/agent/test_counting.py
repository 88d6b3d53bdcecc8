"""People counted at a door: from a recording to events in a file, as ``edgekit run`` does it."""

import json
from pathlib import Path

import pytest
from blobs import blob_bundle, film

from edgekit.agent.worker.runner import make_loop, run_pipeline
from edgekit.core.errors import ConfigError
from edgekit.pipeline.config import parse_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "counting.toml"


def way(start, end, frames, y):
    return [(start + (end - start) * n / (frames - 1), y) for n in range(frames)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The example beside its model and its recording: one goes out, one comes in, one only looks."""
    folder = tmp_path_factory.mktemp("door")
    blob_bundle(folder / "people")
    looks = way(0.15, 0.4, 20, 0.15) + way(0.4, 0.15, 20, 0.15)
    film(folder / "door.mp4.avi", [way(0.1, 0.9, 40, 0.5), way(0.9, 0.1, 40, 0.85), looks])
    (folder / "door.mp4.avi").rename(folder / "door.mp4")  # its container is recognised by its content
    (folder / "examples").mkdir()
    (folder / "examples" / "counting.toml").write_text(EXAMPLE.read_text())
    return folder


def test_the_example_counts_who_passes_and_nobody_twice(run_folder):
    document = run_pipeline(run_folder / "examples" / "counting.toml").document
    assert document["frames"]["processed"] == 40
    assert document["tracks"] == 3
    assert document["lines"] == {"door": {"in": {"person": 1}, "out": {"person": 1}}}
    assert document["zones"]["hall"] == {"entered": {"person": 1}, "left": {"person": 1}, "inside": 1}
    events = [json.loads(line) for line in (run_folder / "counted.jsonl").read_text().splitlines()]
    crossed = [event for event in events if event["kind"] == "crossed"]
    assert {event["direction"] for event in crossed} == {"in", "out"}
    assert all(event["line"] == "door" and len(event["tracks"]) == 1 for event in crossed)
    assert all(len(event["trace_id"]) == 32 for event in events)
    (dwelled,) = (event for event in events if event["kind"] == "dwelled")
    # the recording's time, though it is read as fast as it goes
    assert dwelled["dwell_s"] == pytest.approx(2.0, abs=0.11)
    assert dwelled["zone"] == "hall"


def test_a_model_without_boxes_cannot_be_followed():
    from pipeline_fakes import make_predictor

    config = parse_config('[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\n[track]')
    with pytest.raises(ConfigError, match="track: want a model that finds boxes, got fake 1.0.0"):
        make_loop(config, make_predictor())
