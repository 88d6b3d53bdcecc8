"""The live page with which the demonstration begins."""

import json
import time
import urllib.request
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from bundles import make_detector

from demonstration.device import Device, video_pipeline
from demonstration.live import LivePage, open_browser
from edgekit.agent.access import read_token
from edgekit.agent.config import load_agent_config
from edgekit.core.errors import ServerError

CHECKS = np.kron(np.indices((6, 8)).sum(0) % 2, np.ones((16, 16), int)).astype(np.uint8) * 255
"""Squares of 16 pixels, black and white: what blurring makes grey."""


@pytest.fixture
def start(tmp_path, proved_cache):
    """Return a function that starts the page of a detector, which finds what is in the middle."""
    make_detector(tmp_path / "faces")
    pixels = np.full((240, 320), 128, np.uint8)
    pixels[72:168, 96:224] = CHECKS
    writer = cv2.VideoWriter(str(tmp_path / "face.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(10):
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))
    writer.release()
    (tmp_path / "logs").mkdir()
    pages = []

    def started(model="faces"):
        folders = (tmp_path, tmp_path / "logs", proved_cache())
        pages.append(LivePage(tmp_path / model, tmp_path / "face.avi", *folders))
        return pages[-1]

    yield started
    for page in pages:
        page.stop()


def frame_of(link):
    """Return the newest frame of a page: its document and its picture."""
    parts = urlsplit(link)
    request = urllib.request.Request(
        f"http://{parts.netloc}/page/pipelines/live/frame",
        headers={"Authorization": f"Bearer {parts.query.removeprefix('token=')}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        body = answer.read()
    length = int.from_bytes(body[:4], "big")
    picture = cv2.imdecode(np.frombuffer(body[4 + length :], np.uint8), cv2.IMREAD_GRAYSCALE)
    return json.loads(body[4 : 4 + length])["frame"], picture


def opened(link):
    """Return what a browser gets that opens a link, and keeps its cookie."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(link, timeout=30) as answer:
        return answer.read()


def test_the_page_shows_a_hidden_face_within_ten_seconds(start):
    begun_s = time.monotonic()
    link = start().link()
    frame, picture = frame_of(link)
    assert time.monotonic() - begun_s < 10
    assert [item["label"] for item in frame["items"]] == ["face"]
    assert picture.shape == (240, 320)
    assert picture[88:152, 112:208].std() < 40  # of the squares, which are 127 from their mean
    assert b"<canvas" in opened(link)


@pytest.mark.parametrize("has_page", [True, False])
def test_a_device_has_a_page_behind_a_token_where_it_is_to_have_one(tmp_path, has_page):
    device = Device("street", tmp_path, tmp_path, tmp_path, has_page=has_page)
    device.add_pipeline("motion", tmp_path, video_pipeline("street", tmp_path / "face.avi", 10))
    serve = load_agent_config(device.configure()).serve
    assert (serve is not None and serve.page) == has_page
    if serve:
        assert len(read_token(serve.token_file)) >= 16


def test_a_page_that_cannot_open_names_its_log(start):
    page = start("missing")
    with pytest.raises(ServerError) as caught:
        page.link()
    assert str(page.child.log) in caught.value.hint
    assert "missing" in page.child.log.read_text()


def test_a_browser_is_started_only_where_there_is_a_screen():
    opened = []

    def browse(link):
        opened.append(link)
        return True

    assert not open_browser("http://a", {}, browse)
    assert open_browser("http://b", {"DISPLAY": ":0"}, browse)
    assert open_browser("http://c", {"WAYLAND_DISPLAY": "wayland-0"}, browse)
    assert opened == ["http://b", "http://c"]
