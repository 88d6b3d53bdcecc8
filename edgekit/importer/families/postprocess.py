"""TensorFlow Lite detectors that end in ``TFLite_Detection_PostProcess``: boxes, classes, scores, count.

TensorFlow 1 and 2 write the four in different orders: classes and scores are told apart by the answers,
whole numbers being classes.

Source: TensorFlow Object Detection API and TFLite Model Maker exports (stretched, RGB, -1 to 1 where float).
"""

from __future__ import annotations

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_PIXELS = convention(
    "TensorFlow's detectors: stretched, RGB, -1 to 1", resize="stretch", color="RGB", mean=127.5, std=127.5
)


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with that operator and four outputs."""
    if "TFLite_Detection_PostProcess" not in file.operators or len(file.outputs) != 4:
        return None
    boxes = [t for t in file.outputs if file.shape_of(t)[-1:] == (4,) and len(file.shape_of(t)) == 3]
    count = [t for t in file.outputs if file.shape_of(t) in ((1,), ())]
    lists = [t for t in file.outputs if t not in boxes and t not in count]
    if file.image() is None or len(boxes) != 1 or len(count) != 1 or len(lists) != 2:
        return None
    whole = [t for t in lists if _is_whole(file, t)]
    if len(whole) == 1:
        classes = whole[0]
        found = Finding("first_class", 0, "tried", f"output {classes.name!r} has whole numbers")
    else:  # TensorFlow 1: boxes, classes, scores, count
        classes = lists[0]
        found = Finding("first_class", 0, "assumed", f"output {classes.name!r} has the classes")
    scores = next(t for t in lists if t is not classes)
    labels = file.labels
    if _has_background(file.flags.get("labels", labels)):
        found = Finding("first_class", -1, "assumed", "the operator does not count the labels' background")
    why = "operator TFLite_Detection_PostProcess"
    return Conclusion(
        family="tflite-postprocess",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "detections", "signature", why),
            *((Finding("labels", labels, "metadata", file.labels_from),) if labels else ()),
            *_PIXELS,
            Finding("box", "yxyx", "signature", why),
            Finding("units", "shares", "signature", why),
            found,
            *convention("edgekit's", score_threshold=0.5),
        ),
        outputs={
            "boxes": Output(boxes[0].name),
            "scores": Output(scores.name),
            "classes": Output(classes.name),
            "count": Output(count[0].name),
        },
        asks={} if labels else {"labels": "the file has no names (coco90 for TensorFlow's COCO models)"},
    )


def _has_background(labels: tuple[str, ...]) -> bool:
    """Return whether the first label is a background's, as in TensorFlow's label maps ("???")."""
    return bool(labels) and labels[0].strip("?_ ").lower() in ("", "background")


def _is_whole(file: ModelFile, output: FileTensor) -> bool:
    answers = file.tried.get(output.name, ())
    return bool(answers) and all(bool((array == np.rint(array)).all()) for array in answers)
