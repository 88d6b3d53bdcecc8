"""A device that never has a link is enrolled and updated by files that somebody carries."""

from __future__ import annotations

import contextlib
import json
import subprocess

import pytest
from agent_stage import AgentStage, FleetStage, called, command, messages
from bundles import make_bundle, pipeline_toml

pytestmark = pytest.mark.timeout(600)  # a busy machine; each wait has a limit of its own


def test_a_device_without_a_link_is_enrolled_and_updated_by_files(tmp_path):
    fleet = FleetStage(tmp_path)
    for version in ("1.0.0", "2.0.0"):
        make_bundle(tmp_path / version, version=version, options={"seed": int(version[0])})
    (tmp_path / "motor.toml").write_text(pipeline_toml(fps=50))
    agent = AgentStage(tmp_path / "agent", '[[pipeline]]\nfile = "../motor.toml"\ninitial = "../1.0.0"\n')
    request, answer, carried = (tmp_path / name for name in ("box.request", "box.answer", "carried.ekb"))
    device = ("edgekit.cli.main", "agent")
    fleet.start()
    try:
        state = ("--state", agent.state)
        command(*device, "enroll", "--request", request, "--name", "box", *state)
        assert json.loads(request.read_text())["token"] == ""
        assert fleet.cli("enroll", request, "-o", answer)["device"] == "box"
        assert b"PRIVATE KEY" not in request.read_bytes() + answer.read_bytes()
        assert command(*device, "enroll", "--answer", answer, *state)["device"] == "box"

        fleet.publish(tmp_path / "2.0.0")
        rollout = ("--model", "motion", "--version", "2.0.0", "--devices", "box", "--waves", "100%")
        fleet.cli("rollout", "create", *rollout, "--soak-s", 1)
        assert fleet.cli("export", tmp_path / "2.0.0", "--device", "box", "-o", carried)["version"] == "2.0.0"
    finally:
        fleet.stop()
    agent.start()
    try:
        agent.runs("1.0.0")
        command(*device, "install", carried, *state)
        status = agent.runs("2.0.0")
        assert status["link"]["connected"] is False
        agent.until(lambda s: s["models"]["motion"]["active"] == "2.0.0", "the commit")
        assert status["models"]["motion"]["previous"] in ("", "1.0.0")
        carries_its_outbox(fleet, agent, tmp_path)
    finally:
        if agent.process is not None:
            agent.kill()


def carries_its_outbox(fleet, agent, folder):
    """Carry the outbox to the fleet and its answer back, twice: nothing is lost, and nothing is there twice.

    The fleet runs only while the agent does not, since on one machine there is a link as soon as both do.
    """
    device, state = ("edgekit.cli.main", "agent", "outbox"), ("--state", agent.state)
    file, answer = folder / "box.outbox", folder / "answer"
    written = command(*device, "export", file, *state)["messages"]
    assert agent.status()["outbox"]["rows"] >= written > 0, "they stay until the fleet has them"
    agent.stop()
    with running(fleet):
        imported = fleet.cli("import", file, "-o", answer)
        assert imported == fleet.cli("import", file, "-o", answer), "the second time nothing is new"
    assert imported["watermark"] >= written
    agent.start()
    agent.until(lambda s: s["outbox"]["rows"], "the agent")
    assert command(*device, "acknowledge", answer, *state)["watermark"] == imported["watermark"]
    agent.until(lambda s: s["outbox"]["rows"] < s["outbox"]["last_seq"], "the outbox to be freed")
    agent.stop()
    left = command(*device, "export", file, *state)["messages"]
    with running(fleet):
        end = fleet.cli("import", file, "-o", answer)["watermark"]
        forged = bytearray(file.read_bytes())
        forged[-1] ^= 1
        file.write_bytes(forged)
        refused = ("import", file, "-o", folder / "no", "--data", fleet.data)
        assert fails("edgekit_fleet.cli.main", *refused) == 6
    assert end == imported["watermark"] + left
    assert messages(fleet, "box", imported["boot"]) == list(range(1, end + 1))
    changed = folder / "changed"
    changed.write_text(answer.read_text().replace(f'"watermark":{end}', f'"watermark":{end + 1}'))
    assert fails(*device, "acknowledge", changed, *state) == 6
    command(*device, "acknowledge", answer, *state)
    assert command(*device, "export", file, *state)["messages"] == 0


@contextlib.contextmanager
def running(fleet):
    """Run the fleet for a while."""
    fleet.start()
    try:
        yield
    finally:
        fleet.stop()


def fails(module, *arguments):
    """Return the exit code of a command that is refused."""
    return called(module, *arguments)[0]


def test_a_bundle_that_was_not_exported_is_refused_with_6(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    packed = tmp_path / "b.ekb"
    subprocess.run(["tar", "-cf", packed, "-C", bundle, "."], check=True)
    code, _, log = called("edgekit.cli.main", "agent", "install", packed, "--state", tmp_path)
    assert code == 6
    assert "edgekit-fleet export" in log
