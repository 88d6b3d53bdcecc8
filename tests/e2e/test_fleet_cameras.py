"""A fleet gives its devices cameras: real processes, a real broker, a camera that asks for a password."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from agent_stage import AgentStage, FleetStage, wait_for
from bundles import make_bundle, pipeline_toml
from picture_server import PictureServer
from single_model import write_image_bundle

pytestmark = [
    pytest.mark.timeout(900),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]
SECRET = "se:cret-of-the-door"
EXAMPLE = Path(__file__).parents[2] / "examples/fleet"
PIPELINES = """
[[pipeline]]
file = "fleet.toml"
[[pipeline]]
file = "motor.toml"
"""


@pytest.fixture
def camera():
    server = PictureServer()
    server.login, server.password = "basic", SECRET
    yield server
    server.close()


@pytest.fixture
def agent(tmp_path):
    folder = tmp_path / "agent"
    folder.mkdir()
    shutil.copy(EXAMPLE / "fleet.toml", folder)
    write_image_bundle(folder / "classifier.ekb")
    make_bundle(folder / "motion")
    (folder / "motor.toml").write_text(pipeline_toml(model="./motion", fps=20))
    agent = AgentStage(folder, PIPELINES)
    yield agent
    if agent.process is not None:
        agent.kill()


@pytest.fixture
def fleet(tmp_path):
    fleet = FleetStage(tmp_path)
    fleet.start()
    yield fleet
    fleet.stop()


def define(fleet, folder, address, **options):
    text = (EXAMPLE / "cameras.toml").read_text().replace("http://door.lan/snapshot.jpg", address)
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    (folder / "cameras.toml").write_text("\n".join([text, *lines]))
    fleet.cli("cameras", "set", folder / "cameras.toml", "--device", "box")


def is_watching(status):
    entrance = status["pipelines"]["entrance"]
    return entrance["state"] == "running" and entrance["frames"] >= 3


def test_a_camera_of_the_fleet_with_its_password_is_used_changed_kept_offline_and_shown_to_nobody(
    tmp_path, camera, agent, fleet
):
    agent.enroll(fleet, "box")
    agent.start()
    waiting = agent.until(
        lambda s: "no camera 'door'" in agent.log.read_text() and s["pipelines"]["motor"]["frames"] > 20,
        "that the camera is missed, and the other pipeline runs",
    )
    (tmp_path / "secret").write_text(SECRET)
    define(fleet, tmp_path, f"{camera.url}/picture.jpg")
    fleet.cli("cameras", "password", "door", "--device", "box", "--password-file", tmp_path / "secret")
    seen = agent.until(is_watching, "frames of the camera")
    assert seen["cameras"]["names"] == ["door"]
    wait_for(lambda: fleet.cli("cameras", "show", "box")["in_force"], "the device's report")

    define(fleet, tmp_path, f"{camera.url}/other.jpg")
    wait_for(lambda: any(line.endswith("/other.jpg") for line in camera.paths), "the changed address")
    changed = agent.until(is_watching, "frames from the changed address")
    motor, before = changed["pipelines"]["motor"], waiting["pipelines"]["motor"]
    assert (motor["restarts"], motor["errors"]) == (0, 0)
    assert motor["frames"] > before["frames"], "the other pipeline was not begun anew"

    define(fleet, tmp_path, f"{camera.url}/other.jpg", fbs=10)
    shown = wait_for(lambda: problem_of(fleet), "why the device does not take the list")
    assert "source.fbs" in shown
    assert agent.status()["cameras"]["names"] == ["door"]

    fleet.stop()
    agent.stop()
    agent.start()
    agent.until(is_watching, "frames without a fleet, after a restart")
    status = json.dumps(agent.status())
    agent.stop()
    assert SECRET not in status
    holders = [
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    kept = [path for path in holders if path != "secret"]
    assert len(kept) == 1
    assert kept[0].startswith("agent/state/cameras/passwords/door.")
    assert (tmp_path / kept[0]).stat().st_mode & 0o077 == 0


def problem_of(fleet):
    return fleet.cli("cameras", "show", "box")["problem"]
