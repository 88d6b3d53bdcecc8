"""The protocol's conformance kit against edgekit, and against other Python servers of the protocol.

``conformance/`` (``pytest --oip-url``) asks each server the same: what the Open Inference Protocol v2
says, the extensions that the server lists, and requests that are wrong. Every server runs the tiny model of
``serving_vs_peers.py``, in the environment that it has there. The figure is edgekit's cases that fail; the
peers' failures are listed by name. A peer that does not install or start is named with its reason. Cases of
what a peer does not list, and does not claim, are skipped.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _report import finish, parser
from _servers import PEERS, free_port, running, subject
from batching import bundle
from serving_vs_peers import tiny

PROTOCOL = ("edgekit", "mlserver", "kserve", "pytriton")
"""The servers that speak it; mosec, litserve, bentoml and ray have interfaces of their own."""
KIT = Path(__file__).parents[1] / "conformance"


def check(port, model):
    """Return what the kit found: its counts, and the cases that failed."""
    words = ["-m", "pytest", "-p", "edgekit_conformance.plugin", "-p", "no:cacheprovider", "-q", "-rf"]
    environment = {**os.environ, "PYTHONPATH": str(KIT), "PYTEST_ADDOPTS": ""}
    url = ["--oip-url", f"http://127.0.0.1:{port}", "--oip-model", model]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *words, *url], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    counts = {
        kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)
    }
    if not counts:
        raise RuntimeError(f"the kit did not run: {last}")
    failed = collections.Counter(re.findall(r"^FAILED \S*::(test_\w+)", done.stdout, re.MULTILINE))
    return {**counts, "cases": dict(failed)}


def measure(name, model, array):
    """Return one server's row; ``reason`` where it does not run."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        try:
            chosen = subject(name, model, array, port, folder)
            with running(chosen, port):
                asked = model.stem if name in ("edgekit", "bare_asgi") else "m"
                return {"version": " ".join(PEERS.get(name, ())), **check(port, asked)}
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            return {"version": " ".join(PEERS.get(name, ())), "reason": str(error)[:300]}


def main():
    """Run the kit against each server."""
    arguments = parser(
        __doc__, full="the same: it takes what it takes", sabotage="a server that knows no protocol is asked"
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.onnx"
        model.write_bytes(tiny())
        bundle(Path(folder), "tiny", model.read_bytes(), ([1, 16], [1, 4]), None)
        array = np.random.default_rng(0).random((1, 16), np.float32)
        names = ("bare_asgi",) if arguments.sabotage else PROTOCOL
        rows = {name: measure(name, model, array) for name in names}
    own = rows[names[0]]
    if "reason" in own:
        raise SystemExit(own["reason"])
    wrong = sum(own.get(kind, 0) for kind in ("failed", "error", "errors"))
    claim = "edgekit passes every case of the protocol's conformance kit"
    return finish(claim, wrong, "failed cases", 0, wrong == 0, rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
