"""kill -9 of any process of an agent, at chosen points of updates, with a real fleet and broker.

Afterwards the device always has a working model, and the fleet has every message of its outbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from agent_stage import RECONNECT_S, AgentStage, FleetStage, messages, wait_for
from bundles import make_bundle, pipeline_toml

from edgekit.model.bundle import open_bundle
from edgekit.update.slots import Slots

PIPELINE = '[[pipeline]]\nfile = "../motor.toml"\ninitial = "../1.0.0"\n'
QUICK = "progress_s = 0.2\n[limits]\nbackoff_s = 0.1\ntrial_crashes = 3\n"
GOOD = tuple(f"{number}.0.0" for number in range(1, 5))
BAD = "9.0.0"


pytestmark = [
    pytest.mark.timeout(900),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, proofs):
    folder = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proofs))
        yield from staged(folder)


def staged(folder):
    fleet = FleetStage(folder)
    fleet.start()
    for version in GOOD:
        make_bundle(folder / version, version=version, options={"seed": int(version[0])})
    make_bundle(folder / BAD, version=BAD, options={"latency_ms": 30}, guards={"p99_ms": 10})
    (folder / "motor.toml").write_text(pipeline_toml(fps=100))
    agent = AgentStage(folder / "agent", PIPELINE, QUICK)
    try:
        agent.device = agent.enroll(fleet, "killed")
        for version in (*GOOD, BAD):
            fleet.publish(folder / version)
        agent.start()
        agent.runs("1.0.0")
        agent.until(lambda s: s["link"]["connected"], "the link")
        yield fleet, agent
    finally:
        if agent.process is not None:
            agent.kill()
        fleet.stop()


def machine(agent: AgentStage) -> tuple[str, str]:
    """Return (state, version) of the update machine, from its file: nothing is faster."""
    try:
        saved = json.loads((agent.state / "update" / "motion.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return "", ""
    return saved["state"], (saved.get("job") or {}).get("version", "")


def reaches(agent: AgentStage, states: str, version: str, limit_s: float = 120.0) -> None:
    """Wait until the machine stands at one of some states, with a version."""
    wanted = [(state, version) for state in states.split()]
    deadline_s = time.monotonic() + limit_s
    while machine(agent) not in wanted:
        assert time.monotonic() < deadline_s, (
            f"{machine(agent)} and not {states} {version}\n" + (agent.log.read_text()[-3000:])
        )
        time.sleep(0.001)


def has_whole_model(agent: AgentStage) -> str:
    """Return the active version; what lies on the disk is a whole bundle with the right hashes."""
    slots = Slots(agent.state)
    active = slots.load("motion").active
    folder = slots.folder("motion")
    assert active is not None
    assert folder is not None
    open_bundle(folder).check_hashes()
    return active.version


def children(agent: AgentStage, word: str) -> list[int]:
    """Return the agent's child processes whose command line has a word in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == agent.process.pid and word in (path / "cmdline").read_text():
                found.append(int(path.name))
    return found


def kill_child(agent: AgentStage, word: str) -> bool:
    """Kill the first child of that kind that shows up; False where none did."""
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s:
        for pid in children(agent, word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.002)  # the agent needs the processor more than who waits for its child
    return False


def kill_supervisor(agent: AgentStage) -> None:
    """Kill it; its workers must die with it; then start it again."""
    workers = children(agent, "edgekit.agent.worker")
    agent.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers' end")
    has_whole_model(agent)
    agent.start()


def commits(agent: AgentStage, version: str) -> None:
    agent.until(
        lambda s: s["models"]["motion"]["active"] == version and s["updates"]["motion"]["state"] == "IDLE",
        f"{version} is committed",
        240,
    )
    agent.runs(version)
    assert has_whole_model(agent) == version


def roll_out(fleet: FleetStage, version: str) -> None:
    wait_for(fleet.is_free, "the end of the rollout before")
    fleet.cli(
        *("rollout", "create", "--model", "motion", "--version", version),
        *("--waves", "100%", "--soak-s", 1, "--p99-ratio", 0, "--error-ratio", 0),
    )


def test_an_update_is_taken_though_each_of_its_steps_is_killed_once(stage):
    """Six points: supervisor, updater and worker, from the fetch to the commit."""
    fleet, agent = stage
    roll_out(fleet, "2.0.0")
    reaches(agent, "FETCHING", "2.0.0")
    kill_supervisor(agent)  # 1
    assert kill_child(agent, "edgekit.update")  # 2: the updater, at its work
    reaches(agent, "INSTALLING", "2.0.0")
    kill_supervisor(agent)  # 3
    reaches(agent, "TRIAL", "2.0.0")
    assert kill_child(agent, "edgekit.agent.worker")  # 4: while it loads, or on its first frames
    agent.until(lambda s: s["pipelines"]["motor"]["version"] == "2.0.0", "the trial is live")
    assert kill_child(agent, "edgekit.agent.worker")  # 5: on live frames of the trial
    reaches(agent, "IDLE", "2.0.0")
    kill_supervisor(agent)  # 6: right after the commit was noted
    commits(agent, "2.0.0")


def test_a_trial_cut_short_is_left_and_tried_again(stage):
    """Three points: the supervisor in a trial, then in the rollback that follows, then at the commit."""
    fleet, agent = stage
    roll_out(fleet, "3.0.0")
    reaches(agent, "TRIAL", "3.0.0")
    kill_supervisor(agent)  # 7
    reaches(agent, "ROLLING_BACK IDLE", "3.0.0")  # it may be over in milliseconds
    kill_supervisor(agent)  # 8
    assert has_whole_model(agent) in ("2.0.0", "3.0.0")
    commits(agent, "3.0.0")


def test_a_bad_version_is_left_offline_whatever_is_killed_meanwhile(stage):
    """Four points; the fleet goes off before the trial."""
    fleet, agent = stage
    roll_out(fleet, BAD)
    reaches(agent, "FETCHING", BAD)
    kill_child(agent, "edgekit.update")  # 9
    reaches(agent, "INSTALLING", BAD)  # all that it needs is here now
    power_off = threading.Thread(target=fleet.stop)
    power_off.start()
    reaches(agent, "TRIAL", BAD)
    assert kill_child(agent, "edgekit.agent.worker")  # 10
    reaches(agent, "ROLLING_BACK IDLE", BAD)  # it may be over in milliseconds
    kill_supervisor(agent)  # 11
    power_off.join()
    agent.until(
        lambda s: (
            f"motion@{BAD}" in s["rejected"]
            and s["updates"]["motion"]["state"] == "IDLE"
            and not s["link"]["connected"]
        ),
        "the way back, offline",
    )
    agent.runs("3.0.0")
    kill_supervisor(agent)  # 12: offline, after it all
    agent.runs("3.0.0")
    assert has_whole_model(agent) == "3.0.0"
    fleet.start()


def test_after_all_the_kills_the_fleet_has_every_message(stage):
    fleet, agent = stage
    status = agent.until(lambda s: s["link"]["connected"], "the link is back", RECONNECT_S)
    assert agent.stop() == 0
    agent.start()
    status = agent.until(
        lambda s: s["outbox"]["rows"] < 5 and s["outbox"]["last_seq"] > 50, "an empty outbox"
    )
    assert status["outbox"]["dropped"] == 0
    expected = status["outbox"]["last_seq"] - status["outbox"]["rows"]

    def stored() -> bool:
        return len(messages(fleet, agent.device, status["boot"])) >= expected

    wait_for(stored, f"{expected} messages at the fleet")
    seqs = messages(fleet, agent.device, status["boot"])
    assert seqs[:expected] == list(range(seqs[0], seqs[0] + expected))
    assert seqs[0] == 1
