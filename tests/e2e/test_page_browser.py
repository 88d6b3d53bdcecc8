"""The device's page in a real browser: the picture, hidden faces, events, a threshold that moves."""

import contextlib
import re
import threading
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from browser import Browser, missing_browser, wait_until
from bundles import make_detector

from edgekit.agent.worker.runner import run_pipeline
from edgekit.agent.worker.viewing import PageOptions, _listening
from edgekit.base.paths import state_dir
from edgekit.core.errors import ConfigError
from edgekit.pipeline.config import load_config, parse_config
from edgekit.sync.address import SystemClock
from edgekit.sync.ledger import Ledger

RED = (0, 0, 255)
SECRET = (255, 0, 255)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A real browser; the test is skipped, with the reason, where there is none."""
    if reason := missing_browser():
        pytest.skip(reason)
    one = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield one
    one.close()


@pytest.fixture
def running(tmp_path, browser):
    """Run a face detector on red pictures with a square of a unique colour, and give the page's link."""
    make_detector(tmp_path / "faces")
    pixels = np.full((240, 320, 3), RED, np.uint8)
    pixels[80:160, 110:210] = SECRET
    cv2.imwrite(str(tmp_path / "p.png"), pixels)

    @contextlib.contextmanager
    def run(privacy="", host="127.0.0.1", with_file=False):
        text = f"""
            [pipeline]
            name = "door"
            model = "faces"
            [source]
            kind = "images"
            uri = "p.png"
            loop = true
            fps = 20
            [events]
            appear = 1
            window = 1
            {privacy}"""
        config = parse_config(text, folder=str(tmp_path))
        if with_file:
            config = tmp_path / "door.toml"
            config.write_text("# by the door\n" + text)
        links, loops = [], []

        @contextlib.contextmanager
        def begun(loop):
            loops.append(loop)
            yield

        options = PageOptions(host=host, port=0, on_open=links.append)
        thread = threading.Thread(
            target=run_pipeline, args=(config,), kwargs={"page": options, "watch": begun}
        )
        thread.start()
        try:
            wait_until(lambda: loops, "the loop")
            yield links[0]
        finally:
            browser.open("about:blank")  # else the page complains that the server is gone
            browser.complaints()
            browser.logged.clear()
            loops[0].stop()
            thread.join(30)
        assert not thread.is_alive()

    return run


def assert_clean(browser, link):
    """Nothing was asked of another origin, no policy was violated, no script failed."""
    assert {urlsplit(url).netloc for url in browser.requested()} <= {urlsplit(link).netloc}
    assert browser.complaints() == []


def pixel(browser, x, y):
    """One pixel of the canvas, as red, green, blue."""
    context = "document.getElementById('picture').getContext('2d')"
    return browser.run(f"return [...{context}.getImageData({x}, {y}, 1, 1).data].slice(0, 3)")


def test_the_link_shows_the_picture_the_items_and_the_events(browser, running):
    with running() as link:
        browser.open(link)
        browser.until("#link", "live")
        browser.until("#items", "face 0.90")
        browser.until("#events", "face appeared")
        browser.until("#model", "motion")
        browser.holds("Number(document.getElementById('fps').textContent) > 5")
        assert "token" not in browser.run("return location.href")
        red, green, blue = pixel(browser, 20, 200)
        assert red > 200
        assert max(green, blue) < 60
        assert browser.run("return document.getElementById('why').hidden")
        first = browser.run("return Number(document.body.dataset.frame)")
        browser.holds(f"Number(document.body.dataset.frame) > {first + 3}")
        assert_clean(browser, link)


def test_a_threshold_takes_effect_while_it_runs_and_no_frame_is_lost(browser, running):
    with running() as link:
        browser.open(link)
        browser.until("#items", "face 0.90")
        assert browser.text("#threshold-now") == "0.50"
        browser.run(
            "const slider = document.getElementById('threshold'); slider.value = 0.95;"
            "slider.dispatchEvent(new Event('input'))"
        )
        browser.until("#total", "0")
        browser.holds("document.getElementById('items').children.length === 0")
        browser.until("#events", "face vanished")
        assert browser.text("#dropped") == "0"
        assert_clean(browser, link)


PROFILES = """
    [[profile]]
    name = "day"
    score_threshold = 0.5
    [[profile]]
    name = "strict"
    score_threshold = 0.95"""


def test_a_profile_is_chosen_on_the_page(browser, running):
    with running(PROFILES) as link:
        browser.open(link)
        browser.until("#items", "face 0.90")
        assert browser.run("return [...document.getElementById('profile').options].map((o) => o.value)") == [
            "auto",
            "day",
            "strict",
        ]
        browser.run(
            "const profile = document.getElementById('profile'); profile.value = 'strict';"
            "profile.dispatchEvent(new Event('change'))"
        )
        browser.until("#turned", "on, profile strict: the page: profile strict")
        browser.until("#total", "0")
        assert browser.run("return document.getElementById('profile').value") == "strict"
        assert_clean(browser, link)


CLIPS = """
    [[sink]]
    kind = "clips"
    path = "visits"
    codec = "vp9"
    before_s = 1
    after_s = 1"""


def test_clips_are_found_by_what_their_events_say_and_play_in_the_browser(browser, running):
    with running(CLIPS) as link:
        browser.open(link)
        browser.until("#clips", "face appeared")
        browser.run(
            "const words = document.getElementById('clip-words'); words.value = 'dog';"
            "words.dispatchEvent(new Event('input'))"
        )
        browser.until("#no-clips", "None")
        browser.run(
            "const words = document.getElementById('clip-words'); words.value = 'FACE app';"
            "words.dispatchEvent(new Event('input'))"
        )
        browser.until("#clips", "face appeared")
        browser.run("document.getElementById('player').muted = true")  # else it waits for a person's click
        browser.click("#clips button")
        # a clip that is still being recorded plays as far as it goes
        browser.holds(
            "(p => p.currentTime > 0.3 || (p.ended && p.currentTime > 0))(document.getElementById('player'))"
        )
        assert browser.run("return document.getElementById('player').error") is None
        assert browser.run("return document.getElementById('player').videoWidth") == 320
        assert_clean(browser, link)


def test_clips_stay_on_the_device_where_pixels_may_not_leave(browser, running):
    with running(CLIPS + '\n    [privacy]\n    egress = ["labels", "scores"]', host="0.0.0.0") as link:
        browser.open(link)
        browser.until("#no-clips", "clips stay on the device")
        answer = browser.run(
            "const answer = await fetch('/page/pipelines/door/clip?name=x'); return answer.status"
        )
        assert answer == 400
        assert browser.run("return document.querySelectorAll('#clips li').length") == 0


@pytest.mark.parametrize(
    "hides",
    [
        '[privacy]\nredact = ["face"]\nredact_style = "fill"',
        "[[blackout]]\npolygon = [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]]",
    ],
)
def test_what_is_hidden_is_in_no_picture_of_the_page(browser, running, hides):
    with running(hides) as link:
        browser.open(link)
        browser.until("#items", "face 0.90")
        seen = browser.run(
            """
            const canvas = document.getElementById('picture'), data = canvas.getContext('2d')
              .getImageData(0, 0, canvas.width, canvas.height).data;
            let secret = 0;
            for (let at = 0; at < data.length; at += 4) {
              if (data[at] > 128 && data[at + 1] < 90 && data[at + 2] > 128) secret += 1;
            }
            return secret;
            """
        )
        assert seen == 0
        assert_clean(browser, link)


@pytest.mark.parametrize(
    ("egress", "shows_picture", "has_boxes"),
    [('["boxes", "labels", "scores"]', False, True), ('["pixels"]', True, False), ("[]", False, False)],
)
def test_on_another_address_the_page_shows_what_may_leave_and_the_ledger_has_its_bytes(
    browser, running, egress, shows_picture, has_boxes
):
    with running(f"[privacy]\negress = {egress}", host="0.0.0.0") as link:
        browser.open(link)
        browser.until("#link", "live")
        browser.holds("Boolean(document.body.dataset.frame)")
        assert browser.run("return document.getElementById('why').hidden") == shows_picture
        red = pixel(browser, 20, 200)[0]
        assert (red > 200) == shows_picture
        assert browser.run("return document.getElementById('items').children.length") == (
            1 if has_boxes else 0
        )
        assert_clean(browser, link)
    ledger = Ledger(state_dir() / "ledger.sqlite", SystemClock())
    passed = {entry.data_class for entry in ledger.entries() if entry.decision == "passed" and entry.bytes}
    ledger.close()
    assert ("pixels" in passed) == shows_picture
    assert ("boxes" in passed) == has_boxes
    assert "health" in passed


def test_nothing_on_loopback_is_in_the_ledger(browser, running):
    with running() as link:
        browser.open(link)
        browser.until("#items", "face 0.90")
    ledger = Ledger(state_dir() / "ledger.sqlite", SystemClock())
    assert ledger.entries() == []
    ledger.close()


def test_the_page_fits_a_phone(browser, running):
    with running() as link:
        browser.resize(360, 640)
        browser.open(link)
        browser.until("#items", "face 0.90")
        assert browser.run("return document.documentElement.scrollWidth") <= 360
        assert browser.run("return document.getElementById('picture').getBoundingClientRect().width") > 300
        assert_clean(browser, link)


def test_without_the_token_there_is_a_form_and_the_token_opens_it(browser, running):
    with running() as link:
        token = re.search(r"token=(.+)", link)[1]
        page = link.partition("?")[0]
        browser.http.delete(f"{browser.session}/cookie")
        browser.open(page)
        browser.until("label", "token")
        browser.type("#token", token)
        browser.click("button")
        browser.until("#items", "face 0.90")


def test_a_port_that_is_taken_names_the_option(running):
    with running() as link:
        port = urlsplit(link).port
        with pytest.raises(ConfigError) as caught, _listening(PageOptions(port=port)):
            pass
        assert "--view-port" in caught.value.hint


DRAW = """
const overlay = document.getElementById("overlay"), area = overlay.getBoundingClientRect();
overlay.setPointerCapture = () => {};
const tap = ([x, y]) => {
  const at = {clientX: area.left + x * area.width, clientY: area.top + y * area.height, pointerId: 1};
  for (const kind of ["pointerdown", "pointerup"]) overlay.dispatchEvent(new PointerEvent(kind, at));
};
document.getElementById("add-zone").click();
for (const corner of [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.25]]) tap(corner);
document.getElementById("add-line").click();
for (const end of [[0, 0.5], [1, 0.5]]) tap(end);
document.getElementById("save-shapes").click();
"""


def test_a_zone_and_a_line_that_are_drawn_stand_in_the_file(browser, running, tmp_path):
    with running(with_file=True) as link:
        browser.open(link)
        browser.until("#items", "face 0.90")
        browser.holds("!document.getElementById('drawing').hidden")
        browser.run(DRAW)
        browser.until("#told", "Saved; takes effect at the next start.")
        assert_clean(browser, link)
    config = load_config(tmp_path / "door.toml")
    (zone,), (line,) = config.zones, config.lines
    assert (zone.name, line.name) == ("zone-1", "line-1")
    assert [round(share, 2) for corner in zone.polygon for share in corner] == [
        0.25,
        0.25,
        0.75,
        0.25,
        0.75,
        0.75,
    ]
    assert [round(share, 2) for end in line.points for share in end] == [0, 0.5, 1, 0.5]
    assert (tmp_path / "door.toml").read_text().startswith("# by the door\n")
