"""One trace from a camera's answer to the device's clip, a webhook and the fleet's record of the event."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from agent_stage import AgentStage, FleetStage, called, wait_for
from bundles import make_detector
from picture_server import PictureServer

pytestmark = [
    pytest.mark.timeout(900),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PIPELINE = """[pipeline]
name = "door"
model = "./face"
[source]
kind = "http"
uri = "{camera}/picture.jpg"
fps = 20
[privacy]
egress = ["labels"]
[[sink]]
kind = "clips"
path = "visits"
before_s = 0
after_s = 0.5
[[sink]]
kind = "http"
url = "{hook}"
"""


@pytest.fixture
def camera():
    server = PictureServer()
    server.traceparent = f"00-{TRACE}-b7ad6b7169203331-01"
    yield server
    server.close()


@pytest.fixture
def hook():
    """A webhook; yields its address and the CloudEvents that it took."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", taken
    server.shutdown()
    server.server_close()


def test_a_trace_goes_from_the_picture_to_clip_webhook_and_fleet_and_is_replayed(tmp_path, camera, hook):
    address, taken = hook
    fleet, folder = FleetStage(tmp_path), tmp_path / "agent"
    agent = AgentStage(folder, '[[pipeline]]\nfile = "door.toml"\n')
    make_detector(folder / "face")
    (folder / "door.toml").write_text(PIPELINE.format(camera=camera.url, hook=address))
    fleet.start()
    try:
        agent.enroll(fleet, "box")
        agent.start()
        (event, *_) = wait_for(lambda: list(taken), "the webhook's event")
        version, trace, span, flags = event["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01")
        assert span != "b7ad6b7169203331", "a span of its own"
        assert event["data"]["trace_id"] == TRACE

        token = fleet.cli("token", "create", "--role", "viewer")["token"]
        access = {"Authorization": f"Bearer {token}"}
        asked = f"{fleet.url}/api/v1/events?trace_id={TRACE}"
        (row, *_) = wait_for(lambda: httpx.get(asked, headers=access).json()["items"], "the fleet's record")
        assert (row["body"]["label"], row["body"]["trace_id"]) == ("face", TRACE)

        wait_for(lambda: list(folder.rglob("visits/*.json")), "the clip")
        code, out, log = called("edgekit.cli.main", "replay", TRACE, folder / "door.toml", "--json")
        assert code in (0, 8), f"{out}\n{log}"  # the clip may begin after the event's first frame
        assert json.loads(out)["runs"][0]["name"] == "recorded"
    finally:
        if agent.process is not None:
            agent.kill()
        fleet.stop()
