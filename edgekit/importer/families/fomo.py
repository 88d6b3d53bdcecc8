"""FOMO: a grid [1, h, w, 1 + classes] over the picture, an eighth or a sixteenth of it, background first.

Source: Edge Impulse's FOMO exports (RGB, 0 to 1, stretched).
"""

from __future__ import annotations

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import image_size

_SUM = 0.2
"""How far the scores of a quantised cell may be from 1."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only output is such a grid."""
    if file.image() is None or len(file.outputs) != 1:
        return None
    output = file.outputs[0]
    shape = file.shape_of(output)
    (height, width), _ = image_size(file)
    if len(shape) != 4 or shape[3] < 2:
        return None
    if (shape[1] * 8, shape[2] * 8) != (height, width) and (shape[1] * 16, shape[2] * 16) != (height, width):
        return None
    sums = [array.sum(axis=-1) for array in file.tried.get(output.name, ())]
    if any(np.abs(total - 1).max(initial=0) > _SUM for total in sums):  # no softmax over each cell
        return None
    names = file.labels if len(file.labels) == shape[3] - 1 else ()
    why = f"output {list(shape)}: a grid of cells, a background and {shape[3] - 1} classes"
    return Conclusion(
        family="fomo",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "fomo", "signature", why),
            *((Finding("labels", names, "metadata", file.labels_from),) if names else ()),
            *convention(
                "Edge Impulse: RGB, 0 to 1, stretched", resize="stretch", color="RGB", mean=0, std=255
            ),
            Finding("background", "first", "assumed", "Edge Impulse's"),
            Finding("score_threshold", 0.5, "assumed", "Edge Impulse's"),
        ),
        outputs={"cells": Output(output.name)},
        asks={} if names else {"labels": f"{shape[3] - 1} classes, and the file has no names"},
    )
