"""``edgekit agent`` as a person uses it, without a fleet."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from bundles import make_bundle, pipeline_toml

from edgekit.cli.main import main


def edgekit(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    make_bundle(tmp_path / "first")
    (tmp_path / "motor.toml").write_text(f'{pipeline_toml()}\n[[profile]]\nname = "night"\nrun = false\n')
    (tmp_path / "agent.toml").write_text(
        '[agent]\nstate = "state"\n[[pipeline]]\nfile = "motor.toml"\ninitial = "first"\n'
        "[intervals]\nmetrics_s = 0.5\nprogress_s = 0.2\n"
    )
    return tmp_path


def test_an_agent_runs_answers_and_ends_in_order(folder, capsys):
    config = folder / "agent.toml"
    agent = edgekit("agent", "run", "--config", config, "--json")
    try:
        deadline_s = time.monotonic() + 120
        status = {}
        while status.get("pipelines", {}).get("motor", {}).get("frames", 0) < 50:
            assert time.monotonic() < deadline_s, status
            assert agent.poll() is None, agent.communicate()
            if main(["agent", "status", "--config", str(config), "--json"]) == 0:
                status = json.loads(capsys.readouterr().out)
            capsys.readouterr()
            time.sleep(0.2)
        assert status["models"]["motion"]["active"] == "1.0.0"
        assert status["pipelines"]["motor"]["why"]
        assert not status["enrolled"]

        second = edgekit("agent", "run", "--config", config)
        _, told = second.communicate(timeout=120)
        assert second.returncode == 3
        assert "another agent" in told

        assert main(["agent", "status", "--state", str(folder / "state")]) == 0
        assert "pipeline motor: running, motion 1.0.0 on null" in capsys.readouterr().out
        switch = ["agent", "switch", "--state", str(folder / "state")]
        assert main([*switch, "motor", "night", "--reason", "a test", "--json"]) == 0
        message = json.loads(capsys.readouterr().out)["message"]
        assert message == "pipeline motor is asked to switch to night"
        while status["pipelines"]["motor"]["switch"].get("profile") != "night":
            assert time.monotonic() < deadline_s, status
            assert main(["agent", "status", "--config", str(config), "--json"]) == 0
            status = json.loads(capsys.readouterr().out)
            time.sleep(0.2)
        assert main(["agent", "status", "--config", str(config)]) == 0
        assert "switched off, profile night: a test: profile night" in capsys.readouterr().out
        assert main([*switch, "engine", "off"]) == 2
        assert "there is no pipeline 'engine'" in capsys.readouterr().err
        assert main(["agent", "rollback", "--state", str(folder / "state")]) == 2
        assert "no previous version" in capsys.readouterr().err
        assert main(["agent", "ledger", "--state", str(folder / "state"), "--json"]) == 0
        entries = json.loads(capsys.readouterr().out)["entries"]
        assert {"counts", "scores"} <= {row["data_class"] for row in entries}
        assert {row["decision"] for row in entries} == {"refused"}  # not enrolled: nothing left this device
    finally:
        agent.send_signal(signal.SIGTERM)
        out, err = agent.communicate(timeout=120)
    assert agent.returncode == 0, err
    assert json.loads(out) == {"stopped": True}
    assert not (folder / "state" / "run" / "agent.sock").exists()
    assert main(["agent", "ledger", "--state", str(folder / "state")]) == 0
    assert "scores" in capsys.readouterr().out
