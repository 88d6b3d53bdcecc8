"""What it costs one model that the process of another stands still: nothing.

An agent has two models in two processes, each with a pipeline, and answers requests for both at one address.
Requests for model B are timed while nothing happens, and again while A's process is stopped (SIGSTOP) for ten
seconds, is asked for too, and is continued. The claim: B's 99th percentile through the same address stays
within 1.2 times (median of the pairs); its pipeline is not restarted; A is answered with 200 or with 503 and
the reason, and is back within the time stated.

    python benchmarks/held_worker.py [--json]
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from _report import finish, parser
from footprint import build_bundle
from shared_model import Agent, all_run, pid_of, text_of

from edgekit.model.bundle import open_bundle

BAR, PAIRS, FULL_PAIRS = 1.2, 3, 10
STOPPED_S = 10.0
BACK_S = 30.0
"""The stated time until a model answers again whose process stood still and was killed for it."""
REQUEST_S = 0.005
"""Between two requests for B: it is not the load that is measured."""


class Client:
    """Requests over the agent's UNIX socket, each timed."""

    def __init__(self, path: Path, model: str, body: bytes, *, keeps: bool) -> None:
        self._path, self._url, self._body = str(path), f"/v2/models/{model}/infer", body
        self._keeps = keeps
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> tuple[int, float]:
        """Return the status (0: no answer within a second) and the milliseconds it took."""
        began = time.perf_counter()
        try:
            connection = self._open()
            connection.request("POST", self._url, self._body, {"Inference-Header-Content-Length": "0"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            status = 0
        if status != 200 or not self._keeps:
            self.close()
        return status, (time.perf_counter() - began) * 1e3

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("agent", timeout=1.0)
            self._connection.sock = socket.socket(socket.AF_UNIX)
            self._connection.sock.settimeout(1.0)
            self._connection.sock.connect(self._path)
        return self._connection


def p99_of(client: Client, seconds: float) -> float:
    """Ask for so long; return the 99th percentile in milliseconds.

    Raises:
        SystemExit: A request was not answered with 200.
    """
    times, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        status, took_ms = client.ask()
        if status != 200:
            raise SystemExit(f"B answered {status} while A stood still")
        times.append(took_ms)
        time.sleep(REQUEST_S)
    return statistics.quantiles(times, n=100)[98]


class Asking:
    """A thread that asks for A again and again, and counts the answers by status."""

    def __init__(self, client: Client) -> None:
        self.seen: Counter[int] = Counter()
        self._client, self._ends = client, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Asking:  # noqa: PYI034 - Python 3.10 has no Self
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(0.05):
            self.seen[self._client.ask()[0]] += 1


def one_pair(agent: Agent, a: Client, b: Client, held: int | None) -> dict[str, Any]:
    """Time B alone, then beside a stopped process; return both and what A answered."""
    with Asking(a):
        calm_ms = p99_of(b, STOPPED_S)
    pid = held if held is not None else pid_of(agent.until(all_run), "victim")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with Asking(a) as asking:
            stopped_ms = p99_of(b, STOPPED_S)
    finally:
        with_lost = _continue(pid)
    began = time.monotonic()
    while a.ask()[0] != 200:
        if time.monotonic() - began > BACK_S:
            raise SystemExit(f"A did not answer within {BACK_S:.0f} s")
        time.sleep(0.05)
    return {
        "calm_p99_ms": round(calm_ms, 3),
        "stopped_p99_ms": round(stopped_ms, 3),
        "ratio": round(stopped_ms / calm_ms, 3),
        "a_answered": dict(asking.seen),
        "a_was_killed": with_lost,
        "a_back_s": round(time.monotonic() - began, 2),
    }


def _continue(pid: int) -> bool:
    """Let a process run on; return whether somebody has killed it meanwhile."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return True
    return False


def texts(args: Any, bundles: dict[str, Path]) -> dict[str, str]:
    """Return the two pipelines, each in a process of its own."""
    return {name: text_of(name, args, path, 5.0, name) for name, path in bundles.items()}


def run(args: Any, work: Path, pairs: int) -> tuple[list[dict[str, Any]], int]:
    """Return the pairs, and how often B's pipeline was restarted."""
    bundle = (args.bundle or build_bundle(work)).resolve()
    named = {name: renamed(bundle, work / name, name) for name in ("victim", "other")}
    manifest = open_bundle(named["other"]).manifest
    shape, datatype = manifest.inputs[0].shape, manifest.inputs[0].datatype
    body = np.zeros(shape, np.uint8 if datatype == "UINT8" else np.float32).tobytes()
    address = work / "api.sock"
    with Agent(work / "agent", texts(args, named), f'[serve]\nuds = "{address}"\n') as agent:
        status = agent.until(all_run)
        a = Client(address, "victim", body, keeps=False)
        b = Client(address, "other", body, keeps=True)
        held = pid_of(status, "other") if args.sabotage else None
        if held is not None:
            return [_sabotaged(b, held)], 0
        rows = [one_pair(agent, a, b, held) for _ in range(pairs)]
        b.close()
        return rows, agent.until(all_run)["pipelines"]["other"]["restarts"]


def _sabotaged(b: Client, pid: int) -> dict[str, Any]:
    """Time B while its own process is stopped for 50 ms at a time."""
    calm_ms = p99_of(b, 3.0)
    ends = threading.Event()

    def stop_and_go() -> None:
        while not ends.wait(0.5):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        stopped_ms = p99_of(b, 5.0)
    finally:
        ends.set()
        thread.join()
    return {"calm_p99_ms": calm_ms, "stopped_p99_ms": stopped_ms, "ratio": round(stopped_ms / calm_ms, 3)}


def renamed(bundle: Path, target: Path, name: str) -> Path:
    """Return a copy of a bundle under another model name."""
    shutil.copytree(bundle, target)
    manifest = json.loads((target / "bundle.json").read_text())
    (target / "bundle.json").write_text(json.dumps(manifest | {"model": name}))
    return target


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parser(__doc__, full="ten pairs instead of three", sabotage="B's process stands still at times")
    options.add_argument("--bundle", type=Path, help="built from the zoo (efficientnet-lite0) if not given")
    options.add_argument("--variant", default="litert-int8")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-held-") as folder:
        rows, restarts = run(args, Path(folder), FULL_PAIRS if args.full else PAIRS)
    median = statistics.median(row["ratio"] for row in rows)
    answers = Counter(status for row in rows for status in row.get("a_answered", {}))
    holds = median <= BAR and restarts == 0 and set(answers) <= {0, 200, 503}
    claim = "a model's 99th percentile is as before while another model's process stands still"
    detail = {"pairs": rows, "b_restarts": restarts}
    return finish(claim, median, "times", BAR, holds, detail, args.json)


if __name__ == "__main__":
    sys.exit(main())
