# ruff: noqa: INP001 - a user's folder, no package
"""Your own detector, from its export to boxes in a video: what you trained, recognised by its shapes.

    python detect.py            # exports net.onnx, imports it, and prints what it sees in a made scene

The same in two commands: ``edgekit import net.onnx -o shapes.bundle`` and
``edgekit run shapes.bundle --source street.mp4 --sink video``. ``train.py`` trained the weights.
"""

from __future__ import annotations

from pathlib import Path

import cv2
from net import export
from scenes import scene

import edgekit


def main(where: str = ".") -> list[str]:
    """Export, import and run in a folder; write a scene with its boxes, and return their labels."""
    folder = Path(where)
    bundle = folder / "shapes.bundle"
    if not bundle.exists():
        edgekit.import_model(export(folder / "net.onnx"), bundle, flags={"license": "Apache-2.0"})
    pixels, shapes = scene(7, 320, 240)
    with edgekit.load(bundle) as model:
        result = model.predict(pixels)
    print(f"{len(shapes)} shapes drawn")
    for item in result.items:
        print(f"{item.label} {item.score:.2f} at {[round(edge) for edge in item.box or ()]}")
    cv2.imwrite(str(folder / "seen.png"), result.draw(pixels))
    return [item.label for item in result.items]


if __name__ == "__main__":
    main()
