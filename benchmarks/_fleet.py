"""A fleet manager in a process of its own, simulated devices in another, for the benchmarks of the fleet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit_fleet.app.brokers import EMBEDDED, MOSQUITTO, NATS_DEVICES
from edgekit_fleet.cli.simulate import enrol
from edgekit_fleet.registry.remote import FleetClient


class Fleet:
    """``edgekit-fleet serve`` on a folder, with a publisher, and what can be asked of it.

    Args:
        folder: Of the fleet, of its devices and of the publisher.
        environment: More variables of the fleet manager and of its embedded broker.
        broker: ``embedded``, or ``mosquitto``, which must be installed; ``broker_for`` chooses.
    """

    def __init__(
        self, folder: Path, environment: dict[str, str] | None = None, broker: str = EMBEDDED
    ) -> None:
        self.folder, self._broker = folder, broker
        self.data = folder / "fleet"
        self._environment = os.environ | (environment or {})
        self._killed = 0
        self.start()
        if not (folder / "publisher").exists():
            self.command("keys", "init", "--keys", str(folder / "publisher"), "--data", str(self.data))

    def start(self) -> None:
        """Start it, on the ports it had before; also after ``kill``."""
        ports = ("--port", "0", "--broker-port", "0")
        serve = ("serve", "--data", str(self.data), *ports, "--broker", self._broker, "--json")
        with (self.folder / "fleet.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekit_fleet.cli.main", *serve],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit((self.folder / "fleet.log").read_text()[-3000:])
        self.ready: dict[str, Any] = json.loads(line)
        self.token = Path(self.ready["admin_token_file"]).read_text().strip()
        with urllib.request.urlopen(self.ready["login_url"], timeout=60) as answer:
            self._cookie = str(answer.headers["Set-Cookie"]).partition(";")[0]

    def kill(self) -> None:
        """End it as the kernel does when memory is short; its broker ends with it."""
        self._process.kill()
        self._process.wait()

    def kill_broker(self) -> None:
        """End its broker in the same way; the fleet manager starts another."""
        while (pid := self._broker_pid()) == self._killed:  # it has not been started again
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        self._killed = pid

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

    def enrol(self, devices: int) -> None:
        """Enrol those of so many simulated devices that are new."""
        enrol(FleetClient(self.ready["url"], self.token), self.folder / "devices", "sim-", devices)

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
        """Return how many seconds a request of the API or of a page took, and its answer."""
        headers = {"Authorization": f"Bearer {self.token}", "Cookie": self._cookie}
        request = urllib.request.Request(self.ready["url"] + path, headers=headers)
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

    def put(self, path: str, body: Any) -> float:
        """Replace something; return how many seconds it took."""
        request = urllib.request.Request(
            self.ready["url"] + path,
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method="PUT",
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60):
            return time.perf_counter() - began

    def json(self, path: str) -> Any:
        """Return an answer's JSON."""
        return json.loads(self.get(path)[1])

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of fleet manager and broker."""
        return {"fleet": _rss_mb(self._process.pid), "broker": _rss_mb(self._broker_pid())}

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that fleet manager and broker took since they started."""
        return {"fleet": cpu_s(self._process.pid), "broker": cpu_s(self._broker_pid())}

    def stored(self, boot: str) -> dict[str, tuple[int, int]]:
        """Return (rows, watermark) of each device's outbox with this boot."""
        query = (
            "SELECT o.device, o.watermark, (SELECT count(*) FROM metric m WHERE m.outbox = o.id)"
            " + (SELECT count(*) FROM event e WHERE e.outbox = o.id) FROM outbox o WHERE o.boot = ?"
        )
        with contextlib.closing(sqlite3.connect(self.data / "fleet.sqlite")) as sql:
            return {device: (rows, watermark) for device, watermark, rows in sql.execute(query, (boot,))}

    def _broker_pid(self) -> int:
        return int((self.data / "broker" / "broker.pid").read_text())

    def __enter__(self) -> Fleet:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def broker_for(devices: int) -> str:
    """Return the broker that the documentation names for so many devices."""
    return EMBEDDED if devices < NATS_DEVICES else MOSQUITTO


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


def cpu_s(pid: int) -> float:
    """Return the processor time that a process took so far, user and system; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
