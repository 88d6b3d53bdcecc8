"""Exports of Ultralytics that carry its metadata: ONNX, TFLite and OpenVINO; task, head and names are stated.

Source: what ultralytics 8.4.190 writes (metadata keys, preprocessing and output layouts by task and head).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import units_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.literals import names_of

LETTERBOX = "Ultralytics' letterbox: centred, grey 114, RGB, /255"
_ROW, _QUERIES = 6, 300
_CROP = "Ultralytics' classify: centre crop, RGB, /255, no ImageNet mean"
_STRETCH = "Ultralytics' RT-DETR: stretched, RGB, /255"
COCO_POINTS = (
    *("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder"),
    *("left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip"),
    *("left knee", "right knee", "left ankle", "right ankle"),
)
"""Source: COCO 2017 person keypoints."""


class Head(NamedTuple):
    """A task's head: edgekit's task, the columns after the classes, and the options that say so."""

    task: str
    columns: int = 0
    options: tuple[Finding, ...] = ()


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose metadata name a task of Ultralytics.

    Raises:
        BundleError: Names and shapes contradict each other.
    """
    meta = file.metadata
    names = names_of(meta.get("names"))
    if "task" not in meta or "stride" not in meta or not names:
        return None
    if meta["task"] == "classify":
        return _classify(file, names)
    if meta["task"] in ("semantic", "depth"):
        return _cells(file, names)
    head = _head(file)
    if head is None and meta["task"] in ("pose", "segment"):
        raise _contradiction(file, names, file.outputs[0])
    return _detect(file, names, head) if head is not None else None


def _classify(file: ModelFile, names: tuple[str, ...]) -> Conclusion:
    output = file.outputs[0]
    if file.shape_of(output)[-1] not in (len(names), -1):
        raise _contradiction(file, names, output)
    return Conclusion(
        family="ultralytics",
        is_stated=True,
        findings=(
            *_stated(file, "classify", "classify", names),
            *pixels("crop", _CROP),
            Finding("activation", "none", "assumed", "its head ends in softmax"),
            Finding("score_threshold", 0.0, "assumed", "the best classes, however unsure"),
        ),
        outputs={"scores": Output(output.name, (1, len(names)))},
    )


def _head(file: ModelFile) -> Head | None:
    meta = file.metadata
    task = str(meta["task"])
    if task == "detect":
        return Head("detect")
    if task == "obb":
        return Head("oriented", 1, (Finding("angle", True, "metadata", "task obb"),))
    if task == "pose" and (shape := meta.get("kpt_shape")):
        count, size = int(shape[0]), int(shape[1])
        return Head("pose", count * size, point_options(count, size, "metadata", "kpt_shape"))
    prototypes = [t for t in file.outputs if len(file.shape_of(t)) == 4]
    if task == "segment" and len(prototypes) == 1:
        return mask_head(file, prototypes[0])
    return None


def point_options(count: int, size: int, source: Any, why: str) -> tuple[Finding, ...]:
    """Return the options of a head with keypoints, each of ``size`` numbers."""
    rows = [Finding("keypoints", count, source, why), Finding("point_size", size, source, why)]
    if count == len(COCO_POINTS):
        rows.append(Finding("point_names", COCO_POINTS, "assumed", "17 keypoints are COCO's person"))
    return tuple(rows)


def mask_head(file: ModelFile, prototypes: FileTensor) -> Head:
    """Return the head of a segmentation model with this output of prototypes."""
    shape = file.shape_of(prototypes)
    layout = "NHWC" if file.format == "tflite" and shape[3] < shape[1] else "NCHW"
    masks = shape[3] if layout == "NHWC" else shape[1]
    why = f"output {prototypes.name!r} {list(shape)}"
    rows = (Finding("masks", masks, "signature", why), Finding("prototype_layout", layout, "signature", why))
    return Head("instances", masks, rows)


def _detect(file: ModelFile, names: tuple[str, ...], head: Head) -> Conclusion:
    output = next((t for t in file.outputs if len(file.shape_of(t)) == 3), file.outputs[0])
    shape = file.shape_of(output)
    is_detr = file.metadata.get("head") == "RTDETRDecoder"
    is_listed = file.metadata.get("end2end") is True or _has_nms(file) or is_detr
    is_listed = is_listed or ("end2end" not in file.metadata and _ends_in_rows(file, output, len(names)))
    if is_listed and shape[-1] == 6 + head.columns:
        rows = _listed(file, output, is_detr=is_detr, is_oriented=head.task == "oriented")
        decoder, logical = "detections", "rows"
    elif (turned := columns_of(shape, 4 + len(names) + head.columns)) is not None:
        rows, decoder, logical = dense(file, output, turned), "yolo", "predictions"
        if turned == "rows" and shape[1] == _QUERIES and head.task == "detect":
            is_detr = True
            rows = (*rows, Finding("nms", "none", "signature", f"{_QUERIES} queries, as RT-DETR has"))
    else:
        raise _contradiction(file, names, output)
    outputs = {logical: Output(output.name)}
    if (prototypes := next((t for t in file.outputs if t is not output), None)) is not None:
        outputs["prototypes"] = Output(prototypes.name)
    return Conclusion(
        family="ultralytics",
        is_stated=True,
        findings=(
            *_stated(file, head.task, decoder, names),
            *pixels("stretch" if is_detr else "letterbox", _STRETCH if is_detr else LETTERBOX),
            *rows,
            *head.options,
            Finding("score_threshold", 0.25, "assumed", "Ultralytics' predict"),
            Finding("iou_threshold", 0.45, "assumed", "edgekit's"),
        ),
        outputs=outputs,
    )


def _ends_in_rows(file: ModelFile, output: FileTensor, classes: int) -> bool:
    """Return whether rows of six are corners, score and class, as YOLOv10's are without a word."""
    answers = [array.reshape(-1, array.shape[-1]) for array in file.tried.get(output.name, ())]
    if not answers or any(array.shape[1] != _ROW for array in answers):
        return False
    rows = np.concatenate(answers)
    number = rows[:, 5]
    return bool(
        (number == np.rint(number)).all()
        and number.min(initial=0) >= 0
        and number.max(initial=0) < classes
        and (rows[:, 2:4] >= rows[:, :2]).all()
    )


def _has_nms(file: ModelFile) -> bool:
    arguments = file.metadata.get("args")
    return isinstance(arguments, Mapping) and arguments.get("nms") is True


def _listed(file: ModelFile, output: FileTensor, *, is_detr: bool, is_oriented: bool) -> tuple[Finding, ...]:
    """Return the options of rows that need no suppression (end to end, NMS inside, RT-DETR)."""
    is_centre = is_detr or is_oriented
    box = ("cx", "cy", "width", "height") if is_centre else ("left", "top", "right", "bottom")
    boxes = [array[..., :4] for array in file.tried.get(output.name, ())]
    convention = "shares" if is_detr or file.format == "tflite" else "pixels"
    why = "head RTDETRDecoder" if is_detr else "end2end or nms in its metadata"
    return (
        Finding("columns", (*box, "score", "class"), "metadata", why),
        units_of(boxes, convention, f"Ultralytics' {file.format} export"),
    )


def dense(file: ModelFile, output: FileTensor, turned: str) -> tuple[Finding, ...]:
    """Return the options of one row or column a cell: centre, size, classes."""
    boxes = [
        array.take(range(4), 1 if turned == "columns" else 2) for array in file.tried.get(output.name, ())
    ]
    convention = "shares" if file.format == "tflite" else "pixels"
    return (
        Finding("layout", turned, "signature", f"output {list(file.shape_of(output))}"),
        Finding("box", "cxcywh", "assumed", "Ultralytics' head without end-to-end rows"),
        units_of(boxes, convention, f"Ultralytics' {file.format} export"),
    )


def columns_of(shape: tuple[int, ...], width: int) -> str | None:
    """Return "columns" for [1, width, N], "rows" for [1, N, width], None where neither fits.

    >>> columns_of((1, 84, 8400), 84), columns_of((1, 8400, 84), 84), columns_of((1, 85, 8400), 84)
    ('columns', 'rows', None)
    """
    if len(shape) != 3:
        return None
    if shape[1] == width:
        return "columns"
    return "rows" if shape[2] == width else None


def pixels(resize: str, why: str) -> tuple[Finding, ...]:
    """Return how a picture becomes the input: RGB, 0 to 1, resized so."""
    rows: dict[str, Any] = {"resize": resize, "color": "RGB", "mean": 0, "std": 255}
    return tuple(Finding(key, value, "assumed", why) for key, value in rows.items())


def _stated(file: ModelFile, task: str, decoder: str, names: tuple[str, ...]) -> tuple[Finding, ...]:
    version = f"{file.metadata_from}, ultralytics {file.metadata.get('version', '')}".strip()
    return (
        Finding("task", task, "metadata", version),
        Finding("decoder", decoder, "metadata", f"task {file.metadata['task']}"),
        Finding("labels", names, "metadata", "names"),
    )


def _cells(file: ModelFile, names: tuple[str, ...]) -> Conclusion:
    """Return a map of classes (task ``semantic``) or of depth."""
    is_depth = file.metadata["task"] == "depth"
    output, task = file.outputs[0], "depth" if is_depth else "segment"
    shape = file.shape_of(output)
    if len(shape) != (4 if is_depth else 3):
        raise _contradiction(file, names, output)
    stated = _stated(file, task, task, names)
    return Conclusion(
        family="ultralytics",
        is_stated=True,
        findings=(
            *(row for row in stated if row.key != "labels" or not is_depth),
            *pixels("letterbox", LETTERBOX),
        ),
        outputs={"depth" if is_depth else "classes": Output(output.name)},
    )


def _contradiction(file: ModelFile, names: tuple[str, ...], output: FileTensor) -> BundleError:
    return BundleError(
        f"{file.path}: its metadata say {file.metadata['task']} with {len(names)} classes, "
        f"its output {output.name!r} has shape {list(file.shape_of(output))}",
        hint="export the file again: metadata and network are of different models",
    )
