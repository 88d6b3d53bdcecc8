"""``edgekit agent`` without an agent: what each action says, and what can be done all the same."""

import json
import os
import socket

import pytest
from bundles import make_bundle

from edgekit.cli.agent import status_text
from edgekit.model.install import install_initial
from edgekit.update.slots import Slots

STATUS = {
    "device": "",
    "profile": "",
    "desired": 0,
    "uptime_s": 12.3,
    "pid": 7,
    "rss_mb": 20.5,
    "link": {"connected": True, "problem": ""},
    "pipelines": {},
    "models": {},
    "updates": {},
    "rejected": {},
    "measuring": {},
    "outbox": {"rows": 1, "bytes": 20, "dropped": 3},
    "sensors": {"temperature_c": 41.5},
}
PIPELINE = {
    "state": "failed",
    "model": "motion",
    "version": "1.0.0",
    "variant": "",
    "fps": 0.0,
    "p95_ms": 0.0,
    "errors": 2,
    "restarts": 5,
    "message": "killed by SIGSEGV\nmore",
    "why": "the only one",
    "brokers": [],
    "source": {},
}


@pytest.mark.parametrize("action", ["enroll", "run", "status", "rollback", "ledger"])
def test_every_action_has_help_with_an_example(action, edgekit):
    done = edgekit("agent", action, "--help")
    assert done.code == 0
    assert f"example: edgekit agent {action}" in done.out


def test_without_an_agent_status_says_so_and_how_to_start_one(tmp_path, edgekit):
    done = edgekit("agent", "status", "--state", tmp_path, "--json")
    assert (done.code, done.error["code"]) == (7, "link")
    assert str(tmp_path) in done.error["message"]
    assert "edgekit agent run" in done.error["hint"]


def test_the_status_of_an_idle_agent_is_read_by_a_person():
    lines = status_text(STATUS).splitlines()
    assert lines == [
        "this device (no profile yet), connected, desired 0, up 12 s",
        "  supervisor: process 7, 20.5 MB",
        "  outbox: 1 messages, 20 bytes, 3 given up",
        "  temperature_c: 41.5",
    ]


def test_the_status_says_why_the_link_is_down():
    link = {"connected": False, "problem": "Connection refused"}
    assert "not connected: Connection refused" in status_text(STATUS | {"link": link})


def test_the_status_names_the_model_and_version_of_each_stage():
    rows = [
        {"name": "people", "model": "blobs", "version": "1.0.0", "variant": "ort"},
        {"name": "tint", "model": "tints", "version": "2.0.0", "variant": "ort", "errors": 3},
        {"name": "shade", "model": "shades"},
    ]
    lines = status_text(STATUS | {"pipelines": {"gate": PIPELINE | {"stages": rows}}}).splitlines()
    assert [line for line in lines if "stage" in line] == [
        "    stage tint: tints 2.0.0 on ort, 3 errors",
        "    stage shade: shades, 0 errors",
    ]


def test_the_status_says_why_a_pipeline_failed_and_what_was_rejected():
    rejected = {"motion 2.0.0": "crashed 2 times"}
    lost = {"state": "lost", "reopened": 3, "fault": "TIMEOUT", "reason": "no answer in time"}
    broker = {"destination": "h:1", "sent": 1, "unsent": 2, "dropped": 0, "refused": 0, "problem": "refused"}
    told = status_text(
        STATUS
        | {
            "pipelines": {
                "motor": PIPELINE
                | {"brokers": [broker], "setting": "rate 1/2", "changes": 3, "source": lost},
            },
            "models": {"motion": {"active": "1.0.0", "previous": ""}},
            "updates": {"motion": {"state": "TRIAL"}},
            "rejected": rejected,
            "measuring": {"job": "j1", "state": "waits", "why": "an update is under way"},
        }
    )
    for line in (
        "  pipeline motor: failed, motion 1.0.0 on -, 0.0 frames/s, p95 0.0 ms, 2 errors, 5 restarts",
        "    budget: rate 1/2 (3 changes)",
        "    killed by SIGSEGV",
        "    the only one",
        "    source: lost, opened again 3 times, last TIMEOUT: no answer in time",
        "    broker h:1: 1 sent, 2 unsent (refused)",
        "  model motion: active 1.0.0, previous -, update TRIAL",
        "  rejected motion 2.0.0: crashed 2 times",
        "  measuring: j1 waits an update is under way",
    ):
        assert line in told.splitlines()


@pytest.mark.parametrize("hours", ["0", "-1"])
def test_a_ledger_of_no_time_is_a_usage_error(hours, edgekit, tmp_path):
    done = edgekit("agent", "ledger", f"--hours={hours}", "--state", tmp_path, "--json")
    assert (done.code, done.error["code"]) == (2, "usage")
    assert "--hours" in done.error["message"]


def test_the_ledger_of_a_device_that_never_ran_is_empty_and_says_so(edgekit, tmp_path):
    assert edgekit("agent", "ledger", "--state", tmp_path, "--json").document == {"entries": []}
    assert edgekit("agent", "ledger", "--state", tmp_path).out.startswith("nothing left this device")


def two_versions(folder):
    slots = Slots(folder / "state")
    for version in ("1.0.0", "2.0.0"):
        made = make_bundle(folder / version, version=version)
        install_initial(slots, "motion", made, folder / "unpacked")
    return slots


def test_going_back_works_while_the_agent_is_down(edgekit, tmp_path):
    slots = two_versions(tmp_path)
    done = edgekit("agent", "rollback", "--state", slots.state_dir, "--json")
    message = "motion runs 1.0.0 from the agent's next start on"
    wanted = {"model": "motion", "version": "1.0.0", "message": message, "agent": "not running"}
    assert (done.code, done.document) == (0, wanted)
    slot = slots.load("motion")
    assert (slot.active.version, slot.previous.version) == ("1.0.0", "2.0.0")


def test_going_back_with_an_unknown_model_names_those_there_are(edgekit, tmp_path):
    slots = two_versions(tmp_path)
    done = edgekit("agent", "rollback", "absent", "--state", slots.state_dir, "--json")
    assert (done.code, done.error["code"]) == (2, "usage")
    assert done.error["hint"] == "this device has: motion"


def test_an_agent_that_answers_nonsense_is_not_taken_for_one_that_is_down(edgekit, tmp_path, short_path):
    """Going back behind the back of a running agent would change slots under its feet."""
    (short_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "run" / "agent.sock"))
        listener.listen()
        import threading

        def answer():
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"nonsense\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = edgekit("agent", "rollback", "--state", short_path, "--json")
        thread.join()
    assert (done.code, done.error["code"]) == (7, "link.protocol")


def test_a_configuration_with_mistakes_ends_with_all_of_them(tmp_path, edgekit):
    (tmp_path / "agent.toml").write_text("[agent]\nnmae = 1\n[limits]\ncrashes = 0\n")
    done = edgekit("agent", "run", "--config", tmp_path / "agent.toml", "--json")
    assert done.code == 3
    told = done.error["reasons"]
    assert any("nmae" in reason for reason in told)
    assert any("crashes" in reason for reason in told)


@pytest.mark.parametrize("action", ["run", "status", "ledger", "rollback"])
def test_a_configuration_that_is_not_there_is_exit_3_and_named(action, tmp_path, edgekit):
    done = edgekit("agent", action, "--config", tmp_path / "absent.toml", "--json")
    assert done.code == 3
    assert "absent.toml" in done.error["message"]


def test_the_state_folder_is_the_flags_then_the_files_then_the_environments(tmp_path, edgekit, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "environments"))
    assert os.fspath(tmp_path / "environments") in edgekit("agent", "status").err
    config = tmp_path / "agent.toml"
    config.write_text('[agent]\nstate = "files"\n')
    assert os.fspath(tmp_path / "files") in edgekit("agent", "status", "--config", config).err
    monkeypatch.setenv("EDGEKIT_CONFIG", str(config))
    assert os.fspath(tmp_path / "files") in edgekit("agent", "status").err
    flags = ("--config", config, "--state", tmp_path / "flags")
    assert os.fspath(tmp_path / "flags") in edgekit("agent", "status", *flags).err


@pytest.mark.usefixtures("proved")
def test_a_fleet_that_does_not_answer_is_exit_7_and_nothing_is_kept(edgekit, tmp_path):
    words = ("--fleet", "http://127.0.0.1:1", "--token", "ek1.a.b", "--state", tmp_path / "state", "--json")
    done = edgekit("agent", "enroll", *words)
    assert done.code == 7
    assert "127.0.0.1:1" in done.error["message"]
    assert not (tmp_path / "state" / "identity" / "enrolment.json").exists()
    assert json.loads(done.out)["error"]["code"].startswith("link")


def test_a_token_file_that_is_not_there_is_named(edgekit, tmp_path):
    token = f"@{tmp_path / 'token'}"
    done = edgekit("agent", "enroll", "--fleet", "http://127.0.0.1:1", "--token", token, "--json")
    assert done.code == 3
    assert str(tmp_path / "token") in done.error["message"]
