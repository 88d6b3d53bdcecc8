"""The README's fleet section, command for command, with `examples/device` and a small model."""

from __future__ import annotations

import json
import shutil

import pytest
from agent_stage import ROOT, AgentStage, FleetStage, command
from blobs import blob_bundle, film

pytestmark = pytest.mark.timeout(900)  # a busy machine; each wait has a limit of its own


def test_a_device_without_a_model_is_given_its_first_one_by_a_rollout(tmp_path):
    shutil.copytree(ROOT / "examples" / "device", tmp_path / "examples" / "device")
    film(tmp_path / "bikes.mp4", [[(0.25, 0.5)] * 40])
    bundle = blob_bundle(tmp_path / "ssd", model="ssd-oidv4", version="2.0.0", guards={"min_frames": 5})
    fleet = FleetStage(tmp_path)
    fleet.start()
    agent = AgentStage(tmp_path / "examples" / "device", None)
    try:
        fleet.publish(bundle)
        enrolled = command(
            "edgekit.cli.main", "agent", "enroll", "--fleet", fleet.url, "--token", fleet.token(),
            "--config", agent.config,
        )  # fmt: skip
        assert enrolled["device"] == "door-cam"
        agent.start()
        agent.until(lambda s: s["link"]["connected"], "the link")
        assert "waits for a first version" in agent.status()["pipelines"]["street"]["message"]
        waves = ("--waves", "1,25%,100%", "--soak-s", 1)
        fleet.cli("rollout", "create", "--model", "ssd-oidv4", "--version", "2.0.0", *waves)
        agent.until(lambda s: s["models"]["ssd-oidv4"]["active"] == "2.0.0", "the first version is trusted")
    finally:
        agent.stop()
        fleet.stop()
    first = json.loads((agent.folder / "seen.jsonl").read_text().splitlines()[0])
    assert first["items"][0]["label"] == "person"
