# ruff: noqa: INP001 - a script beside the documents
"""Takes the picture of the page in README.md, from a real run in a real browser.

    python docs/generate_view.py        # needs Debian's chromium and chromium-driver

The scene is made here, and so is the detector (``examples/detect``): shapes that move over a wall of colours,
followed and counted at a line, with every triangle hidden.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "kit"), str(ROOT / "examples" / "detect")]

import net  # noqa: E402 - lies in a folder of its own
from browser import Browser  # noqa: E402 - as above

import edgekit  # noqa: E402 - as above

WIDTH, HEIGHT, FPS, SECONDS = 640, 400, 15, 20
SHAPES = (
    (0, 110, 90, 62, (60, 90, 220)),
    (1, 95, 300, -48, (200, 160, 40)),
    (2, 120, 200, 36, (70, 190, 90)),
)
"""Kind, size, height of the path, pixels a second, colour (BGR)."""
PIPELINE = """
[pipeline]
name = "line"
model = "shapes.bundle"
[source]
kind = "video"
uri = "scene.mp4"
realtime = true
loop = true
[privacy]
redact = ["triangle"]
[track]
[[line]]
name = "middle"
points = [[0.5, 0.0], [0.5, 1.0]]
"""


def main() -> int:
    """Run, look, and write the picture."""
    with tempfile.TemporaryDirectory(prefix="edgekit-view-") as name:
        folder = Path(name)
        write_scene(folder / "scene.mp4")
        export = net.export(folder / "net.onnx")
        flags = {"license": "Apache-2.0", "score_threshold": 0.45}
        edgekit.import_model(export, folder / "shapes.bundle", name="shapes", flags=flags)
        (folder / "line.toml").write_text(PIPELINE)
        command = [sys.executable, "-m", "edgekit.cli.main", "run", str(folder / "line.toml")]
        with subprocess.Popen(
            [*command, "--view", "--view-port", "0"], stderr=subprocess.PIPE, text=True
        ) as running:
            try:
                look(link_of(running), folder / "profile", ROOT / "docs" / "view.png")
            finally:
                running.terminate()
    print(f"docs/view.png: {(ROOT / 'docs' / 'view.png').stat().st_size} bytes")
    return 0


def write_scene(path: Path) -> None:
    """Write a video of shapes that move to and fro over soft colours."""
    rng = np.random.default_rng(4)
    coarse = rng.integers(90, 170, (3, 5, 3)).astype(np.uint8)
    wall = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for number in range(FPS * SECONDS):
        frame = wall.copy()
        for kind, size, y, speed, color in SHAPES:
            room = WIDTH - size - 20
            at = (number / FPS * speed * 2 + kind * 170) % (2 * room)
            x = 10 + round(at if at < room else 2 * room - at)
            draw(frame, kind, (x, y - size // 2, x + size, y + size // 2), color)
        writer.write(frame)
    writer.release()


def draw(frame: np.ndarray, kind: int, box: tuple[int, int, int, int], color: tuple[int, ...]) -> None:
    """Draw a circle (0), a square (1) or a triangle (2)."""
    left, top, right, bottom = box
    if kind == 0:
        cv2.circle(frame, ((left + right) // 2, (top + bottom) // 2), (right - left) // 2, color, -1)
    elif kind == 1:
        cv2.rectangle(frame, (left, top), (right, bottom), color, -1)
    else:
        corners = np.array([[(left + right) // 2, top], [left, bottom], [right, bottom]])
        cv2.fillPoly(frame, [corners], color)


def link_of(running: subprocess.Popen[str]) -> str:
    """Return the page's link, which the command prints.

    Raises:
        SystemExit: It ended without one.
    """
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if match := re.search(r"https?://\S+", line):
            return match[0]
    raise SystemExit("".join(said))


def look(link: str, profile: Path, picture: Path) -> None:
    """Open the page, wait for its picture and the first events, and take a picture of it."""
    browser = Browser(profile, width=1100, height=760)
    try:
        browser.open(link)
        browser.until("body", "crossed")
        browser.picture(picture)
    finally:
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
