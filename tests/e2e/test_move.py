"""A fleet is backed up and restored at another address; its devices follow without enrolling again."""

from __future__ import annotations

import json
import shutil

import pytest
from agent_stage import RECONNECT_S, AgentStage, FleetStage, wait_for
from bundles import make_bundle, pipeline_toml

from edgekit_fleet.broker.embedded import free_port

pytestmark = [
    pytest.mark.timeout(900),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


def test_a_device_that_was_told_follows_its_fleet_to_another_address_and_is_updated_there(tmp_path):
    first, second = FleetStage(tmp_path / "1"), FleetStage(tmp_path / "2")
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    for version in ("1.0.0", "2.0.0"):
        make_bundle(tmp_path / version, version=version, options={"seed": int(version[0])})
    (tmp_path / "motor.toml").write_text(pipeline_toml(fps=50))
    agent = AgentStage(tmp_path / "agent", '[[pipeline]]\nfile = "../motor.toml"\ninitial = "../1.0.0"\n')
    first.start()
    try:
        agent.enroll(first, "mover")
        agent.start()
        agent.until(lambda s: s["link"]["connected"], "the link")
        http, mqtt = free_port(), free_port()
        broker_url = f"mqtts://127.0.0.1:{mqtt}"
        first.cli("move", "--to", f"http://127.0.0.1:{http}", "--to-broker", broker_url)
        wait_for(lambda: first.cli("move")["accepted"] == 1, "that the device knows")

        (tmp_path / "word").write_text("correct horse")
        secret = ("--passphrase-file", tmp_path / "word")
        first.cli("backup", tmp_path / "backup.tar", *secret)
        first.stop()
        second.cli("restore", tmp_path / "backup.tar", *secret, "--former", first.data)
        (second.data / "ports.json").write_text(json.dumps({"http": http, "mqtt": mqtt}))
        shutil.copytree(first.keys, second.keys)
        second.start()

        agent.until(lambda s: s["link"]["connected"], "the link to the new address", RECONNECT_S)
        enrolment = json.loads((agent.state / "identity" / "enrolment.json").read_bytes())
        assert (enrolment["broker_url"], enrolment["fleet_url"]) == (broker_url, second.url)
        wait_for(lambda: second.cli("devices")["devices"][0]["online"], "the device at the new address")

        second.cli("keys", "resign", "--keys", second.keys)
        second.publish(tmp_path / "2.0.0")
        second.cli("rollout", "create", "--model", "motion", "--version", "2.0.0", "--soak", "1")
        agent.runs("2.0.0", "motor")
    finally:
        if agent.process is not None:
            agent.kill()
        first.stop()
        second.stop()
