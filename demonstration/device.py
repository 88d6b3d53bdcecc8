"""One device of the demonstration: an enrolled agent with its pipelines, in processes of its own."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any

from demonstration.processes import Child, children_of, run
from edgekit.core.errors import EdgekitError

_AGENT = """[agent]
name = "{name}"
state = "state"

[intervals]
metrics_s = 2
reported_s = 5
sensors_s = 5
"""

_PAGE = """[serve]
port = 0
page = true
token_file = {file}
"""


class Device:
    """An agent's folder and process.

    Args:
        name: The device's name in the fleet.
        folder: For its configuration and state.
        logs: Folder for logs.
        cache: Folder for proofs and measured costs, which all devices share: they are one machine.
        has_page: Whether it shows in a browser what its pipelines see.
    """

    def __init__(self, name: str, folder: Path, logs: Path, cache: Path, *, has_page: bool = False) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self._logs = logs
        self._environment = {"EDGEKIT_CACHE": str(cache)}
        self._config = [_AGENT.format(name=name)]
        self._pipelines = 0
        self._token = secrets.token_urlsafe(16)
        if has_page:
            file = self.folder / "token"
            file.write_text(self._token, "ascii")
            self._config.append(_PAGE.format(file=json.dumps(str(file))))
        self.child: Child | None = None

    def add_pipeline(self, model: str, initial: Path, text: str) -> None:
        """Give the device a pipeline whose model the agent keeps up to date, beginning with ``initial``."""
        self._pipelines += 1
        number = self._pipelines
        (self.folder / f"pipeline-{number}.toml").write_text(text, "utf-8")
        self._config.append(
            f'[[pipeline]]\nfile = "pipeline-{number}.toml"\nmodel = "{model}"\ninitial = "{initial}"\n'
        )

    def enrol(self, fleet: str, token: str) -> None:
        """Make the device's own key and have the fleet certify it."""
        words = ("enroll", "--fleet", fleet, "--token", token, "--name", self.name)
        run(self._command(*words), self._logs / f"{self.name}.log", self._environment)

    def configure(self) -> Path:
        """Write the agent's file; return it."""
        file = self.folder / "agent.toml"
        file.write_text("\n".join(self._config), "utf-8")
        return file

    def start(self) -> None:
        """Start the agent."""
        command = self._command("run", "--config", self.configure())
        self.child = Child(self.name, command, self._logs, self._environment)

    def _command(self, *words: object) -> list[str]:
        program = str(Path(sys.executable).with_name("edgekit"))
        return [program, "agent", *map(str, words), "--state", str(self.folder / "state"), "--json"]

    def status(self) -> dict[str, Any]:
        """Ask the agent itself; empty while it does not answer."""
        try:
            return run(self._command("status"), self._logs / "status.log", self._environment)
        except EdgekitError:
            return {}

    def page(self) -> str:
        """Return the link to its page; empty while it does not answer, or where it has none."""
        addresses: list[str] = self.status().get("api", [])
        return f"{addresses[0]}/?token={self._token}" if addresses else ""

    def worker_pids(self) -> list[int]:
        """Return the agent's worker processes."""
        if self.child is None:
            return []
        found = children_of(self.child.process.pid)
        return sorted(pid for pid, line in found.items() if "edgekit.agent.worker" in line)

    def stop(self) -> None:
        """Stop the agent and its workers."""
        if self.child is not None:
            self.child.stop()


def video_pipeline(
    name: str, uri: Path, fps: float, *, model: str = "in-agent-toml", redact: str = "", record: str = ""
) -> str:
    """Return a pipeline that plays a video as a camera would, and lets counts, labels and boxes leave."""
    sink = f'\n[[sink]]\nkind = "video"\npath = "{record}"\n' if record else ""
    hide = f'redact = ["{redact}"]\n' if redact else ""
    return f"""[pipeline]
name = "{name}"
model = {json.dumps(model)}

[source]
kind = "video"
uri = {json.dumps(str(uri))}
realtime = true
loop = true
fps = {fps}

[privacy]
egress = ["counts", "labels", "scores", "boxes"]
{hide}{sink}"""


def serial_pipeline(name: str, path: str) -> str:
    """Return a pipeline that classifies windows of a serial sensor."""
    return f"""[pipeline]
name = "{name}"
model = "in-agent-toml"

[source]
kind = "serial"
uri = "{path}"

[privacy]
egress = ["counts", "labels", "scores"]
"""
