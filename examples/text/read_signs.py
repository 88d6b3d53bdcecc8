# ruff: noqa: INP001 - a user's folder, no package
"""Read the text in a picture: one model finds lines, another one reads each.

edgekit import det.onnx -o lines.bundle --decoder textmap mean=[123.7,116.3,103.5] std=[58.4,57.1,57.4]
edgekit import rec.onnx -o reader.bundle --decoder ctc --labels characters.txt mean=127.5 std=127.5
python read_signs.py lines.bundle reader.bundle street.jpg
"""

from __future__ import annotations

import math
import sys
from typing import Any

import cv2

import edgekit


def main(lines: str, reader: str, picture: str) -> list[str]:
    """Print each line of text with its place, from top to bottom; return the texts."""
    pixels: Any = cv2.imread(picture)
    texts = []
    with edgekit.load(lines) as finder, edgekit.load(reader) as reads:
        for item in finder.predict(pixels).items:  # from top to bottom
            best = reads.predict(upright(pixels, item.oriented_box)).best
            if best is not None and best.text:
                print(f"{best.text!r} at {[round(number) for number in item.oriented_box[:2]]}")
                texts.append(best.text)
    return texts


def upright(pixels: Any, box: Any) -> Any:
    """Return the picture's part below an oriented box, turned upright."""
    x, y, width, height, angle = box
    turn = cv2.getRotationMatrix2D((x, y), math.degrees(angle), 1.0)
    turn[:, 2] += width / 2 - x, height / 2 - y
    return cv2.warpAffine(pixels, turn, (max(1, round(width)), max(1, round(height))))


if __name__ == "__main__":
    main(*sys.argv[1:])
