"""A fleet and agents as real processes, for tests that look from outside."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.agent.status import ask
from edgekit.core.errors import LinkError

ROOT = Path(__file__).parents[2]
WAIT_S = 240.0
RECONNECT_S = 400.0
"""After some refusals a device waits for up to five minutes before it tries again."""


def wait_for(look: Callable[[], Any], what: str, limit_s: float = WAIT_S) -> Any:
    """Return what ``look`` finds once it finds something."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {limit_s:.0f} s")


def command(module: str, *arguments: object) -> dict[str, Any]:
    """Run a command with --json and return its document."""
    code, out, err = called(module, *arguments, "--json")
    assert code == 0, f"{module} {arguments}: {code}\n{out}\n{err}"
    document: dict[str, Any] = json.loads(out)
    return document


def called(module: str, *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process, which has its modules; return its exit code, output and log."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = importlib.import_module(module).main([*map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def end(process: subprocess.Popen[Any], limit_s: float = WAIT_S) -> int:
    """End a process in order; its exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"process {process.pid} did not end within {limit_s} s") from None


class FleetStage:
    """A fleet manager with its broker, a publisher's keys, and tokens."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.data, self.keys = folder / "fleet", folder / "keys"
        self._flags = flags
        self._log = folder / "fleet.log"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "edgekit_fleet.cli.main", "serve", "--data", str(self.data)),
                    *("--port", "0", "--broker-port", "0", "--json", *self._flags),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the fleet did not start:\n{self._log.read_text()[-4000:]}"
        self.ready = json.loads(line)
        self.url = self.ready["url"]
        if not self.keys.exists():  # devices are given the publisher's root when they enrol
            self.cli("keys", "init", "--keys", self.keys)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.stdout.close()
            end(self.process)
            self.process = None

    def cli(self, *arguments: object) -> dict[str, Any]:
        """Run an edgekit-fleet command against it."""
        return command("edgekit_fleet.cli.main", *arguments, "--data", self.data)

    def publish(self, bundle: Path) -> None:
        """Sign a bundle and hand it over."""
        self.cli("publish", bundle, "--keys", self.keys)

    def is_free(self) -> bool:
        """Return whether no rollout runs: the next one of a model may begin."""
        return all(row["state"] != "running" for row in self.cli("rollout", "list")["items"])

    def token(self) -> str:
        """Return a token that enrols one device."""
        document = self.cli("token", "create", "--enroll")
        return str(document["token"])


def messages(fleet: FleetStage, device: str, boot: str) -> list[int]:
    """Return the sequence numbers that the fleet has stored, sorted."""
    database = sqlite3.connect(f"file:{fleet.data}/fleet.sqlite?mode=ro", uri=True)
    with contextlib.closing(database):
        which = "SELECT seq FROM {} JOIN outbox ON outbox.id = {}.outbox WHERE outbox.device = ? AND boot = ?"
        rows = [
            row
            for table in ("metric", "event")
            for row in database.execute(which.format(table, table), (device, boot))
        ]
        gaps = database.execute("SELECT count(*) FROM event WHERE kind = 'gap'").fetchone()[0]
    assert gaps == 0
    return sorted(seq for (seq,) in rows)


class AgentStage:
    """One agent: its folder, its process, and the questions that tests ask it."""

    def __init__(self, folder: Path, pipelines: str | None, more: str = "") -> None:
        """Write its configuration; with ``pipelines`` None the folder has one."""
        self.folder, self.state = folder, folder / "state"
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "agent.toml"
        if pipelines is not None:
            self.config.write_text(
                f'[agent]\nstate = "state"\n{pipelines}\n[intervals]\nmetrics_s = 1\nsensors_s = 1\n{more}'
            )
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[Any] | None = None

    def enroll(self, fleet: FleetStage, name: str) -> str:
        """Enrol it; the device's id."""
        document = command(
            "edgekit.cli.main", "agent", "enroll", "--fleet", fleet.url, "--token", fleet.token(),
            "--name", name, "--state", self.state,
        )  # fmt: skip
        return str(document["device"])

    def start(self, **environment: str) -> None:
        """Start the supervisor."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgekit.cli.main", "agent", "run", "--config", str(self.config)],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def stop(self) -> int:
        """End it in order; its exit code."""
        assert self.process is not None
        process, self.process = self.process, None
        return end(process)

    def kill(self) -> None:
        """End the supervisor as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def status(self) -> dict[str, Any]:
        """Return its status; empty while it does not answer."""
        try:
            document: dict[str, Any] = ask(self.state, {"op": "status"}, timeout_s=30)
        except LinkError:
            return {}
        return document

    def until(
        self, claim: Callable[[dict[str, Any]], Any], what: str, limit_s: float = WAIT_S
    ) -> dict[str, Any]:
        """Wait until its status bears out a claim."""
        last: dict[str, Any] = {}

        def look() -> dict[str, Any]:
            last.update(status := self.status())
            return status if status and claim(status) else {}

        try:
            found: dict[str, Any] = wait_for(look, what, limit_s)
        except AssertionError as cause:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{cause}\n{json.dumps(last)[:3000]}\n{tail}") from None
        return found

    def runs(self, version: str, pipeline: str = "motor") -> dict[str, Any]:
        """Wait until a pipeline makes frames with a version."""
        return self.until(
            lambda s: (
                s["pipelines"][pipeline]["state"] == "running"
                and s["pipelines"][pipeline]["version"] == version
                and s["pipelines"][pipeline]["fps"] > 0
            ),
            f"{pipeline} runs {version}",
        )
