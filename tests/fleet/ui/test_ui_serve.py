"""The web UI as ``edgekit-fleet serve`` serves it: a process of its own, with its broker."""

import httpx
from fleet_kit import RunningFleet


def test_serve_prints_a_link_that_opens_the_web_ui(tmp_path):
    with RunningFleet(tmp_path) as fleet, httpx.Client(follow_redirects=True) as browser:
        assert browser.get(fleet.ready["login_url"]).status_code == 200
        page = browser.get(fleet.ready["url"])
        assert "<h1>Overview</h1>" in page.text
        assert "No device yet" in page.text
        with browser.stream("GET", f"{fleet.ready['url']}/live") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            fleet.enroll("cam-1")
            assert next(line for line in lines if line.startswith("data:")) == 'data: {"device":["cam-1"]}'
