"""Detectors that end in one list of rows: OpenVINO's DetectionOutput, YOLOs with suppression inside.

A row has six numbers, or seven with the number of the picture in front. Which of them is the class and which
the score the answers say: a class is a whole number, a score a share. YOLO-NAS's flat rows, YOLOv7's
``--end2end``, YOLOv10 and 26 and RT-DETR without their metadata are of this kind; no row says how many
classes there are.

Source: these exporters' documentation; OpenVINO's operation DetectionOutput-8. No real file seen but those of
Ultralytics with their metadata removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, convention, units_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BOX, _ROW = 4, 6
_MOST_ROWS = 2000
_STRIDES = (8, 16, 32)
_NEARLY_ALL = 0.99
_CORNERS = ("left", "top", "right", "bottom")
_CENTRE = ("cx", "cy", "width", "height")
_NO_NAMES = {"labels": "the file has no names"}


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only output is such a list."""
    if file.image() is None or len(file.outputs) != 1 or len(file.inputs) != 1 or "task" in file.metadata:
        return None
    (output,) = file.outputs
    shape = file.shape_of(output)
    if len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == _ROW + 1:
        return _detection_output(file, output)
    if "model_family" in file.metadata or len(shape) not in (2, 3) or shape[-1] not in (_ROW, _ROW + 1):
        return None
    count, cells = shape[-2], sum(cells_of(file, _STRIDES))
    if count > _MOST_ROWS or count in (cells, 3 * cells):
        return None
    return _listed(file, output, shape)


def _labels(file: ModelFile) -> tuple[tuple[Finding, ...], dict[str, str]]:
    if file.labels:
        return (Finding("labels", file.labels, "metadata", file.labels_from),), {}
    return (), dict(_NO_NAMES)


def _detection_output(file: ModelFile, output: FileTensor) -> Conclusion:
    found, asks = _labels(file)
    if asks:
        asks = {"labels": "the file has no names; the first is that of class 1, 0 is the background"}
    why = f"output {list(file.shape_of(output))}: OpenVINO's DetectionOutput"
    pixels = convention(
        "Open Model Zoo: BGR, 0 to 255, stretched", resize="stretch", color="BGR", mean=0, std=1
    )
    return Conclusion(
        family="detection-output",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "detections", "signature", why),
            *found,
            *pixels,
            Finding("columns", ("skip", "class", "score", *_CORNERS), "signature", why),
            Finding("units", "shares", "signature", why),
            Finding("first_class", 1, "assumed", "class 0 is the background"),
            *convention("edgekit's", score_threshold=0.5),
        ),
        outputs={"rows": Output(output.name, (1, -1, _ROW + 1))},
        asks=asks,
        no_real_file=True,
    )


def _listed(file: ModelFile, output: FileTensor, shape: tuple[int, ...]) -> Conclusion | None:
    rows = np.concatenate([a.reshape(-1, shape[-1]) for a in file.tried.get(output.name, ())] or [_NONE])
    rows = rows[rows.any(axis=1)] if rows.size else np.empty((0, shape[-1]), np.float32)
    columns = _columns(rows)
    if columns is None and len(rows):
        return None
    found, asks = _labels(file)
    is_centre = columns is not None and "cx" in columns
    if columns is None:
        asks["columns"] = "nothing was found on the pictures tried: what is each number? (docs/pipelines.md)"
    box = [columns.index(name) for name in (_CENTRE if is_centre else _CORNERS)] if columns else []
    why = f"rows of {shape[-1]} numbers, {len(rows)} of them on the pictures tried"
    letterbox = "the YOLOs' letterbox: RGB, /255"
    return Conclusion(
        family="rows",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "detections", "signature", why),
            *found,
            *convention(
                "RT-DETR: stretched, RGB, /255" if is_centre else letterbox,
                resize="stretch" if is_centre else "letterbox",
                color="RGB",
                mean=0,
                std=255,
            ),
            *(
                (Finding("columns", columns, "tried", "whole numbers are classes, shares scores"),)
                if columns
                else ()
            ),
            units_of([rows[:, box]] if columns else [], "pixels", "the YOLOs' exports"),
            *convention("edgekit's", score_threshold=0.25),
        ),
        outputs={"rows": Output(output.name)},
        asks=asks,
        no_real_file=True,
    )


_NONE: NDArray[np.float32] = np.empty((0, _ROW + 1), np.float32)


def _columns(rows: NDArray[np.float32]) -> tuple[str, ...] | None:
    """Return what each number of the rows is, or None where they do not say it."""
    if not len(rows):
        return None
    front = rows.shape[1] - _ROW
    if front and rows[:, 0].any():  # one picture at a time: its number is 0
        return None
    body = rows[:, front:]
    is_whole = ((body == np.rint(body)) & (body >= 0)).all(axis=0)
    is_share = ((body >= 0) & (body <= 1)).all(axis=0) & ~is_whole
    for score, which, start in ((4, 5, 0), (5, 4, 0), (1, 0, 2)):
        if not (is_share[score] and is_whole[which]):
            continue
        box = body[:, start : start + _BOX]
        if (box[:, 2:] >= box[:, :2]).all(axis=1).mean() >= _NEARLY_ALL:
            names = _CORNERS
        elif (box[:, 2:] >= 0).all():
            names = _CENTRE
        else:
            return None
        pair = ("score", "class") if score < which else ("class", "score")
        return (*("skip",) * front, *(names if not start else ()), *pair, *(names if start else ()))
    return None
