"""Boxes that the user drew on pictures: they decide what no score can, how a picture is brought to size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.errors import UsageError
from edgekit.core.spec import Box
from edgekit.pipeline.decoders.nms import overlap

_FIELDS = 5


@dataclass(frozen=True)
class Labelled:
    """One labelled box: the index of its class, and its edges in pixels of its picture."""

    index: int
    box: Box


Truth = Sequence[Labelled] | None
"""The boxes of one picture; None if it has no file of labels."""


def read_truth(picture: Path, height: int, width: int) -> Truth:
    """Return the boxes labelled on a picture: of ``NAME.txt`` beside it, or below ``labels`` for ``images``.

    Each line has a class's index and the box's centre, width and height as shares of the picture's.
    Lines with more fields are polygons of points; the box around them counts.

    Source: Ultralytics' dataset format (images/train/a.jpg has labels/train/a.txt).

    Raises:
        UsageError: A line is none; it is named.
    """
    file = next((path for path in _places(picture) if path.is_file()), None)
    if file is None:
        return None
    lines = file.read_text("utf-8", "replace").splitlines()
    rows = [_row(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    scale = (width, height, width, height)
    return [
        Labelled(index, tuple(edge * side for edge, side in zip(edges, scale, strict=True)))  # type: ignore[arg-type]
        for index, edges in rows
    ]


def _places(picture: Path) -> list[Path]:
    beside = picture.with_suffix(".txt")
    parts = list(picture.absolute().parts)
    if "images" not in parts:
        return [beside]
    at = len(parts) - 1 - parts[::-1].index("images")
    return [beside, Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")]


def _row(line: str, where: str) -> tuple[int, tuple[float, ...]]:
    try:
        index, *values = (float(word) for word in line.split())
        usable = index == int(index) and index >= 0 and all(map(math.isfinite, values))
    except (ValueError, OverflowError):
        usable, values = False, []
    is_polygon = len(values) > _FIELDS and len(values) % 2 == 0
    if not usable or not (is_polygon or len(values) == _FIELDS - 1):
        raise UsageError(
            f"{where}: is no labelled box: {line[:60]!r}",
            hint="a line is: class centre-x centre-y width height, the last four as shares of the picture",
        )
    if is_polygon:
        xs, ys = values[::2], values[1::2]
        return int(index), (min(xs), min(ys), max(xs), max(ys))
    x, y, wide, high = values
    return int(index), (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)


def agreement(items: Sequence[dict[str, Any]], truth: Sequence[Labelled]) -> float:
    """Return how well items meet the labelled boxes, 0 to 1.

    The mean, over the boxes, of the largest overlap (intersection over union) times score of an item of
    their class.
    """
    best = []
    for wanted in truth:
        seen = [item for item in items if item.get("box") and item.get("index") == wanted.index]
        boxes = np.array([item["box"] for item in seen], np.float32).reshape(-1, 4).T
        shares = overlap(np.array(wanted.box, np.float32)[:, None], boxes)
        scores = [float(item.get("score") or 0) for item in seen]
        best.append(float(np.max(shares * scores, initial=0.0)))
    return sum(best) / len(best)
