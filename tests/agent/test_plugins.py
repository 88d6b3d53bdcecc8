"""A package that is installed adds rows, and the agent's worker runs them; without it, they are named."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import make_bundle

SOURCE = Path(__file__).parents[1] / "plugin"
PROFILE = f"""
id = "toy-box"
title = "A box with a toy"
[match]
arch = ["{platform.machine()}"]
[[backend]]
name = "null"
accelerator = "toy-npu"
[[backend]]
name = "litert"
"""
PIPELINE = """
[pipeline]
name = "motor"
model = "toy"
[source]
kind = "synthetic"
realtime = true
fps = 50.0
[[sink]]
kind = "{sink}"
path = "tally.json"
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Install the package into a folder of its own; return the folder."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(SOURCE, folder / "source")  # a build leaves files in its source
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "source")], check=True)
    return folder / "site"


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a profile, an agent's file and a bundle that needs the package three times."""
    make_toy_bundle(tmp_path / "toy")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "toy-box.toml").write_text(PROFILE)
    (tmp_path / "motor.toml").write_text(PIPELINE.format(sink="toy-tally"))
    (tmp_path / "agent.toml").write_text(
        '[agent]\nstate = "state"\n[[pipeline]]\nfile = "motor.toml"\nmodel = "./toy"\n'
        "[intervals]\nprogress_s = 0.2\n"
    )
    return tmp_path


def make_toy_bundle(path, decoder="toy-loudest", accelerator="toy-npu"):
    make_bundle(path, model="toy")
    manifest = json.loads((path / "bundle.json").read_text())
    manifest["post"] = {"decoder": decoder}
    manifest["variants"][0]["accelerator"] = accelerator
    (path / "bundle.json").write_text(json.dumps(manifest))


def edgekit(folder, site, *words):
    environment = {**os.environ, "EDGEKIT_PROFILES": str(folder / "profiles")}
    if site is not None:
        environment["PYTHONPATH"] = f"{site}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_an_agent_runs_a_package_s_decoder_sink_and_accelerator_in_its_worker(folder, package):
    agent = edgekit(folder, package, "agent", "run", "--config", folder / "agent.toml")
    tally = {}
    try:
        deadline_s = time.monotonic() + 120
        while tally.get("labels", {}).get("loudest-1", 0) < 20:
            assert time.monotonic() < deadline_s
            assert agent.poll() is None, agent.communicate()
            time.sleep(0.1)
            if (folder / "tally.json").exists():
                tally = json.loads((folder / "tally.json").read_text())
        status = ended(edgekit(folder, package, "agent", "status", "--config", folder / "agent.toml"))
    finally:
        agent.send_signal(signal.SIGTERM)
        _, err = agent.communicate(timeout=120)
    assert agent.returncode == 0, err
    assert set(tally["labels"]) == {"loudest-1"}
    assert status[0] == 0, status
    assert "toy-box" in status[1]


def test_doctor_shows_the_package_s_accelerator_as_present_and_not_proved(folder, package):
    code, out, err = ended(edgekit(folder, package, "doctor", "--json"))
    assert code == 0, err
    document = json.loads(out)
    assert document["profile"] == "toy-box"
    (device,) = (a for a in document["accelerators"] if a["kind"] == "toy-npu")
    assert device["usable"]
    (backend,) = (b for b in document["backends"] if b["accelerator"] == "toy-npu")
    assert backend["reason"].startswith("present, not proved")


def run_once(folder, site):
    pipeline = (folder / "motor.toml").read_text().replace('model = "toy"', 'model = "./toy"')
    (folder / "run.toml").write_text(pipeline)
    return ended(edgekit(folder, site, "run", folder / "run.toml", "--frames", "3"))


def test_without_the_package_a_sink_is_exit_3_and_names_the_row(folder):
    code, _, err = run_once(folder, None)
    assert code == 3
    assert "'toy-tally', which no installed package adds (group edgekit.sinks)" in err


def test_without_the_package_a_decoder_is_exit_4_and_names_the_row(folder):
    (folder / "motor.toml").write_text(PIPELINE.format(sink="jsonl"))
    make_toy_bundle(folder / "toy", accelerator="cpu")
    code, _, err = run_once(folder, None)
    assert code == 4
    assert "'toy-loudest', which no installed package adds (group edgekit.decoders)" in err


def test_without_the_package_an_accelerator_is_exit_4_and_names_the_row(folder):
    (folder / "motor.toml").write_text(PIPELINE.format(sink="jsonl"))
    make_toy_bundle(folder / "toy", decoder="classify")
    code, _, err = run_once(folder, None)
    assert code == 4
    assert "toy-npu" in err


def test_an_agent_without_the_package_says_which_row_is_missing_and_runs_on(folder):
    """The supervisor passes unknown rows on; its worker refuses them, and status shows why."""
    config = folder / "agent.toml"
    agent = edgekit(folder, None, "agent", "run", "--config", config)
    try:
        deadline_s = time.monotonic() + 120
        text = ""
        while "toy-tally" not in text and agent.poll() is None:
            assert time.monotonic() < deadline_s, text
            time.sleep(0.2)
            _, text, _ = ended(edgekit(folder, None, "agent", "status", "--config", config, "--json"))
    finally:
        if agent.poll() is None:
            agent.send_signal(signal.SIGTERM)
        _, err = agent.communicate(timeout=120)
    if agent.returncode == 3:  # refused before anything was started
        text = err
    assert "group edgekit.sinks" in text


def test_the_supervisor_has_no_reader_of_entry_points():
    """It passes unknown kinds on; what reads entry points costs it memory and time."""
    program = (
        "import sys, edgekit.agent.__main__, edgekit.agent.supervisor.supervisor\n"
        "print([m for m in ('importlib.metadata', 'edgekit.base.plugins') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
