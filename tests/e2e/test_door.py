"""The hobbyist's goal: a door's camera in Home Assistant, by one TOML, whatever happens to the processes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import httpx
import jinja2
import numpy as np
import pytest
from agent_stage import AgentStage, FleetStage
from brokers import Broker, mosquitto_path
from discovery import configs, problems
from mqtt_ear import Ear
from rtsp_camera import Camera, needs_rtsp_server
from walker import make_walker

EXAMPLE = Path(__file__).parents[2] / "examples/door/door.toml"
AGENT = '[[pipeline]]\nfile = "../door.toml"\nmodel = "walker"\ninitial = "../1.0.0"\nupdates = "ask"\n'
pytestmark = [
    pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto"),
    pytest.mark.timeout(600),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


@pytest.fixture
def stage(tmp_path):
    needs_rtsp_server()
    broker, camera, fleet = Broker("mosquitto", tmp_path), Camera(), FleetStage(tmp_path)
    broker.start()
    fleet.start()
    for version in ("1.0.0", "2.0.0"):
        make_walker(tmp_path / version, version=version)
    text = EXAMPLE.read_text().replace("localhost:1883", f"127.0.0.1:{broker.port}")
    (tmp_path / "door.toml").write_text(text.replace("rtsp://door.lan/door", camera.uri()))
    ear = Ear(broker.port)
    agent = AgentStage(tmp_path / "agent", AGENT, "progress_s = 0.2\n")
    agent.enroll(fleet, "box")
    yield fleet, agent, ear
    ear.stop()
    if agent.process is not None:
        agent.kill()
    fleet.stop()
    camera.close()
    broker.kill()


def test_the_example_is_at_most_25_lines_long():
    assert len(EXAMPLE.read_text().splitlines()) <= 25


def test_a_door_in_home_assistant_from_the_first_frame_to_kill_9(stage, tmp_path):
    fleet, agent, ear = stage
    agent.start()
    ear.wait(lambda: "rollback" in configs(ear.heard, json.loads), 120)  # the last one
    found = configs(ear.heard, json.loads)
    assert {key: problems(*config) for key, config in found.items()} == {key: [] for key in found}
    assert {"seen_person", "count_person", "image", "running", "model", "rollback"} <= found.keys()
    base = found["running"][1]["command_topic"].removesuffix("/set")

    def version():
        return (ear.last(f"{base}/update") or {}).get("installed_version")

    def latest():
        return (ear.last(f"{base}/update") or {}).get("latest_version")

    def crossings():
        _, config = configs(ear.heard, json.loads).get("line_door_in_person", ("", {}))
        state = ear.last(config.get("state_topic", ""))
        return int(jinja2.Template(config["value_template"]).render(value_json=state)) if state else 0

    ear.wait(lambda: version() == "1.0.0" and (ear.last(f"{base}/seen") or {}).get("counts"), 120)
    ear.wait(lambda: crossings() >= 2, 120)  # he walks through the door each four seconds
    assert ear.last(f"{base}/line_door_out")["count"] == 0
    ear.wait(lambda: ear.last(f"{base}/image"))
    picture = cv2.imdecode(np.frombuffer(ear.last(f"{base}/image"), np.uint8), 1)
    assert picture.shape == (240, 320, 3)

    ear.say(f"{base}/set", "OFF")
    ear.wait(lambda: ear.last(f"{base}/state") == b"OFF" and ear.last(f"{base}/seen")["total"] == 0)
    ear.say(f"{base}/set", "ON")
    ear.wait(lambda: ear.last(f"{base}/seen")["total"] >= 1)

    token = Path(fleet.ready["admin_token_file"]).read_text().strip()
    wanted = {"kind": "switch", "args": {"pipeline": "door", "to": "off", "reason": "painting"}}
    access = {"Authorization": f"Bearer {token}"}
    httpx.post(
        f"{fleet.url}/api/v1/devices/box/commands", json=wanted, headers=access, timeout=30
    ).raise_for_status()
    ear.wait(lambda: ear.last(f"{base}/state") == b"OFF")
    agent.until(lambda status: status["pipelines"]["door"]["switch"]["why"] == "painting", "the reason")
    ear.say(f"{base}/set", "ON")
    ear.wait(lambda: ear.last(f"{base}/seen")["total"] >= 1)

    fleet.publish(tmp_path / "2.0.0")
    fleet.cli(
        *("rollout", "create", "--model", "walker", "--version", "2.0.0"),
        *("--waves", "100%", "--soak-s", 1, "--p99-ratio", 0, "--error-ratio", 0),
    )
    ear.wait(lambda: latest() == "2.0.0", 120)
    assert version() == "1.0.0"  # it waits to be asked
    ear.say(f"{base}/update/set", found["model"][1]["payload_install"])
    ear.wait(lambda: version() == "2.0.0" and not ear.last(f"{base}/update")["in_progress"], 240)
    ear.say(f"{base}/update/set", found["rollback"][1]["payload_press"])
    ear.wait(lambda: version() == "1.0.0" and not ear.last(f"{base}/update")["in_progress"], 120)
    assert latest() == "2.0.0"  # and may be installed again

    agent.kill()
    ear.wait(lambda: ear.last(f"{base}/available") == b"offline")
