"""``edgekit replay``: what another pipeline would have made of a recording."""

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_detector

from edgekit.pipeline.differences import COLORS
from edgekit.pipeline.switch import Switch

FOLDER = Path(__file__).parents[2] / "examples" / "detect"
FRAMES = 24
PIPELINE = """[pipeline]
name = "{name}"
model = "{model}"
[source]
kind = "rtsp"
uri = "rtsp://192.0.2.1/never-opened"
[privacy]
egress = ["counts"]
{privacy}
[events]
appear = 2
window = 3
vanish = 2
{rest}
"""


def write(folder, name, model, rest="", privacy=""):
    path = folder / f"{name}.toml"
    path.write_text(PIPELINE.format(name=name, model=model, rest=rest, privacy=privacy))
    return path


def write_video(path, pictures):
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def shapes_bundle(folder, net, labels):
    """Our own detector's bundle, as ``edgekit import`` makes it of the export, for one runtime."""
    folder.mkdir()
    net.export(folder / "net.onnx")
    (folder / "labels.txt").write_text("\n".join(labels))

    def row(name):
        data = (folder / name).read_bytes()
        return {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    manifest = {
        "format": 1,
        "model": "shapes",
        "version": "1.0.0",
        "task": "detect",
        "labels": "labels.txt",
        "files": [row("labels.txt")],
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 128, 128, 3], "layout": "NHWC"}],
        "outputs": [{"name": "predictions", "datatype": "FP32", "shape": [1, 7, 336]}],
        "pre": {"resize": "letterbox", "mean": [0], "std": [255]},
        "post": {
            "decoder": "yolo",
            "score_threshold": 0.25,
            "options": {"layout": "columns", "box": "cxcywh", "units": "pixels"},
        },
        "variants": [
            {
                "id": "onnxruntime-fp32",
                "backend": "onnxruntime",
                "layout": "NCHW",
                "inputs": {"image": "images"},
                "outputs": {"predictions": "output0"},
                "files": [row("net.onnx")],
            }
        ],
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Our own detector's bundle, and a video of four scenes, each for six frames."""
    folder = tmp_path_factory.mktemp("shapes")
    sys.path.insert(0, str(FOLDER))
    try:
        import net
        import scenes

        bundle = shapes_bundle(folder / "shapes", net, scenes.LABELS)
        pictures = [scenes.scene(seed, 320, 240)[0] for seed in range(300, 304) for _ in range(6)]
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("net", "scenes"):
            sys.modules.pop(name, None)
    return bundle, write_video(folder / "scenes.avi", pictures)


@pytest.fixture
def face(tmp_path):
    """A model that sees a face in the middle of each picture, another that sees a cat there, and a video."""
    make_detector(tmp_path / "face", labels=("face",))
    make_detector(tmp_path / "cat", labels=("cat",))
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[32:64, 32:64] = (255, 0, 255)
    write_video(tmp_path / "door.avi", [picture] * FRAMES)
    return tmp_path


def test_a_stricter_threshold_loses_items_and_events_as_table_and_picture(
    shapes, tmp_path, edgekit, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bundle, video = shapes
    usual = write(tmp_path, "usual", bundle, "[track]")
    strict = write(tmp_path, "strict", bundle, "[track]\n[model]\nscore_threshold = 0.95")
    done = edgekit("replay", video, usual, "--against", strict, "--json")
    document = done.document
    assert (done.code, document["frames"], document["differ"]) == (0, FRAMES, True)
    assert [row["pipeline"] for row in document["runs"]] == ["usual", "strict"]
    lost = sum(row["only_a"] for row in document["items"].values())
    assert lost > sum(row["only_b"] for row in document["items"].values())
    assert document["kinds"]["appeared"]["a"] > document["kinds"]["appeared"]["b"]
    for row in document["events"]:
        assert row["a"] is None or row["b"] is None or row["a"]["seq"] != row["b"]["seq"]
    picture = cv2.imread(document["picture"]["path"])
    assert picture.shape == (240, 320, 3)
    assert (np.abs(picture.astype(int) - COLORS[0]).max(axis=2) == 0).sum() > 50
    again = edgekit("replay", video, usual, "--against", strict, "--json").document
    assert again == document  # the same each time
    text = edgekit("replay", video, usual, "--against", strict).out
    assert "items, frame by frame" in text
    assert "picture: scenes.replay.png, frame" in text


def test_a_pipeline_against_itself_does_not_differ_and_draws_nothing(shapes, tmp_path, edgekit, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle, video = shapes
    path = write(tmp_path, "same", bundle, "[track]")
    done = edgekit("replay", video, path, "--against", path, "--json")
    assert (done.code, done.document["differ"], done.document["picture"]) == (0, False, None)
    assert done.document["events"] == []
    assert list(tmp_path.glob("*.png")) == []


def test_no_sink_is_opened_and_a_pipeline_that_is_switched_off_plays_too(face, edgekit, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STATE", str(face / "state"))
    Switch(face / "state/pipelines/seen/switch.json").turn(on=False)
    sinks = """
[[sink]]
kind = "jsonl"
path = "out.jsonl"
[[sink]]
kind = "http"
url = "http://192.0.2.1/"
[[sink]]
kind = "mqtt"
url = "mqtt://192.0.2.1"
"""
    path, other = (write(face, name, "face", sinks) for name in ("seen", "other"))
    done = edgekit("replay", face / "door.avi", path, "--against", other, "--json")
    assert (done.code, done.document["frames"], done.document["differ"]) == (0, FRAMES, False)
    assert not (face / "out.jsonl").exists()
    assert sorted(p.name for p in (face / "state").rglob("*") if p.is_file()) == ["switch.json"]


@pytest.mark.parametrize("hides", ["a", "b"])
def test_what_either_pipeline_hides_is_in_no_picture(face, edgekit, hides):
    redact = {"a": ("face", ""), "b": ("", "cat")}[hides]
    rows = [f'redact = ["{label}"]\nredact_style = "fill"' if label else "" for label in redact]
    faces, cats = write(face, "faces", "face", privacy=rows[0]), write(face, "cats", "cat", privacy=rows[1])
    done = edgekit("replay", face / "door.avi", faces, "--against", cats, "-o", face / "both.png", "--json")
    assert (done.code, done.document["items"]["face"]["only_a"]) == (0, FRAMES)
    picture = cv2.imread(str(face / "both.png")).astype(int)
    assert not (np.abs(picture - (255, 0, 255)).max(axis=2) < 70).any()


def test_an_events_id_or_trace_finds_its_clip_and_what_was_recorded_is_compared(face, edgekit):
    clips = face / "visits"
    clips.mkdir()
    (face / "door.avi").rename(clips / "x.mp4")
    events = [
        {"id": "7c1f", "trace_id": "ab12", "kind": "appeared", "label": "face", "seq": 40},
        {"id": "7c20", "kind": "appeared", "label": "dog", "seq": 60},
    ]
    (clips / "x.json").write_text(json.dumps(events))
    path = write(face, "door", "face", '[[sink]]\nkind = "clips"\npath = "visits"')
    for word in ("7c1f", "ab12", clips / "x.mp4", clips / "x.json"):
        done = edgekit("replay", word, path, "--json")
        assert (done.code, done.document["runs"][0]["name"]) == (0, "recorded")
        (missing,) = done.document["events"]
        assert (missing["label"], missing["a"], missing["b"]) == ("dog", {"seq": 60, "media_s": None}, None)
    assert "dog: A recorded, B not" in edgekit("replay", "7c1f", path).out
    done = edgekit("replay", "nonesuch", path, "--json")
    assert (done.code, "nonesuch" in done.error["message"]) == (2, True)


def test_a_video_with_nothing_beside_it_needs_another_pipeline(face, edgekit):
    path = write(face, "door", "face")
    done = edgekit("replay", face / "door.avi", path, "--json")
    assert done.code == 2
    assert "--against" in done.error["hint"]


def test_a_frame_that_fails_ends_it_as_an_error_and_not_as_a_difference(face, edgekit):
    manifest = json.loads((face / "cat/bundle.json").read_text())
    manifest["variants"][0]["options"]["fail_at"] = [5]
    (face / "cat/bundle.json").write_text(json.dumps(manifest))
    faces, cats = write(face, "faces", "face"), write(face, "cats", "cat")
    assert edgekit("replay", face / "door.avi", faces, "--against", cats, "--json").code == 5
