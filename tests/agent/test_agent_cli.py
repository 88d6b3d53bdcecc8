"""``edgekit agent`` as a person uses it, without a fleet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from bundles import make_bundle, pipeline_toml

from edgekit.cli.main import main
from edgekit.model.install import install_initial
from edgekit.update.slots import Slots


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
    (tmp_path / "motor.toml").write_text(pipeline_toml())
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


def test_going_back_works_while_the_agent_is_down(tmp_path, capsys):
    state = tmp_path / "state"
    slots = Slots(state)
    install_initial(slots, "motion", make_bundle(tmp_path / "1"), tmp_path / "unpacked")
    install_initial(slots, "motion", make_bundle(tmp_path / "2", version="2.0.0"), tmp_path / "unpacked")
    assert main(["agent", "rollback", "--state", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "1.0.0"
    slot = slots.load("motion")
    assert (slot.active.version, slot.previous.version) == ("1.0.0", "2.0.0")
    assert main(["agent", "rollback", "absent", "--state", str(state)]) == 2
    assert "this device has: motion" in capsys.readouterr().err


def test_without_an_agent_status_says_so(tmp_path, capsys):
    assert main(["agent", "status", "--state", str(tmp_path)]) == 7
    assert "edgekit agent run" in capsys.readouterr().err


def test_a_configuration_with_mistakes_ends_with_all_of_them(tmp_path, capsys):
    (tmp_path / "agent.toml").write_text("[agent]\nnmae = 1\n[limits]\ncrashes = 0\n")
    assert main(["agent", "run", "--config", str(tmp_path / "agent.toml"), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)["error"]
    assert any("nmae" in reason for reason in told["reasons"])
    assert any("crashes" in reason for reason in told["reasons"])


def test_the_state_folder_of_the_environment_is_used_where_nothing_else_is_named(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "elsewhere"))
    assert main(["agent", "status"]) == 7
    assert os.fspath(tmp_path / "elsewhere") in capsys.readouterr().err


def test_every_mistake_of_the_agents_file_and_of_every_pipeline_is_told_and_nothing_starts(tmp_path, capsys):
    (tmp_path / "one.toml").write_text(
        '[pipeline]\nname = "ONE"\nmodel = "m"\n[source]\nkind = "telepathy"\n'
        '[privacy]\negress = ["count"]\n[[sink]]\nkind = "mqtt"\nurl = "mqtt://h"\ntopic = "a/#"\n'
    )
    (tmp_path / "two.toml").write_text(
        '[pipeline]\nname = "two"\nmodel = "./absent"\n[source]\nkind = "camera"\nuri = "rtsp://cam/1"\n'
        '[[sink]]\nkind = "video"\npath = "nothing"\n'
    )
    (tmp_path / "agent.toml").write_text(
        '[agent]\nstate = "state"\nname = "a b"\n[limits]\ncrashes = 0\n'
        '[[pipeline]]\nfile = "one.toml"\ninitial = "missing"\n[[pipeline]]\nfile = "two.toml"\n'
        '[[pipeline]]\nfile = "three.toml"\n[[pipeline]]\nmodle = "x"\n'
    )
    assert main(["agent", "run", "--config", str(tmp_path / "agent.toml"), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    told = [reason.replace(f"{tmp_path}/", "") for reason in error["reasons"]]
    for begin in (
        "agent.toml:agent.name: want letters",
        "agent.toml:limits.crashes: want ",
        "agent.toml:pipeline[3].modle: ",
        "agent.toml:pipeline[0].initial: want a bundle, there is no missing",
        "agent.toml:pipeline[1].model: there is no ",
        "three.toml: cannot be read",
        "one.toml:pipeline.name: want lower-case",
        "one.toml:source.kind: want one of",
        "one.toml:privacy.egress[0]: want one of counts, labels",
        "one.toml:sink[0].topic: want a topic without",
        "two.toml:source.uri: want a number or a device node",
        "two.toml:sink[0].path: want a file name that ends in",
    ):
        assert [reason for reason in told if reason.startswith(begin)], (begin, told)
    assert len(told) == 12
    assert not (tmp_path / "state").exists()


def test_status_beside_the_agents_file_asks_that_agent(tmp_path, capsys, monkeypatch):
    (tmp_path / "agent.toml").write_text('\ufeff[agent]\nstate = "mine"\npipelines = ["not-there.toml"]\n')
    monkeypatch.chdir(tmp_path)
    assert main(["agent", "status"]) == 7
    assert str(tmp_path / "mine") in capsys.readouterr().err
