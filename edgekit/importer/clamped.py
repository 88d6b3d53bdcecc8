"""Notices boxes that a quantised output cannot hold: labels and scores are right then, and boxes wrong.

A published int8 YOLOX has one scale of 1/256 for its whole output, whose offsets and sizes are cut at it.
"""

from __future__ import annotations

import numpy as np

from edgekit.core.errors import BundleError
from edgekit.importer.findings import Conclusion
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import image_size

_LEAST_NUMBERS = 2000
_MOST = 0.05
"""The share of a box's numbers that may be exactly the largest one, or exactly the smallest."""


def check_boxes(conclusion: Conclusion, file: ModelFile) -> None:
    """Refuse a dense detector whose boxes are cut at one value that is no edge of the picture.

    Raises:
        BundleError: So many are that its answers cannot be right.
    """
    name = next((n for n in ("boxes", "predictions") if n in conclusion.outputs), "")
    if conclusion.value("decoder") != "yolo" or not name:
        return
    answers = file.tried.get(conclusion.outputs[name].tensor, ())
    axis = 1 if conclusion.value("layout") == "columns" else 2
    parts = [array.take(range(4), axis).reshape(-1) for array in answers if array.size]
    values = np.concatenate(parts) if parts else np.empty(0)
    if len(values) < _LEAST_NUMBERS:
        return
    edges = {0.0, 1.0, *map(float, image_size(file)[0])}
    for limit in (float(values.max()), float(values.min())):
        share = float((values == limit).mean())
        if share > _MOST and limit not in edges:
            raise BundleError(
                f"{file.path}: {share:.0%} of its boxes' numbers are {limit:.4g}, where its scale cuts them",
                hint="take the float file, or quantise again with a scale of their own for boxes "
                "(--decoder raw makes a bundle of plain tensors)",
            )
