"""A detector and a classifier in one pipeline, both kept up to date, with a real fleet and real models.

Each version of the classifier has labels of its own, so a frame shows which version looked at it.
"""

from __future__ import annotations

import json
import os
import signal

import pytest
from agent_stage import AgentStage, FleetStage, wait_for
from blobs import RED, blob_bundle, film, tint_bundle

from edgekit.agent.status import ask

PIPELINE = """
[[pipeline]]
file = "../gate.toml"
initial = { blobs = "../blobs-1.0.0", tints = "../tints-1.0.0" }
"""
GATE = """
[pipeline]
name = "gate"
[source]
kind = "video"
uri = "gate.avi"
realtime = true
loop = true
[[stage]]
name = "people"
model = "blobs"
[[stage]]
name = "tint"
model = "tints"
on = "people"
[[stage]]
name = "whole"
model = "tints"
[[sink]]
kind = "jsonl"
path = "seen.jsonl"
"""
QUICK = "progress_s = 0.2\n[limits]\nbackoff_s = 0.1\ntrial_crashes = 1\n"
BAD = "9.0.0"
TINTS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0", BAD)

pytestmark = [
    pytest.mark.timeout(900),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, proofs):
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proofs))
        yield from staged(folder)


def staged(folder):
    fleet = FleetStage(folder)
    fleet.start()
    guards = {"min_frames": 5}
    for version in ("1.0.0", "2.0.0"):
        blob_bundle(folder / f"blobs-{version}", version=version, guards=guards)
    for version in TINTS:
        labels = [f"{name}-{version}" for name in ("red", "green", "blue")]
        more = {"p99_ms": 1e-6} if version == BAD else {}
        tint_bundle(folder / f"tints-{version}", version=version, labels=labels, guards={**guards, **more})
    film(folder / "gate.avi", [[(0.25, 0.5)] * 40, [(0.75, 0.5)] * 40], colors=(RED, RED))
    (folder / "gate.toml").write_text(GATE)
    agent = AgentStage(folder / "agent", PIPELINE, QUICK)
    try:
        agent.device = agent.enroll(fleet, "gate")
        for bundle in ("blobs-2.0.0", *(f"tints-{version}" for version in TINTS[1:])):
            fleet.publish(folder / bundle)
        agent.start()
        runs(agent, blobs="1.0.0", tints="1.0.0")
        agent.until(lambda s: s["link"]["connected"], "the link")
        yield fleet, agent
    finally:
        if agent.process is not None:
            agent.kill()
        fleet.stop()


def runs(agent, **versions):
    """Wait until the pipeline makes frames with these versions of its models; return the status."""

    def claim(status):
        row = status["pipelines"]["gate"]
        stages = {each["model"]: each["version"] for each in row["stages"]}
        return row["state"] == "running" and row["fps"] > 0 and stages == versions

    return agent.until(claim, f"gate runs {versions}")


def roll_out(fleet, model, version, soak_s=1):
    wait_for(fleet.is_free, "the end of the rollout before")
    fleet.cli(
        *("rollout", "create", "--model", model, "--version", version),
        *("--waves", "100%", "--soak-s", soak_s, "--p99-ratio", 0, "--error-ratio", 0),
    )


def is_committed(model, version):
    return lambda s: s["models"][model]["active"] == version and s["updates"][model]["state"] == "IDLE"


def results(agent):
    lines = (agent.folder.parent / "seen.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def seen_versions(agent):
    """Return the pairs of versions in order, each once for a run of frames; no frame is of two versions."""
    pairs = []
    for result in results(agent):
        pair = result["versions"]["blobs"], result["versions"]["tints"]
        for item in result["items"]:
            if "stage" in item:
                assert item["label"].endswith(f"-{pair[1]}")
        assert {item.get("stage") for item in result["items"]} == {None, "tint", "whole"}
        if not pairs or pairs[-1] != pair:
            pairs.append(pair)
    return pairs


def test_each_model_is_open_once_and_the_status_names_who_uses_it(stage):
    _, agent = stage
    (worker,) = agent.status()["workers"]
    assert {row["model"]: row["users"] for row in worker["models"]} == {
        "blobs": ["gate"],
        "tints": ["gate/tint", "gate/whole"],
    }


def test_the_second_model_is_updated_while_frames_flow_and_each_frame_has_one_version_of_each(stage):
    fleet, agent = stage
    before = agent.status()
    roll_out(fleet, "tints", "2.0.0")
    agent.until(is_committed("tints", "2.0.0"), "the classifier's update")
    roll_out(fleet, "blobs", "2.0.0")
    agent.until(is_committed("blobs", "2.0.0"), "the detector's update")
    after = runs(agent, blobs="2.0.0", tints="2.0.0")
    assert after["models"]["tints"]["previous"] == after["models"]["blobs"]["previous"] == "1.0.0"
    assert [row["pid"] for row in after["workers"]] == [row["pid"] for row in before["workers"]]
    one_after_the_other = [("1.0.0", "1.0.0"), ("1.0.0", "2.0.0"), ("2.0.0", "2.0.0")]
    wait_for(lambda: seen_versions(agent) == one_after_the_other, "frames of both new versions")


def test_a_bad_version_of_the_second_model_is_left_by_itself(stage):
    fleet, agent = stage
    roll_out(fleet, "tints", BAD)
    status = agent.until(
        lambda s: f"tints@{BAD}" in s["rejected"] and s["updates"]["tints"]["state"] == "IDLE",
        "the way back",
    )
    assert "p99" in status["rejected"][f"tints@{BAD}"]
    runs(agent, blobs="2.0.0", tints="2.0.0")
    there_and_back = [("2.0.0", "2.0.0"), ("2.0.0", BAD), ("2.0.0", "2.0.0")]
    # the status may know of the way back before the first frame after it is written
    wait_for(lambda: seen_versions(agent)[-3:] == there_and_back, "frames of the old version again")


def test_a_worker_that_is_killed_in_the_trial_of_the_second_model_costs_no_version(stage):
    fleet, agent = stage
    restarts = agent.status()["fallbacks"]["restarts"]
    roll_out(fleet, "tints", "3.0.0")
    status = agent.until(lambda s: s["updates"]["tints"]["state"] == "TRIAL", "the trial")
    os.kill(status["workers"][0]["pid"], signal.SIGKILL)
    agent.until(is_committed("tints", "3.0.0"), "the update all the same")
    status = runs(agent, blobs="2.0.0", tints="3.0.0")
    assert status["fallbacks"]["restarts"] == restarts + 1
    assert list(status["rejected"]) == [f"tints@{BAD}"]
    assert status["models"]["blobs"]["active"] == "2.0.0"
    seen_versions(agent)


def test_a_reload_that_changes_the_pipeline_in_the_trial_of_the_second_model_costs_no_version(stage):
    fleet, agent = stage
    roll_out(fleet, "tints", "4.0.0", soak_s=4)
    agent.until(lambda s: s["updates"]["tints"]["state"] == "TRIAL", "the trial")
    (agent.folder.parent / "gate.toml").write_text(
        f'{GATE}\n[[sink]]\nkind = "jsonl"\npath = "again.jsonl"\n'
    )
    assert ask(agent.state, {"op": "reload"})["changed"] == ["gate"]
    agent.until(is_committed("tints", "4.0.0"), "the update all the same")
    status = runs(agent, blobs="2.0.0", tints="4.0.0")
    assert list(status["rejected"]) == [f"tints@{BAD}"]
    assert (agent.folder.parent / "again.jsonl").stat().st_size > 0
    seen_versions(agent)
