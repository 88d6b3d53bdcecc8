# ruff: noqa: INP001 - a user's folder, no package
"""Cut out what a segmentation model sees: everything else becomes grey.

edgekit import selfie_segmentation.tflite -o selfie.bundle --decoder matte --labels person std=255
python cut_out.py selfie.bundle me.jpg cut.png
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np

import edgekit
from edgekit.pipeline.masks import cells_of

GREY = 127


def main(bundle: str, picture: str, out: str) -> float:
    """Write the picture with everything grey but the items' masks; return the share that stays."""
    pixels: Any = cv2.imread(picture)
    covered = np.zeros(pixels.shape[:2], bool)
    with edgekit.load(bundle) as model:
        for item in model.predict(pixels).items:
            if item.mask is None:
                continue
            left, top, right, bottom = (round(edge) for edge in item.mask.area)
            part = covered[top:bottom, left:right]
            cells = cells_of(item.mask).astype(np.uint8)
            part |= cv2.resize(cells, part.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    pixels[~covered] = GREY
    cv2.imwrite(out, pixels)
    print(f"{out}: {covered.mean():.0%} of the picture stays")
    return float(covered.mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
