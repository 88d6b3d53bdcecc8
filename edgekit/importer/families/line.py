"""A line of text, read by a network trained with CTC (PP-OCR, CRNN, LPRNet): ``--decoder ctc``."""

from __future__ import annotations

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.ultralytics import pixels
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

ORDERS = ("time before classes", "classes before time")


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with scores of characters along a line, if the user asked for it."""
    if not file.asks_for("ctc", "line") or file.image() is None:
        return None
    output = next((tensor for tensor in file.outputs if len(file.shape_of(tensor)) == 3), None)
    if output is None:
        return None
    shape, labels = file.shape_of(output), file.flags.get("labels", file.labels)
    fitting = [axis for axis in (2, 1) if shape[axis] == len(labels) + 1]
    axis = fitting[0] if fitting else 2 if shape[2] >= shape[1] else 1
    asks = {} if labels else {"labels": f"the {shape[axis] - 1} characters in their order, without the blank"}
    return Conclusion(
        family="ctc",
        findings=(
            Finding("task", "text", "flag", "--decoder"),
            Finding("decoder", "ctc", "flag"),
            *pixels("stretch", "nothing in the file says it"),
            Finding("layout", ORDERS[axis == 1], "signature", f"output {list(shape)}"),
            _blank(file, output, axis),
            _activation(file, output, axis),
            Finding("score_threshold", 0.0, "assumed", "a text is always reported, with its score"),
        ),
        outputs={"scores": Output(output.name)},
        asks=asks,
    )


def _blank(file: ModelFile, output: FileTensor, axis: int) -> Finding:
    """Return the blank: the number that wins most often on pictures without text."""
    best = [array.argmax(axis=axis).reshape(-1) for array in file.tried.get(output.name, ())]
    if not best:
        return Finding("blank", 0, "assumed", "PP-OCR's")
    numbers, counts = np.unique(np.concatenate(best), return_counts=True)
    number = int(numbers[counts.argmax()])
    return Finding("blank", number, "tried", "what is read most often where there is no text")


def _activation(file: ModelFile, output: FileTensor, axis: int) -> Finding:
    sums = [array.sum(axis=axis) for array in file.tried.get(output.name, ())]
    if sums and all(np.allclose(total, 1, atol=0.05) for total in sums):
        return Finding("activation", "none", "tried", "the scores of a position sum to 1")
    return Finding("activation", "softmax", "tried" if sums else "assumed", "the scores do not sum to 1")
