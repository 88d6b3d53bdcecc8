"""Builds the three wheels and imports every module of the device's in clean environments.

With the base install alone, everything that the supervisor needs must import; with NumPy added,
everything must. Fleet, compression kit and every extra are absent in both. Then a board as a user sets it
up: the device's wheel with the extras ``onnxruntime`` and ``vision`` runs and serves a zoo bundle, and
``edgekit optimize`` says what to install.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# An environment of its own sees nothing of a checkout.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
NEEDS_NUMPY = ("edgekit.backends", "edgekit.pipeline", "edgekit.serve")
IMPORT_ALL = """
import importlib, pkgutil, sys
import edgekit
skip = tuple(sys.argv[1].split(",")) if sys.argv[1] else ()
count = 0
for found in pkgutil.walk_packages(edgekit.__path__, "edgekit."):
    name = found.name
    if name.startswith(skip) if skip else False:
        continue
    if ".tenants" in name or "._data" in name or name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as cause:
        if cause.name in sys.argv[2].split(","):
            continue
        raise
    count += 1
from edgekit.hardware.profiles import load_profiles
assert load_profiles(), "no device profile in the wheel"
print(f"{count} modules import")
"""


def main() -> int:
    """Build, install, import; exit code 1 with the reason where something fails."""
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        for project in (ROOT, ROOT / "optimize", ROOT / "fleet", ROOT / "conformance"):
            _run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(project)])
        device = next(wheels.glob("edgekit_runtime-*.whl"))
        for name in ("edgekit_fleet", "edgekit_optimize"):
            next(wheels.glob(f"{name}-*.whl"))
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        _run([python, "-m", "pip", "install", "-q", str(device)])
        without = "numpy,cryptography,tuf,securesystemslib"
        print("base install:", _run([python, "-c", IMPORT_ALL, ",".join(NEEDS_NUMPY), without]).strip())
        _run([python, "-m", "pip", "install", "-q", "numpy"])
        print(
            "with NumPy:",
            _run([python, "-c", IMPORT_ALL, "", "cryptography,tuf,securesystemslib"]).strip(),
        )
        _use_as_a_board(Path(folder), device)
    return 0


# What belongs to a workstation: none of it may come with the device's wheel.
_WORKSTATION_ONLY = ("edgekit_optimize", "edgekit_fleet", "onnx", "nncf", "torch", "fastapi")
_PIPELINE = """
[pipeline]
name = "faces"
model = "{bundle}"
[source]
kind = "synthetic"
[[sink]]
kind = "jsonl"
path = "{folder}/faces.jsonl"
"""


def _use_as_a_board(folder: Path, wheel: Path) -> None:
    """Run and serve a zoo bundle with two extras of the device's wheel, in an environment of its own."""
    _run([sys.executable, "-m", "edgekit.cli.main", "zoo", "build", "blazeface", "-o", str(folder)])
    bundle = next(folder.glob("blazeface-*"))
    environment = folder / "board"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    _run([python, "-m", "pip", "install", "-q", f"{wheel}[onnxruntime,vision]"])
    there = f"import importlib.util as u; print([n for n in {_WORKSTATION_ONLY} if u.find_spec(n)])"
    if (extra := _run([python, "-c", there]).strip()) != "[]":
        sys.exit(f"the device's wheel brought what only a workstation needs: {extra}")
    pipeline = folder / "faces.toml"
    pipeline.write_text(_PIPELINE.format(bundle=bundle, folder=folder), encoding="utf-8")
    edgekit = str(environment / "bin" / "edgekit")
    summary = json.loads(_run([edgekit, "run", str(pipeline), "--frames", "20", "--json"]))
    if (summary["frames"]["processed"], summary["backend"]) != (20, "onnxruntime"):
        sys.exit(f"edgekit run on a board: want 20 frames by onnxruntime, got {summary}")
    _serve(edgekit, bundle, "blazeface")
    _import_and_use(edgekit, folder)
    done = subprocess.run(
        [edgekit, "optimize", "--json"], capture_output=True, text=True, env=CLEAN, check=False
    )
    if done.returncode != 3 or "pip install 'edgekit-optimize[tools]'" not in done.stderr:
        sys.exit(f"edgekit optimize on a board: want exit 3 and what to install, got {done}")
    print("a board with onnxruntime and vision: runs and serves a zoo bundle, optimize says what to install")


_MADE = """
import sys; sys.path.insert(0, {detect!r})
from pathlib import Path
import cv2, net, scenes
folder = Path({folder!r})
net.export(folder / "net.onnx")
writer = cv2.VideoWriter(str(folder / "made.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
for seed in range(200, 210):
    writer.write(scenes.scene(seed, 320, 240)[0])
writer.release()
"""


def _import_and_use(edgekit: str, folder: Path) -> None:
    """Import, run and serve a detector of the YOLO family: two commands from its file to boxes in a video."""
    detect = str(Path(__file__).parents[1] / "examples" / "detect")
    _run([sys.executable, "-c", _MADE.format(detect=detect, folder=str(folder))])
    bundle, seen = folder / "shapes", folder / "seen.jsonl"
    made = json.loads(_run([edgekit, "import", str(folder / "net.onnx"), "-o", str(bundle), "--json"]))
    sinks = ["--sink", f"video:{folder / 'seen.mp4'}", "--sink", f"jsonl:{seen}"]
    source = ["--source", str(folder / "made.mp4")]
    summary = json.loads(_run([edgekit, "run", str(bundle), *source, *sinks, "--json"]))
    labels = {
        item["label"] for line in seen.read_text("utf-8").splitlines() for item in json.loads(line)["items"]
    }
    if (made["family"], made["variants"]) != ("yolov8", ["onnxruntime-fp32"]):
        sys.exit(f"edgekit import on a board: want a YOLO for onnxruntime, got {made}")
    if summary["frames"]["processed"] != 10 or not labels or not (folder / "seen.webm").stat().st_size:
        sys.exit(f"edgekit run of what was imported: want boxes in 10 frames, got {labels} in {summary}")
    _serve(edgekit, bundle, made["model"])
    print("a detector's ONNX file: imported, run on a video and served there")


def _serve(edgekit: str, bundle: Path, name: str) -> None:
    command = [edgekit, "serve", str(bundle), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, env=CLEAN, text=True)
    try:
        assert server.stderr is not None
        log: list[str] = []
        while not log or "serving at " not in log[-1]:
            line = server.stderr.readline()
            if not line:
                sys.exit(f"edgekit serve on a board ended:\n{''.join(log)}")
            log.append(line)
        url = log[-1].rpartition("serving at ")[2].strip()
        model = json.loads(_ask(f"{url}/v2/models/{name}"))["inputs"][0]
        size = math.prod(abs(side) for side in model["shape"])
        tensor = {key: model[key] for key in ("name", "datatype", "shape")} | {"data": [0] * size}
        answer = json.loads(_ask(f"{url}/v2/models/{name}/infer", {"inputs": [tensor]}))
        if not answer["outputs"]:
            sys.exit(f"edgekit serve on a board: an answer without outputs: {answer}")
    finally:
        server.terminate()
        server.wait(30)


def _ask(url: str, document: dict[str, Any] | None = None) -> bytes:
    body = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(url, body, timeout=60) as answer:  # noqa: S310 - our own server
        data: bytes = answer.read()
    return data


def _run(command: list[str]) -> str:
    environment = None if command[0] == sys.executable else CLEAN
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
