"""The ``edgekit-fleet`` command: one document, one exit code, clear refusals."""

import argparse
import contextlib
import importlib
import io
import json
import signal
import subprocess
import sys

import pytest
from fleet_kit import ROOT, RunningFleet, wait_until

from edgekit.core.errors import LinkError
from edgekit_fleet.broker.mqtt import Access, MqttLink
from edgekit_fleet.cli.main import COMMANDS, main


def command(*words):
    """Run a command in this process: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def document(*words):
    code, out, err = command(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_tokens_and_devices_by_the_data_folder_and_by_url(fleet):
    claim = document("token", "create", "--enroll", "--uses", 2, "--data", fleet.data)["token"]
    fleet.enroll("by-command", claim)
    token = document("token", "create", "--role", "viewer", "--data", fleet.data)["token"]
    url = fleet.ready["url"]
    for which in (["--data", fleet.data], ["--fleet", url, "--token", token]):
        found = document("devices", "--search", "by-command", *which)
        assert [one["id"] for one in found["devices"]] == ["by-command"]
        assert not found["more"]
    code, out, _ = command("devices", "--data", fleet.data)
    assert code == 0
    assert "by-command" in out
    code, _, err = command("token", "create", "--role", "admin", "--fleet", url, "--token", token)
    assert code == 7
    assert "needs the role 'admin'" in err


def test_a_command_on_a_folder_where_no_fleet_runs_says_how_to_start_one(tmp_path):
    code, out, err = command("devices", "--data", tmp_path, "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "usage"
    assert f"edgekit-fleet serve --data {tmp_path}" in err


def test_two_fleet_managers_on_one_folder_are_refused(fleet):
    code, _, err = command("serve", "--data", fleet.data)
    assert code == 3
    assert "another fleet manager" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["devices"], 2),
        (["devices", "--fleet", "http://127.0.0.1:1"], 2),
        (["devices", "--fleet", "http://127.0.0.1:1", "--token", "t"], 7),
        (["devices", "--fleet", "ftp://x", "--token", "t"], 2),
        (["token", "create", "--data", "/nowhere"], 2),
        (["serve", "--data", "{tmp}", "--database", "postgresql://x/y"], 3),
        (["serve", "--data", "/proc/nowhere"], 3),
    ],
)
def test_exit_codes(tmp_path, words, code):
    assert command(*[word.format(tmp=tmp_path) for word in words])[0] == code


def test_a_port_in_use_is_told(tmp_path, fleet):
    port = fleet.ready["url"].rpartition(":")[2]
    code, _, err = command("serve", "--data", tmp_path, "--port", port, "--broker-port", "0")
    assert code == 3
    assert "choose another" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_stops_it_cleanly(tmp_path, number):
    words = ["serve", "--data", str(tmp_path), "--port", "0", "--broker-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit_fleet.cli.main", *words], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    wait_until((tmp_path / "ca" / "ca.crt").exists, "the start")
    process.send_signal(number)
    assert process.wait(30) == 0


def test_a_broker_that_is_not_there_is_told():
    link = MqttLink(Access("mqtt://127.0.0.1:1"), "nobody")
    with pytest.raises(LinkError, match="not connected within 1 s"):
        link.start(wait_s=1)


def test_help_has_an_example():
    for name in ("serve", "token", "devices"):
        code, out, _ = command(name, "--help")
        assert code == 0
        assert f"example: edgekit-fleet {name}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_each_command_can_be_typed(name):
    module, _, example = COMMANDS[name]
    parser = argparse.ArgumentParser()
    importlib.import_module(module).add_arguments(parser)
    program, command_name, *words = example.split()
    assert (program, command_name) == ("edgekit-fleet", name)
    parser.parse_args(words)


def test_a_fleet_answers_on_ipv6_loopback(tmp_path):
    with RunningFleet(tmp_path, "--host", "::1") as fleet:
        assert fleet.ready["url"].startswith("http://[::1]:")
        assert fleet.enroll("six").answer.broker_url.startswith("mqtts://[::1]:")
