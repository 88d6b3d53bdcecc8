"""YOLOv8-style heads without Ultralytics' metadata: one column a cell, [1, 4 + classes + extras, cells].

The number of cells must be that of strides 8, 16 and 32 over the input. OpenVINO's ``model_info`` of the
Model API (``model_type`` YOLO) states labels and preprocessing; else the family's convention is assumed.

Source: ultralytics 8.x heads; OpenVINO Model API, ``rt_info/model_info`` keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import labels_of
from edgekit.importer.families.ultralytics import (
    COCO_POINTS,
    LETTERBOX,
    Head,
    columns_of,
    dense,
    mask_head,
    pixels,
    point_options,
)
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

_STRIDES = (8, 16, 32)
_POINTS = 3 * len(COCO_POINTS)
_RESIZE: Mapping[str, str] = {
    "fit_to_window_letterbox": "letterbox",
    "standard": "stretch",
    "crop": "crop",
}


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with one such output, maybe with prototypes beside it."""
    if "stride" in file.metadata or file.image() is None:
        return None
    tables = [t for t in file.outputs if (shape := file.shape_of(t)) and len(shape) == 3]
    if len(tables) != 1:
        return None
    turned, width = _table(file, tables[0])
    if not width:
        return None
    stated = {key: value for key, value in file.metadata.items() if value not in ("", None)}
    is_stated = str(stated.get("model_type", "")).lower().startswith("yolo")
    labels = _labels(file, stated) if is_stated else ()
    head, classes = _head(file, tables[0], width, len(labels))
    if head is None:
        return None
    found, asks = _names(file, labels, classes, head)
    outputs = {"predictions": Output(tables[0].name)}
    if head.task == "instances":
        outputs["prototypes"] = Output(next(t.name for t in file.outputs if t is not tables[0]))
    why = f"output {list(file.shape_of(tables[0]))}: {classes} classes on strides 8, 16, 32"
    return Conclusion(
        family="yolov8",
        is_stated=is_stated,
        findings=(
            Finding("task", head.task, "signature", why),
            Finding("decoder", "yolo", "metadata" if is_stated else "signature", why),
            *found,
            *(_stated_pixels(file, stated) if is_stated else pixels("letterbox", LETTERBOX)),
            *dense(file, tables[0], turned),
            *head.options,
            Finding("score_threshold", 0.25, "assumed", "Ultralytics' predict"),
            *_stated_iou(file, stated),
        ),
        outputs=outputs,
        asks=asks,
    )


def cells_of(file: ModelFile) -> int:
    """Return how many cells strides 8, 16 and 32 make over the file's picture."""
    (height, width), _ = image_size(file)
    return sum((height // stride) * (width // stride) for stride in _STRIDES)


def _table(file: ModelFile, output: FileTensor) -> tuple[str, int]:
    """Return the layout and the length of a cell's row; ("", 0) where the cells are not so many."""
    shape, cells = file.shape_of(output), cells_of(file)
    if shape[2] == cells and shape[1] > 4:
        return "columns", shape[1]
    return "", 0


def _head(file: ModelFile, output: FileTensor, width: int, known: int) -> tuple[Head | None, int]:
    """Return the head and its number of classes."""
    others = [t for t in file.outputs if t is not output]
    if len(others) == 1 and len(file.shape_of(others[0])) == 4:
        head = mask_head(file, others[0])
        return (head, width - 4 - head.columns) if width - 4 > head.columns else (None, 0)
    if others:
        return None, 0
    if not known and width == 4 + 1 + _POINTS:
        return Head("pose", _POINTS, point_options(len(COCO_POINTS), 3, "assumed", "56 = 4 + 1 + 17 x 3")), 1
    if known and columns_of((1, width, 1), 4 + known) is None:
        return None, 0
    return Head("detect"), width - 4


def _labels(file: ModelFile, stated: Mapping[str, Any]) -> tuple[str, ...]:
    if file.labels:
        return file.labels
    labels = stated.get("labels", "")
    return tuple(str(labels).split()) if isinstance(labels, str) else tuple(map(str, labels))


def _names(
    file: ModelFile, labels: tuple[str, ...], classes: int, head: Head
) -> tuple[tuple[Finding, ...], dict[str, str]]:
    """Return the finding of the labels, or what to ask."""
    if labels:
        return (Finding("labels", labels, "metadata", file.metadata_from),), {}
    if head.task == "pose" and classes == 1 and not file.labels:
        return (Finding("labels", ("person",), "assumed", "17 keypoints are COCO's person"),), {}
    return labels_of(file, classes)


def _stated_pixels(file: ModelFile, stated: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return preprocessing as OpenVINO's Model API states it."""
    why = file.metadata_from
    rows = [
        Finding("resize", _RESIZE.get(str(stated.get("resize_type")), "letterbox"), "metadata", why),
        Finding("color", "RGB" if _is_yes(stated.get("reverse_input_channels")) else "BGR", "metadata", why),
        Finding("std", stated.get("scale_values", 1), "metadata", why),
        Finding("mean", stated.get("mean_values", 0), "metadata", why),
    ]
    if "pad_value" in stated:
        rows.append(Finding("pad", int(stated["pad_value"]), "metadata", why))
    return tuple(rows)


def _is_yes(value: Any) -> bool:
    return str(value).lower() in ("yes", "true", "1")


def _stated_iou(file: ModelFile, stated: Mapping[str, Any]) -> tuple[Finding, ...]:
    if "iou_threshold" in stated:
        return (Finding("iou_threshold", float(stated["iou_threshold"]), "metadata", file.metadata_from),)
    return (Finding("iou_threshold", 0.45, "assumed", "edgekit's"),)
