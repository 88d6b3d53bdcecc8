"""What is hidden is in no byte that a sink writes or sends: a colour that is nowhere else is looked for."""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import cv2
import numpy as np
import pytest
from brokers import Broker, mosquitto_path
from bundles import make_detector
from mqtt_ear import Ear

from edgekit.agent.worker.runner import make_loop
from edgekit.core.errors import AcceleratorLostError
from edgekit.model.ready import open_ready
from edgekit.pipeline.config import parse_config
from edgekit.sync.publishers import Publishers

COLOUR = (255, 0, 255)  # blue, green, red
SIZE = (96, 96)
FRAMES = 60
PIPELINE = """
[pipeline]
name = "door"
model = "m"
[source]
kind = "video"
uri = "door.avi"
[privacy]
egress = ["counts", "labels", "boxes", "pixels"]
redact = [{redact}]
redact_style = "fill"
[events]
appear = 1
window = 1
{more}
[[sink]]
kind = "video"
path = "seen.mp4"
[[sink]]
kind = "clips"
path = "clips"
[[sink]]
kind = "sqlite"
path = "seen.sqlite"
tables = ["events", "items", "frames"]
[[sink]]
kind = "jsonl"
path = "seen.jsonl"
[[sink]]
kind = "http"
url = "http://127.0.0.1:{http}/"
what = "results"
image = true
[[sink]]
kind = "homeassistant"
url = "mqtt://127.0.0.1:{mqtt}"
image_s = 0.001
[[sink]]
kind = "mqtt"
url = "mqtt://127.0.0.1:{mqtt}"
what = "results"
[[sink]]
kind = "callback"
"""
pytestmark = pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")


def has_colour(pixels):
    """Whether a picture has the colour, as closely as its encoding keeps it."""
    return bool((np.abs(pixels.astype(int) - COLOUR).max(axis=2) < 70).any())


def in_video(path):
    with av.open(str(path)) as container:
        return [has_colour(picture.to_ndarray(format="bgr24")) for picture in container.decode(video=0)]


def in_jpeg(data):
    return has_colour(cv2.imdecode(np.frombuffer(data, np.uint8), 1))


@pytest.fixture
def places(tmp_path):
    """A broker and a web server, with what they were given."""
    broker = Broker("mosquitto", tmp_path)
    broker.start()
    ear, posted = Ear(broker.port), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield broker.port, server.server_address[1], ear, posted
    server.shutdown()
    server.server_close()
    ear.stop()
    broker.kill()


class Books:
    def add(self, *row):
        pass


def run(folder, places, redact, more=""):
    """Run the pipeline; while it runs the model is swapped, and then its accelerator is lost."""
    mqtt, http, _, _ = places
    writer = cv2.VideoWriter(str(folder / "door.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, SIZE)
    for number in range(FRAMES):
        pixels = np.full((*SIZE[::-1], 3), 60 + number, np.uint8)
        pixels[30:66, 30:66] = COLOUR  # within the box that the model finds
        writer.write(pixels)
    writer.release()
    text = PIPELINE.format(redact=redact, more=more, http=http, mqtt=mqtt)
    config = parse_config(text, folder=str(folder))
    first = open_ready(make_detector(folder / "1", version="1.0.0"))
    second = open_ready(make_detector(folder / "2", version="2.0.0"))
    third = open_ready(make_detector(folder / "3", version="2.0.1"))
    publishers, is_time, versions = Publishers("door", config.privacy.egress, Books()), threading.Event(), []

    def seen(result):
        versions.append(result.version)
        if len(versions) == FRAMES // 3:
            is_time.set()
        if versions.count("2.0.0") == 5:
            second.predictor.infer = lost

    def lost(*_):
        raise AcceleratorLostError("unplugged")

    loop = make_loop(
        config,
        first.predictor,
        connect=publishers.connect,
        post=publishers.post,
        callback=seen,
        failover=lambda *_: third.predictor,
    )

    def swap():
        is_time.wait(60)
        loop.swap(second.predictor)

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    try:
        loop.run()
    finally:
        publishers.close()
        for ready in (first, second, third):
            ready.close()
    assert sorted(versions) == versions
    assert {*versions} == {"1.0.0", "2.0.0", "2.0.1"}


def found_in(folder, places):
    """Where the colour is found."""
    _, _, ear, posted = places
    (image,) = (payloads for topic, payloads in ear.heard.items() if topic.endswith("/image"))
    (clip,) = (folder / "clips").glob("*.mp4")
    webhooks = [json.loads(body)["data"]["image"] for body in posted]
    assert len(webhooks) == FRAMES
    with closing(sqlite3.connect(folder / "seen.sqlite")) as db:
        cells = [
            cell
            for name in ("events", "items", "frames")
            for row in db.execute(f"SELECT * FROM {name}")
            for cell in row
        ]
    assert not [cell for cell in cells if isinstance(cell, bytes)]
    files = [path.read_bytes() for path in folder.glob("seen.*") if path.suffix != ".mp4"]
    return {
        "video": any(in_video(folder / "seen.mp4")),
        "clip": any(in_video(clip)),
        "webhook": any(in_jpeg(base64.b64decode(text)) for text in webhooks),
        "image entity": any(map(in_jpeg, image)),
        "files": any(bytes(COLOUR) * 4 in data for data in files),
        "messages": any(bytes(COLOUR) * 4 in p for payloads in ear.heard.values() for p in payloads),
    }


BLACKOUT = "[[blackout]]\npolygon = [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]]"


@pytest.mark.parametrize(("redact", "more"), [('"face"', ""), ("", BLACKOUT)])
def test_a_hidden_colour_is_in_no_byte_of_any_sink_also_during_a_swap_and_a_failover(
    tmp_path, places, redact, more
):
    run(tmp_path, places, redact, more)
    assert found_in(tmp_path, places) == dict.fromkeys(
        ("video", "clip", "webhook", "image entity", "files", "messages"), False
    )


def test_without_redaction_the_same_look_finds_it_wherever_pixels_go(tmp_path, places):
    run(tmp_path, places, "")
    found = found_in(tmp_path, places)
    assert {name for name, is_there in found.items() if is_there} == {
        "video", "clip", "webhook", "image entity",
    }  # fmt: skip


def test_a_redactor_that_fails_lets_no_frame_through(tmp_path, places, monkeypatch):
    from edgekit.pipeline import redact

    def broken(*_):
        raise RuntimeError("no memory for this")

    monkeypatch.setattr(redact, "hide", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        run(tmp_path, places, '"face"')
    assert not (tmp_path / "seen.mp4").exists()
    assert not places[3]
