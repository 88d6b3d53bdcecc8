"""What each kind of source adds to a process and to the disk.

    python benchmarks/source_memory.py [--rtsp ADDRESS] [--json]

Each source runs in a process of its own that reads 50 frames of it; its memory is the proportional set size
(PSS) of that process and what it started, less that of a process with edgekit's loop and OpenCV alone. The
packages that it needs beyond those (``base_disk_mb``: NumPy and OpenCV) are weighed on the disk. The value is
the most that a source adds in memory, in MB. ``rtsp`` is measured with ``--rtsp``, the address of a camera;
``camera`` (V4L2) needs a real one and is not measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _report import finish, parser

BAR_MB = 40.0
PACKAGES = {"rtsp": ("av",)}
CHILD = """
import json, pathlib, sys, time
import cv2, numpy, msgspec
cv2.setNumThreads(1)
import edgekit.pipeline.loop
from edgekit.pipeline.sources import SOURCE_ROWS, SourceContext, make_source
kind, text, planted = sys.argv[1], sys.argv[2], bytearray(int(sys.argv[3]))
planted[::4096] = b"x" * len(planted[::4096])
if kind != "none":
    options = msgspec.convert(json.loads(text), SOURCE_ROWS.load(kind).Options)
    source = make_source(kind, options, SourceContext())
    source.open()
    for _ in range(50):
        assert source.read() is not None
def pss_kb(pid):
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(pss_kb(child) for task in tasks for child in task.read_text().split())
print(pss_kb("self"), flush=True)
if kind != "none":
    source.close()
"""


def main() -> int:
    """Measure, print, return the exit code."""
    options = parser(__doc__, full="nothing more", sabotage="each source holds 100 MB more")
    options.add_argument("--rtsp", metavar="ADDRESS", help="measure this network camera too")
    arguments = options.parse_args()
    planted = 100_000_000 if arguments.sabotage else 0
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name:
        kinds = kinds_in(Path(name), arguments.rtsp)
        if arguments.sabotage:
            kinds = {"synthetic": kinds["synthetic"]}
        base_mb = pss_mb("none", {}, 0)
        rows = {
            kind: {
                "pss_mb": round(pss_mb(kind, table, planted) - base_mb, 1),
                "disk_mb": round(sum(map(disk_mb, PACKAGES.get(kind, ()))), 1),
            }
            for kind, table in kinds.items()
        }
    value = max(row["pss_mb"] for row in rows.values())
    base_disk_mb = round(sum(map(disk_mb, ("numpy", "cv2", "opencv_python_headless"))), 1)
    detail = {
        "base_pss_mb": round(base_mb, 1),
        "base_disk_mb": base_disk_mb,
        "frames": "640 x 480",
        "sources": rows,
    }
    claim = "memory that a source adds, the most of all kinds"
    return finish(claim, value, "MB", BAR_MB, value <= BAR_MB, detail, arguments.json)


def kinds_in(folder: Path, rtsp: str | None) -> dict[str, dict[str, Any]]:
    """Return the table of each source that runs here; its files are made in a folder."""
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    writer = cv2.VideoWriter(str(folder / "made.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (640, 480))
    for at in range(60):
        writer.write(np.roll(pixels, at, 0))
    writer.release()
    cv2.imwrite(str(folder / "made.png"), pixels)
    frames = "import os\nwhile True: os.write(1, bytes(640 * 480 * 3))"
    kinds: dict[str, dict[str, Any]] = {
        "synthetic": {},
        "video": {"uri": str(folder / "made.mp4")},
        "images": {"uri": str(folder / "made.png"), "loop": True},
        "command": {"width": 640, "height": 480, "command": [sys.executable, "-c", frames]},
    }
    if rtsp:
        kinds["rtsp"] = {"uri": rtsp}
    return kinds


def pss_mb(kind: str, table: dict[str, Any], planted: int) -> float:
    """Return the PSS of a process that runs a source, and of its children."""
    command = [sys.executable, "-c", CHILD, kind, json.dumps(table), str(planted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return int(done.stdout.split()[-1]) / 1024


def disk_mb(package: str) -> float:
    """Return the size of a package's folder and of the libraries beside it."""
    site = Path(np.__file__).parents[1]
    folders = [site / package, site / f"{package}.libs"]
    return sum(path.stat().st_size for place in folders for path in place.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
