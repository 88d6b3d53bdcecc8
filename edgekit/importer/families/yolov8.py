"""YOLOv8-style heads without Ultralytics' metadata: [1, 4 + classes + extras, cells], or as rows.

The number of cells must be that of strides 8, 16 and 32 over the input. OpenVINO's ``model_info`` of the
Model API (``model_type`` YOLO) states labels and preprocessing; else the family's convention is assumed.

Source: ultralytics 8.x heads; OpenVINO Model API, ``rt_info/model_info`` keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, centres_of, labels_of, order_of, scores_of
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

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDES = (8, 16, 32)
_POINTS = 3 * len(COCO_POINTS)
_COCO = 84
_BELOW = -0.1
_CORNERS = {"align": "corners are not Ultralytics' but LibreYOLO's: top-left or centre"}
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
    numbers = _Numbers(file, tables[0], turned)
    stated = {key: value for key, value in file.metadata.items() if value not in ("", None)}
    is_stated = str(stated.get("model_type", "")).lower().startswith("yolo")
    labels = _labels(file, stated) if is_stated else ()
    head, classes = _head(file, tables[0], width, len(labels), numbers)
    scores = numbers.scores(classes)
    if head is None or (scores is None and head.task == "detect"):
        return _unclear(width) if head is not None else None
    boxes = numbers.boxes()
    found, asks = _names(file, labels, classes, head)
    asks |= _CORNERS if any(row.value == "xyxy" for row in boxes) else {}
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
            *boxes,
            *(scores or ()),
            *head.options,
            Finding("score_threshold", 0.25, "assumed", "Ultralytics' predict"),
            *_stated_iou(file, stated),
        ),
        outputs=outputs,
        asks=asks,
    )


class _Numbers:
    """What the answers say about the numbers of a table."""

    def __init__(self, file: ModelFile, output: FileTensor, turned: str) -> None:
        self._file, self._output, self._turned = file, output, turned
        answers = file.tried.get(output.name, ())
        self._rows = [array.swapaxes(1, 2) if turned == "columns" else array for array in answers]

    def columns(self, first: int, last: int) -> list[NDArray[np.float32]]:
        """Return these numbers of every row, for each picture."""
        return [array[..., first:last] for array in self._rows]

    def scores(self, classes: int) -> tuple[Finding, ...] | None:
        """Return how scores become probabilities, or None where they are none."""
        found = scores_of(self.columns(4, 4 + classes), "Ultralytics' head ends in sigmoid")
        if found is not None and found[0].key == "score_scale" and "score_scale" not in self._file.flags:
            return None  # places of keypoints are as large as percentages
        return found

    def has_points(self) -> bool:
        """Return whether what follows the first score is places of keypoints and not scores near 0."""
        return not self._rows or float(np.mean([np.abs(array[..., 5:]).mean() for array in self._rows])) > 0.1

    def has_angle(self) -> bool:
        """Return whether only the last number goes below 0."""
        before, last = self.columns(4, -1), [array[..., -1] for array in self._rows]
        return any(float(a.min(initial=0)) < _BELOW for a in last) and not any(
            float(a.min(initial=0)) < _BELOW for a in before
        )

    def boxes(self) -> tuple[Finding, ...]:
        """Return layout, units and order of the boxes; corners are told by where they are."""
        rows = dense(self._file, self._output, self._turned)
        is_shares = any(row.key == "units" and row.value == "shares" for row in rows)
        order = order_of(self.columns(0, 4), centres_of(self._file, _STRIDES), is_shares)
        return tuple(order if order is not None and row.key == "box" else row for row in rows)


def _unclear(width: int) -> Conclusion:
    """Return what is asked of a table whose columns can be no scores."""
    why = f"not all of its {width - 4} columns after the box are scores; point_size=2: points without a score"
    return Conclusion(family="yolov8", findings=(), outputs={}, asks={"keypoints": why})


def _table(file: ModelFile, output: FileTensor) -> tuple[str, int]:
    """Return the layout and the length of a cell's row; ("", 0) where the cells are not so many.

    Rows of another length than COCO's are as likely YOLOX's.
    """
    shape, cells = file.shape_of(output), sum(cells_of(file, _STRIDES))
    if shape[2] == cells and shape[1] > 4:
        return "columns", shape[1]
    if shape[1] == cells and (shape[2] == _COCO or file.asks_for("yolov8")) and shape[2] > 4:
        return "rows", shape[2]
    return "", 0


def _head(
    file: ModelFile, output: FileTensor, width: int, known: int, numbers: _Numbers
) -> tuple[Head | None, int]:
    """Return the head and its number of classes."""
    if (stated := _stated_points(file)) is not None and width > 4 + stated.columns:
        return stated, width - 4 - stated.columns
    others = [t for t in file.outputs if t is not output]
    if len(others) == 1 and len(file.shape_of(others[0])) == 4:
        head = mask_head(file, others[0])
        return (head, width - 4 - head.columns) if width - 4 > head.columns else (None, 0)
    is_other = bool(known) and columns_of((1, width, 1), 4 + known) is None
    if others or is_other:
        return None, 0
    if not known and width == 4 + 1 + _POINTS and numbers.has_points():
        return Head("pose", _POINTS, point_options(len(COCO_POINTS), 3, "assumed", "56 = 4 + 1 + 17 x 3")), 1
    if not known and width > 4 + 2 and numbers.has_angle():
        angle = Finding("angle", True, "tried", "only the last number goes below 0")
        return Head("oriented", 1, (angle,)), width - 5
    return Head("detect"), width - 4


def _stated_points(file: ModelFile) -> Head | None:
    """Return the head of a pose model whose keypoints the user states."""
    count, size = file.flags.get("keypoints"), file.flags.get("point_size", 3)
    if not isinstance(count, int) or count < 1:
        return None
    return Head("pose", count * int(size), point_options(count, int(size), "flag", "keypoints"))


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
