"""The agent replaces itself by signed releases, and goes back by itself: real wheels, fleet and processes."""

from __future__ import annotations

import contextlib
import random
import site
import subprocess
from pathlib import Path

import pytest
from agent_stage import AgentStage, FleetStage, command, wait_for
from bundles import make_bundle, pipeline_toml
from releases import agent_wheel, clean_environment, installation

from edgekit.core.spec import AGENT

pytestmark = pytest.mark.timeout(900)

# Each is appended to a module of the release.
ENDS_AT_START = {
    "edgekit/agent/supervisor/supervisor.py": "\nSupervisor.run = lambda self: sys.exit(9)\nimport sys\n"
}


class Installed(AgentStage):
    """An agent that runs from an installation of its own, as from the Debian package."""

    program: Path

    def start(self, **environment: str) -> None:
        """Start it as the unit does."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-m", "edgekit.cli.main", "agent", "run", "--config", str(self.config)],
                cwd=self.folder,
                env=clean_environment(**environment),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def is_agent(self, version: str) -> dict:
        """Wait until this version runs its pipeline, and nothing is on trial."""
        return self.until(
            lambda s: s["agent"] == version and s["pipelines"]["motor"]["state"] == "running",
            f"agent {version}",
        )

    def settles(self, version: str) -> dict:
        """Wait until the update to a version has ended, either way."""
        return self.until(
            lambda s: (
                s["updates"].get(AGENT, {}).get("state") == "IDLE"
                and (s["models"][AGENT]["active"] == version or f"{AGENT}@{version}" in s["rejected"])
            ),
            f"the end of the update to agent {version}",
        )


@pytest.fixture
def stage(tmp_path, _proved_once):
    """A fleet, and an enrolled device whose agent 0.1.0 runs one pipeline."""
    make_bundle(tmp_path / "1.0.0")
    (tmp_path / "motor.toml").write_text(pipeline_toml(fps=50))
    agent = Installed(
        tmp_path / "agent",
        'self_update = true\n[[pipeline]]\nfile = "../motor.toml"\ninitial = "../1.0.0"\n',
        "[limits]\nagent_trial_s = 100\n",
    )
    agent.program = installation(
        tmp_path / "opt", agent_wheel(tmp_path / "wheels", "0.1.0"), site.getsitepackages()
    )
    fleet = FleetStage(tmp_path)
    fleet.start()
    agent.enroll(fleet, "box")
    agent.start()
    try:
        agent.is_agent("0.1.0")
        yield fleet, agent
    finally:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            agent.stop()
        fleet.stop()


def roll_out(fleet: FleetStage, folder: Path, version: str, **options) -> None:
    """Publish a release and direct the device to it."""
    wheel, file = agent_wheel(folder / "wheels", version, **options), folder / f"{version}.ekb"
    assert command("edgekit_fleet.cli.main", "release", wheel, "-o", file)["version"] == version
    fleet.publish(file)
    wait_for(fleet.is_free, "the end of the rollout before")
    flags = ("--model", AGENT, "--version", version, "--devices", "box", "--waves", "100%")
    fleet.cli("rollout", "create", *flags, "--soak-s", 1)


def test_the_agent_updates_itself_though_it_is_killed_and_leaves_releases_that_do_not_do_their_work(
    stage, tmp_path
):
    fleet, agent = stage
    roll_out(fleet, tmp_path, "0.2.0")
    kill_at_random(agent, [2.0], {"0.1.0", "0.2.0"})
    agent.settles("0.2.0")
    status = agent.is_agent("0.2.0")
    assert status["models"][AGENT]["previous"] == "0.1.0"

    roll_out(fleet, tmp_path, "0.3.0", changes=ENDS_AT_START)
    before = status = agent.settles("0.3.0")
    assert status["agent"] == "0.2.0"
    assert "exit code 9" in status["rejected"][f"{AGENT}@0.3.0"]

    roll_out(fleet, tmp_path, "0.5.0", msgspec="99")
    status = agent.settles("0.5.0")
    assert "needs msgspec >=99" in status["rejected"][f"{AGENT}@0.5.0"]
    assert status["pid"] == before["pid"], "nothing was restarted for it"


def kill_at_random(agent: Installed, delays: list[float], versions: set[str]) -> None:
    """Kill the agent's first process so long after each start; each time one of the versions comes up."""
    for delay in delays:
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.process.wait(delay)
        if agent.process.poll() is None:
            agent.kill()
        agent.start()
        found = wait_for(lambda: agent.status().get("agent"), "an agent")
        assert found in versions


@pytest.mark.slow
def test_fifty_kills_at_random_moments_of_updates_leave_one_of_the_two(stage, tmp_path):
    fleet, agent = stage
    chance, before = random.Random(18), "0.1.0"
    for number in range(10):
        version = f"0.2.{number}"
        roll_out(fleet, tmp_path, version)
        kill_at_random(agent, [chance.uniform(0.1, 6.0) for _ in range(5)], {before, version})
        status = agent.settles(version)
        before = status["models"][AGENT]["active"]
