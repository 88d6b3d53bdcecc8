"""The commands of README, installation, self-update and the fleet's page run as they stand.

A shell runs each in a folder with the files that its page speaks of; ``sudo`` only drops the user. What
stands in ``ELSEWHERE`` is run by another test or script. A line of a page that is in neither fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from agent_stage import AgentStage, FleetStage, wait_for
from blobs import blob_bundle, film
from bundles import make_bundle, pipeline_toml
from releases import agent_wheel

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("_proved_once")]

ROOT = Path(__file__).parents[2]
_BEGINS = r"sudo|\.venv/bin/|\./|/opt/|edgekit|packaging/|pip|python3|apt-get|chown|mosquitto|curl|uv"
_LINE = re.compile(rf"^(?:\$ |    )((?:{_BEGINS})\b.*)$", re.MULTILINE)
_PROGRAM = '#!/bin/sh\nexec "{python}" -m {module} "$@"\n'
_SUDO = '#!/bin/sh\nif [ "$1" = -u ]; then shift 2; fi\nexec "$@"\n'

RUN_HERE = {
    ("README.md", "A fleet"),
    ("docs/install.md", "Without a network"),
    ("docs/self_update.md", "Making and rolling out a release"),
    ("fleet/deploy/README.md", "Backup and restore"),
    ("fleet/deploy/README.md", "Who may do what, and who did"),
}
# How a command begins, and what runs it.
ELSEWHERE = {
    "./check": ".ci/run",
    "./demo": "tests/e2e/test_demonstration.py",
    "python3 -m venv": "packaging/check_wheels.py",
    "packaging/venv.sh": "check",
    ".venv/bin/pip install": "packaging/check_wheels.py",
    ".venv/bin/edgekit doctor": "tests/cli/test_doctor_command.py",
    ".venv/bin/edgekit zoo build": "tests/zoo/test_build.py",
    ".venv/bin/edgekit run examples/camera.toml": "tests/examples/test_examples.py",
    ".venv/bin/edgekit cameras": "tests/cli/test_cameras_command.py",
    ".venv/bin/edgekit run ssd-oidv4-2.0.0 --source bikes.mp4 --view": "tests/e2e/test_page_browser.py",
    "edgekit import": "packaging/check_wheels.py",
    "edgekit run yolo11n": "packaging/check_wheels.py",
    ".venv/bin/edgekit optimize": "tests/optimize/run",
    "edgekit bench": "tests/cli/test_bench_command.py",
    "edgekit explain": "tests/cli/test_explain_command.py",
    "edgekit verify": "tests/cli/test_verify_command.py",
    "edgekit serve": "tests/cli/test_serve_command.py",
    ".venv/bin/python packaging/debian/build.py": "packaging/test_install.sh",
    "sudo sh install.sh": "packaging/test_install.sh",
    "pipx install": "packaging/test_install/pythons.sh",
    "uv tool install": "packaging/test_install/pythons.sh",
    "sudo systemctl": "packaging/test_install.sh",
    "sudo apt install ./edgekit-fleet": "packaging/test_install/fleet_manager.sh",
    "edgekit-fleet backup before.tar": "tests/e2e/test_move.py",
    "sudo edgekit agent status": "packaging/test_install.sh",
    "/opt/edgekit-fleet/bin/": "packaging/test_install/images.sh",
    "apt-get install mosquitto": "packaging/system_packages.sh",
    "edgekit-fleet serve": "tests/fleet/broker/test_permissions.py",
    "chown": "tests/fleet/broker/test_permissions.py",
    "mosquitto": "tests/fleet/broker/test_permissions.py",
    "curl": "tests/fleet/broker/test_permissions.py",
    "edgekit-fleet simulate": "tests/fleet/simulator",
}


def section(page: str, heading: str) -> list[str]:
    """Return the command lines below a heading of a page, without their comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return lines(re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0])


def lines(text: str) -> list[str]:
    """Return the command lines of a text, without their comments."""
    return [re.sub(r"\s+# .*$", "", match[1]).rstrip() for match in _LINE.finditer(text)]


class Shell:
    """Runs the commands of a section in their order, in a folder."""

    def __init__(self, folder: Path, page: str, heading: str, **replaced: str) -> None:
        self._left, self._folder = section(page, heading), folder
        self._replaced = replaced
        programs = folder / "programs"
        programs.mkdir(exist_ok=True)
        modules = {"edgekit": "edgekit.cli.main", "edgekit-fleet": "edgekit_fleet.cli.main"}
        texts = {name: _PROGRAM.format(python=sys.executable, module=m) for name, m in modules.items()}
        for name, text in {**texts, "sudo": _SUDO}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "EDGEKIT_CONFIG": str(folder / "agent.toml"),
        }

    def replace(self, word: str, value: str) -> None:
        """Put a value in the place of a word that stands for it."""
        self._replaced[word] = value

    def skip(self, begin: str) -> None:
        """Leave out the next command, which the test has replaced or another runs."""
        assert self._left[0].startswith(begin), self._left
        self._left.pop(0)

    def run(self, begin: str) -> str:
        """Run the next command, and return what it said."""
        assert self._left[0].startswith(begin), self._left
        line = self._left.pop(0)
        for word, value in self._replaced.items():
            line = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", value, line)
        done = subprocess.run(
            line, shell=True, cwd=self._folder, env=self._environment,
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ends(self) -> None:
        """Hold that the section has no further command."""
        assert self._left == []


@pytest.mark.parametrize("page", sorted({page for page, _ in RUN_HERE}))
def test_every_command_of_a_page_is_run_by_a_test(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for heading, body in re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        if (page, heading) not in RUN_HERE:
            unknown = [line for line in lines(body) if not line.startswith(tuple(ELSEWHERE))]
            assert unknown == [], f"{page}, {heading}"
    assert [file for file in ELSEWHERE.values() if not (ROOT / file).exists()] == []


@contextlib.contextmanager
def stage(folder: Path, data: str, keys: str, model: str, pipelines: str = ""):
    """A fleet with these folders, and a device whose pipeline uses a model at version 1.0.0."""
    fleet = FleetStage(folder)
    fleet.data, fleet.keys = folder / data, folder / keys
    make_bundle(folder / "1.0.0", model=model)
    (folder / "motor.toml").write_text(pipeline_toml(model=model, fps=50))
    agent = AgentStage(folder, f'{pipelines}[[pipeline]]\nfile = "motor.toml"\ninitial = "1.0.0"\n')
    fleet.start()
    try:
        yield fleet, agent
    finally:
        if agent.process is not None:
            agent.kill()
        fleet.stop()


def test_a_fleet_from_readme(tmp_path):
    """A device that begins without a model: ``examples/device``, with a small model in place of the zoo's."""
    shutil.copytree(ROOT / "examples" / "device", tmp_path / "examples" / "device")
    film(tmp_path / "bikes.mp4", [[(0.25, 0.5)] * 40])
    blob_bundle(tmp_path / "ssd-oidv4-2.0.0", model="ssd-oidv4", version="2.0.0")
    fleet, agent = FleetStage(tmp_path), AgentStage(tmp_path / "examples" / "device", None)
    fleet.data, fleet.keys = tmp_path / "fleet-data", tmp_path / "publisher-keys"
    fleet.keys.mkdir()  # so that the stage makes none
    fleet.start()
    fleet.keys.rmdir()
    try:
        shell = Shell(tmp_path, "README.md", "A fleet", **{"http://127.0.0.1:8080": fleet.url})
        shell.skip(".venv/bin/pip install")
        shell.skip(".venv/bin/pip install")
        shell.skip("edgekit-fleet serve")
        shell.run("edgekit-fleet keys init")
        shell.run("edgekit-fleet publish")
        shell.replace("TOKEN", shell.run("edgekit-fleet token create").split()[0])
        assert "enrolled as door-cam" in shell.run("edgekit agent enroll")
        shell.skip("edgekit agent run")
        agent.start()
        agent.until(lambda s: s["link"]["connected"], "the link")
        assert "waits for a first version" in agent.status()["pipelines"]["street"]["message"]
        wait_for(lambda: fleet.cli("devices")["devices"][0]["online"], "the device")
        shell.run("edgekit-fleet rollout create")
        agent.runs("2.0.0", "street")
        assert "ssd-oidv4 2.0.0 on" in shell.run("edgekit agent status")
        shell.ends()
    finally:
        if agent.process is not None:
            agent.kill()
        fleet.stop()
    first = json.loads((agent.folder / "seen.jsonl").read_text().splitlines()[0])
    assert first["items"][0]["label"] == "person"


def test_a_device_without_a_network_from_its_page(tmp_path):
    with stage(tmp_path, "DIR", "keys", "door") as (fleet, agent):
        make_bundle(tmp_path / "door-2.0.0.ekb", model="door", version="2.0.0", options={"seed": 2})
        fleet.publish(tmp_path / "door-2.0.0.ekb")
        shell = Shell(tmp_path, "docs/install.md", "Without a network", **{"/tmp/box.request": "box.request"})
        shell.skip("sudo sh install.sh")
        shell.run("sudo -u edgekit edgekit agent enroll --request")
        shell.run("edgekit-fleet enroll")
        shell.run("sudo -u edgekit edgekit agent enroll --answer")
        shell.run("edgekit-fleet rollout create")
        shell.run("edgekit-fleet export")
        fleet.stop()  # on one machine there is a link as soon as both run
        agent.start()
        agent.runs("1.0.0")
        shell.run("sudo edgekit agent install")
        agent.runs("2.0.0")
        shell.run("sudo edgekit agent outbox export")
        agent.stop()
        fleet.start()
        shell.run("edgekit-fleet import")
        shell.run("sudo edgekit agent outbox acknowledge")
        shell.ends()


def test_a_release_of_the_agent_from_its_page(tmp_path):
    with stage(tmp_path, "fleet-data", "keys", "door") as (fleet, agent):
        agent.enroll(fleet, "box")
        agent_wheel(tmp_path / "dist", "0.2.0")
        shell = Shell(tmp_path, "docs/self_update.md", "Making and rolling out a release")
        shell.skip("pip wheel")  # packaging/test_install.sh makes one so
        shell.run("edgekit-fleet release")
        shell.run("edgekit-fleet publish")
        shell.run("edgekit-fleet rollout create")
        shell.run("edgekit-fleet release")
        shell.ends()


def test_backup_restore_and_audit_from_the_fleets_page(tmp_path):
    (tmp_path / "FILE").write_text("correct horse battery")
    with stage(tmp_path, "DIR", "PUBLISHER", "door") as (fleet, _):
        shell = Shell(tmp_path, "fleet/deploy/README.md", "Backup and restore")
        shell.run("edgekit-fleet backup")
        fleet.stop()
        shell.run("edgekit-fleet restore")
        shell.skip("edgekit-fleet serve --data NEW")
        fleet.data = tmp_path / "NEW"
        fleet.start()
        shell.run("edgekit-fleet keys resign")
        shell.ends()
        (tmp_path / "fleet-data").symlink_to("NEW")
        shell = Shell(tmp_path, "fleet/deploy/README.md", "Who may do what, and who did")
        said = shell.run("edgekit-fleet audit export")
        shell.replace("HASH", re.search(r"\b[0-9a-f]{64}\b", said)[0])
        shell.run("edgekit-fleet audit check")
        shell.ends()
