"""A fleet manager in a process of its own, simulated devices in another, for the benchmarks of the fleet."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 60.0


class Fleet:
    """``edgekit-fleet serve`` on a folder, with a publisher, and what can be asked of it."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "fleet"
        self._environment = os.environ | (environment or {})
        self._log = (folder / "fleet.log").open("wb")
        command = ["serve", "--data", str(self.data), "--port", "0", "--broker-port", "0", "--json"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit_fleet.cli.main", *command],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit((folder / "fleet.log").read_text())
        self.ready: dict[str, Any] = json.loads(line)
        self.token = Path(self.ready["admin_token_file"]).read_text().strip()
        if not (folder / "publisher").exists():
            self.command("keys", "init", "--keys", str(folder / "publisher"), "--data", str(self.data))

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run a command of ``edgekit-fleet`` and return its document, whatever its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "edgekit_fleet.cli.main", *arguments, "--json"],
            stdout=subprocess.PIPE,
            check=False,
        )
        document: dict[str, Any] = json.loads(done.stdout or b"{}")
        if done.returncode not in (0, 8):
            raise SystemExit(f"{arguments}: exit code {done.returncode}: {document}")
        return document

    def simulate(self, devices: int, *options: str) -> subprocess.Popen[bytes]:
        """Start simulated devices; ``outcome_of`` waits for what happened to them."""
        command = ["simulate", "--devices", str(devices), "--data", str(self.data), "--json"]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "edgekit_fleet.cli.main"),
                *(*command, "--keep", str(self.folder / "devices"), *options),
            ],
            stdout=subprocess.PIPE,
        )

    def get(self, path: str) -> tuple[float, bytes]:
        """Return how many seconds a request took, and its answer."""
        request = urllib.request.Request(
            self.ready["url"] + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:
            body: bytes = answer.read()
        return time.perf_counter() - began, body

    def post(self, path: str) -> None:
        """Send a request without a body."""
        request = urllib.request.Request(
            self.ready["url"] + path, data=b"", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=60):
            pass

    def json(self, path: str) -> Any:
        """Return an answer's JSON."""
        return json.loads(self.get(path)[1])

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of fleet manager and broker."""
        broker = int((self.data / "broker" / "nats.pid").read_text())
        return {"fleet": _rss_mb(self._process.pid), "broker": _rss_mb(broker)}

    def stored(self, boot: str) -> dict[str, tuple[int, int]]:
        """Return (rows, watermark) of each device's outbox with this boot."""
        query = (
            "SELECT o.device, o.watermark, (SELECT count(*) FROM metric m WHERE m.outbox = o.id)"
            " + (SELECT count(*) FROM event e WHERE e.outbox = o.id) FROM outbox o WHERE o.boot = ?"
        )
        with contextlib.closing(sqlite3.connect(self.data / "fleet.sqlite")) as sql:
            return {device: (rows, watermark) for device, watermark, rows in sql.execute(query, (boot,))}

    def __enter__(self) -> Fleet:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


def outcome_of(simulation: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for simulated devices, and return what happened to them."""
    output, _ = simulation.communicate()
    if simulation.returncode not in (0, 8):
        raise SystemExit(f"the simulator ended with {simulation.returncode}")
    document: dict[str, Any] = json.loads(output)
    return document


def watch(simulation: subprocess.Popen[bytes], every_s: float) -> Iterator[None]:
    """Yield each so many seconds until the simulation has ended."""
    while simulation.poll() is None:
        began = time.monotonic()
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            simulation.wait(max(every_s - (time.monotonic() - began), 0.01))


def p99_ms(seconds: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    ordered = sorted(seconds) or [0.0]
    return round(ordered[int(0.99 * (len(ordered) - 1))] * 1000, 1)


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
