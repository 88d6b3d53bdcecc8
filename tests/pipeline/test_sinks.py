"""Sinks tell what they may, where they were told to, and say when they cannot."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_results import BOX, CAR, event, result

from edgekit.core.egress import LISTS, UNKNOWN, class_of
from edgekit.core.errors import ConfigError, StorageError
from edgekit.core.ports import Sink
from edgekit.core.spec import Item, Mask, Parent, Prediction
from edgekit.pipeline.masks import to_mask
from edgekit.pipeline.plain_video import PlainVideo
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.callback import CallbackOptions
from edgekit.pipeline.sinks.document import event_documents, result_document
from edgekit.pipeline.sinks.jsonl import JsonlOptions
from edgekit.pipeline.sinks.mqtt import MqttOptions
from edgekit.pipeline.sinks.video import VideoOptions, draw


def context(folder, **ports):
    return SinkContext(pipeline="door", folder=folder, **ports)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_takes_one_line_for_each_frame(tmp_path):
    sink = make_sink("jsonl", JsonlOptions(path="out/r.jsonl"), context(tmp_path))
    assert isinstance(sink, Sink)
    sink.write(result())
    sink.write(result(events=[event(item=CAR, count=1)], seq=4))
    sink.close()
    sink.close()
    first, second = lines(tmp_path / "out/r.jsonl")
    assert (first["seq"], first["items"], first["counts"]) == (
        3,
        [{"label": "car", "score": 0.9, "index": 1, "box": list(BOX)}],
        {"car": 1},
    )
    assert second["events"][0]["kind"] == "appeared"
    assert first["stage_ms"] == {"infer": 1.235}


def test_a_file_of_events_has_none_for_a_frame_without(tmp_path):
    sink = make_sink("jsonl", JsonlOptions(path="e.jsonl", what="events"), context(tmp_path))
    sink.write(result())
    sink.write(result(events=[event(), event(label="dog", kind="vanished")]))
    sink.close()
    assert [(line["kind"], line["label"]) for line in lines(tmp_path / "e.jsonl")] == [
        ("appeared", "car"),
        ("vanished", "dog"),
    ]


def test_a_file_never_grows_beyond_its_bound(tmp_path):
    sink = make_sink("jsonl", JsonlOptions(path="r.jsonl", max_mb=0.002), context(tmp_path))
    for seq in range(100):
        sink.write(result(seq=seq))
    sink.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"r.jsonl", "r.jsonl.1"}
    assert max(sizes.values()) < 2500
    newest = [line["seq"] for name in ("r.jsonl.1", "r.jsonl") for line in lines(tmp_path / name)]
    assert newest == list(range(newest[0], 100))


@pytest.mark.parametrize("kind", ["jsonl", "video"])
def test_a_file_that_cannot_be_written_says_so(tmp_path, kind):
    (tmp_path / "file").write_text("in the way")
    options = {"jsonl": JsonlOptions, "video": VideoOptions}[kind](path="file/below.mp4")

    def write():
        sink = make_sink(kind, options, context(tmp_path))
        for seq in range(2):  # an image is written with the next one
            sink.write(result(seq=seq))

    with pytest.raises(StorageError, match="cannot be written"):
        write()


def test_a_full_disk_is_a_storage_error():
    sink = make_sink("jsonl", JsonlOptions(path="/dev/full"), context(Path("/")))
    for _ in range(2):
        with pytest.raises(StorageError, match="No space left"):
            sink.write(result())
    sink.close()


def test_a_video_shows_the_boxes(tmp_path):
    sink = make_sink("video", VideoOptions(path="v.mp4"), context(tmp_path, source_fps=lambda: 12.5))
    for seq in range(5):
        sink.write(result(seq=seq))
    sink.close()
    assert frames_with_a_box(tmp_path / "v.mp4") == 5


def frames_with_a_box(path):
    capture = cv2.VideoCapture(str(path))
    count = 0
    while True:
        is_there, pixels = capture.read()
        if not is_there:
            break
        count += 1
        assert np.abs(pixels[20, 15:38].astype(int) - 50).max() > 40  # the box's upper edge
        assert np.abs(pixels[35, 20:30].astype(int) - 50).max() < 20  # its inside
    capture.release()
    return count


def test_without_pyav_videos_are_webm_under_names_that_are_free(tmp_path, monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else find(name))
    options = VideoOptions(path="v.mp4", minutes=0.001)
    for _ in range(2):
        sink = make_sink("video", options, context(tmp_path, source_fps=lambda: 50.0))
        for seq in range(5):
            sink.write(result(seq=seq))
        sink.close()
        sink.close()
    assert "PyAV is not installed" in caplog.text
    counts = {path.name: frames_with_a_box(path) for path in tmp_path.iterdir()}
    assert counts == {"v.webm": 3, "v-2.webm": 2, "v-3.webm": 3, "v-4.webm": 2}


def test_without_pyav_the_oldest_files_of_a_sink_keep_its_quota(tmp_path):
    video = PlainVideo(tmp_path / "v.mp4", 0.1, 40_000)
    noise = np.random.default_rng(0)
    for _ in range(40):
        video.add(noise.integers(0, 256, (120, 160, 3), np.uint8), 20.0)
    video.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert 1 < len(sizes) < 20
    assert sum(sizes) <= 40_000 + max(sizes)


def test_drawing_leaves_the_frame_alone():
    pixels = np.full((60, 80, 3), 50, np.uint8)
    items = (
        Item(label="face", score=0.5, index=0, box=BOX, points=((15, 25),)),
        Item(label="walk", score=1.0),
    )
    drawn = draw(pixels, Prediction(task="face", items=items))
    assert (pixels == 50).all()
    assert (drawn != 50).any()


@pytest.mark.parametrize(
    ("item", "on", "off"),
    [
        (
            Item(oriented_box=(40, 30, 20, 10, np.pi / 2)),
            (20, 35),
            (35, 50),
        ),  # its upper edge; none where it is not turned
        (Item(mask=to_mask(np.eye(2, dtype=bool), (20, 10, 60, 50))), (40, 50), (20, 50)),
        (Item(points=((30, 30),)), (30, 30), (30, 34)),
    ],
)
def test_whatever_has_a_place_is_drawn_there(item, on, off):
    drawn = draw(np.full((60, 80, 3), 50, np.uint8), Prediction(task="tomorrow", items=(item,)))
    assert (drawn[on] != 50).any()
    assert (drawn[off] == 50).all()


def test_a_mask_that_lies_partly_outside_is_drawn_where_it_is():
    whole = to_mask(np.ones((3, 5), bool), (-40, 30, 40, 90))
    drawn = draw(np.full((60, 80, 3), 50, np.uint8), Prediction(task="x", items=(Item(mask=whole),)))
    assert (drawn[35:, :40] != 50).any(axis=2).all()
    assert (drawn[:, 42:] == 50).all()


def test_a_document_has_what_its_item_has_whatever_the_task(tmp_path):
    found = Item(
        label="plate", score=0.98765, oriented_box=(40.04, 30, 20, 10, 0.12345), text="B-XY 12", track=7,
        parent=Parent(stage="cars", item=0), point_names=("a",), points=((1.26, 2),), point_scores=(0.5,),
    )  # fmt: skip
    document = result_document(result(found=Prediction(task="tomorrow", items=(found, Item(value=3.25)))))
    assert document["items"] == [
        {
            "label": "plate",
            "score": 0.9877,
            "points": [[1.3, 2]],
            "oriented_box": [40.04, 30, 20, 10, 0.123],
            "point_names": ("a",),
            "point_scores": [0.5],
            "text": "B-XY 12",
            "track": 7,
            "parent": {"stage": "cars", "item": 0},
        },
        {"value": 3.25},
    ]


def test_a_callback_is_a_function_by_name_or_handed_in(tmp_path):
    seen = []
    make_sink("callback", CallbackOptions(), context(tmp_path, callback=seen.append)).write(result())
    assert len(seen) == 1
    make_sink("callback", CallbackOptions(function="json:dumps"), context(tmp_path)).close()
    for bad in ("json:nothing", "json", "no.such.module:x", ""):
        with pytest.raises(ConfigError, match="callback"):
            make_sink("callback", CallbackOptions(function=bad), context(tmp_path))


# -- what leaves the device


def published(options, *results):
    sent = []

    def connect(url, **access):
        sent.append((url, access))
        return lambda topic, document, on_kept: sent.append((topic, document))

    sink = make_sink("mqtt", options, SinkContext("door", connect=connect))
    for entry in results:
        sink.write(entry)
    sink.close()
    return sent


def test_a_broker_gets_one_message_for_each_event():
    (url, _), (topic, document) = published(
        MqttOptions(url="mqtt://host", topic="site/{pipeline}"),
        result(),
        result(events=[event(count=2, total=3)]),
    )
    assert (url, topic) == ("mqtt://host", "site/door")
    assert document == {
        "pipeline": "door",
        "model": "m",
        "version": "1.0.0",
        "id": "e1",
        "kind": "appeared",
        "label": "car",
        "seq": 3,
        "captured_unix_ms": 7,
        "count": 2,
        "total": 3,
    }


def test_a_brokers_message_is_recognised_when_its_picture_is_taken_again_and_holds_it_until_it_is_kept():
    def kept(seq):
        releases, entry = [], result(events=[event(id=str(seq))], seq=seq)
        entry.frame.meta["identity"] = "a picture"
        entry.hold = lambda: lambda: releases.append(seq)
        sent = []
        connect = lambda url, **access: lambda topic, document, on_kept: sent.append((document, on_kept))
        make_sink("mqtt", MqttOptions(url="mqtt://host"), SinkContext("door", connect=connect)).write(entry)
        ((document, on_kept),) = sent
        assert releases == []
        on_kept()
        assert releases == [seq]
        return document

    first, again = kept(3), kept(0)
    assert first["key"] == again["key"]
    assert first["id"] != again["id"]


def test_files_of_a_broker_lie_beside_the_pipeline(tmp_path):
    sent = []
    (tmp_path / "secret").write_text("hush\nnot this\n")
    options = MqttOptions(url="mqtts://host", ca="ca.pem", user="me", password_file="secret")
    make_sink("mqtt", options, context(tmp_path, connect=lambda url, **access: sent.append(access)))
    assert sent == [{"ca": tmp_path / "ca.pem", "user": "me", "password": "hush"}]


@pytest.mark.parametrize("topic", ["", "#", "a/#", "a/+/b", "a\0b", "a" * 40_000])
def test_a_topic_that_nobody_can_publish_on_is_a_problem(topic):
    (problem,) = MqttOptions(topic=topic).problems()
    assert problem.startswith("topic: want ")


def test_every_field_of_a_document_has_a_class():
    item = Item(
        label="face", score=0.5, box=BOX, points=((1, 2),), value=9.0, oriented_box=(1, 2, 3, 4, 0.5),
        point_names=("nose",), point_scores=(0.5,), text="Ann", vector=(0.5,), track=7,
        mask=Mask(area=BOX, width=1, height=1, runs=(0, 1)), parent=Parent(stage="people", item=0),
        stage="face",
    )  # fmt: skip
    seen = event(item=item, count=1, previous="x", tracks=(7,), end_unix_ms=9)
    full = result(found=Prediction(task="face", items=(item,)), events=[seen])
    documents = [result_document(full), *event_documents(full), *result_document(full)["items"]]
    fields = {field for document in documents for field in document} - set(LISTS)
    assert {field for field in fields if class_of(field) == UNKNOWN} == set()
    assert fields >= set(Item.__struct_fields__) - {"index"}


def test_no_document_ever_holds_pixels():
    assert "data" not in json.dumps(result_document(result()))


def test_a_broker_sink_without_a_way_out_is_refused():
    with pytest.raises(ConfigError, match="nothing here can reach a broker"):
        make_sink("mqtt", MqttOptions(), SinkContext("door"))
