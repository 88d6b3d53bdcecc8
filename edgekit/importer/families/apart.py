"""Dense detectors whose boxes [1, N, 4] and scores [1, N, C] are two outputs, under whatever names.

The number of rows and the answers say what they are: YOLO-NAS (a cell's corners), YOLOv4 by Tianxiaomo's or
hunglc007's exports (three anchors a cell), pytorch-ssd's SSDs as jetson-inference has them (3,000 priors,
softmax with a background). Of others how pixels are normalised is asked for. Offsets to priors, which no file
holds, are only read with ``--decoder ssd``.

Source: these repositories' exports; only YOLO-NAS by libreyolo 1.6.0 was seen (with its names swapped).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import (
    cells_of,
    centres_of,
    convention,
    labels_of,
    order_of,
    scores_of,
    units_of,
)
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDES, _TINY = (8, 16, 32), (16, 32)
_LEAST_ROWS = 600
"""A DETR has fewer queries than this."""
_SSD = (300, 300), 3000
_ULTRAFACE = {(240, 320): 4420, (480, 640): 17640}
_CORNERS, _MIDDLE = 0.95, 0.7
_SUM = 0.05
_DETR = ("pred_boxes", "dets")


class _Pair(NamedTuple):
    boxes: FileTensor
    scores: FileTensor
    rows: int
    classes: int


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with one output of boxes and one of scores, of one length."""
    pair = _pair(file)
    if pair is None:
        return None
    answers = [array.reshape(-1, 4) for array in file.tried.get(pair.boxes.name, ())]
    units = units_of(answers, "shares", "most exports' of such detectors")
    order = _order(file, pair, answers, is_shares=units.value == "shares")
    scores = _scores(file, pair)
    if file.asks_for("ssd"):
        return _offsets(file, pair)
    if scores is None or (order is None and _has_negative_sizes(answers)):
        return None  # offsets or logits: not decoded
    background = next((row.value for row in scores if row.key == "background"), "")
    found, asks = labels_of(file, pair.classes)
    family, pixels, unknown = _family(file, pair, order, has_background=bool(background))
    if order is None:
        unknown = {**unknown, "box": "xyxy (corners) or cxcywh (centre and size)"}
    why = f"{pair.rows} boxes and as many rows of {pair.classes} scores"
    return Conclusion(
        family=family,
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo", "signature", why),
            *found,
            *pixels,
            *((order,) if order is not None else ()),
            units,
            *scores,
            *convention("edgekit's", score_threshold=0.4 if background else 0.25, iou_threshold=0.45),
        ),
        outputs={
            "boxes": Output(pair.boxes.name, (1, pair.rows, 4)),
            "scores": Output(pair.scores.name),
        },
        asks={**unknown, **asks},
        no_real_file=True,
    )


def _pair(file: ModelFile) -> _Pair | None:
    if file.image() is None or len(file.outputs) != 2 or len(file.inputs) != 1 or file.metadata.get("task"):
        return None
    shapes = {t.name: file.shape_of(t) for t in file.outputs}
    boxes = [t for t in file.outputs if shapes[t.name][2:] in ((4,), (1, 4))]
    if len(boxes) == 2:  # four classes: only a name says which
        boxes = [t for t in boxes if "box" in t.name.lower() or "loc" in t.name.lower()]
    if len(boxes) != 1 or boxes[0].name in _DETR:
        return None
    scores = next(t for t in file.outputs if t is not boxes[0])
    rows, shape = shapes[boxes[0].name][1], shapes[scores.name]
    is_ultraface = rows == _ULTRAFACE.get(image_size(file)[0])
    if len(shape) != 3 or shape[1] != rows or rows < _LEAST_ROWS or shape[2] < 1 or is_ultraface:
        return None
    return _Pair(boxes[0], scores, rows, shape[2])


def _order(
    file: ModelFile, pair: _Pair, answers: list[NDArray[np.float32]], *, is_shares: bool
) -> Finding | None:
    """Return whether boxes are corners: by their cells where there are such, else by their own order."""
    if pair.rows == sum(cells_of(file, _STRIDES)):
        found = order_of(answers, centres_of(file, _STRIDES), is_shares)
        if found is not None:
            return found
    if not answers:
        return None
    rows = np.concatenate(answers)
    share = float((rows[:, 2:] >= rows[:, :2]).all(axis=1).mean())
    why = f"{share:.0%} of the boxes end after they begin"
    if share >= _CORNERS:
        return Finding("box", "xyxy", "tried", why)
    is_middle = share <= _MIDDLE and not _has_negative_sizes(answers)
    return Finding("box", "cxcywh", "tried", why) if is_middle else None


def _has_negative_sizes(answers: list[NDArray[np.float32]]) -> bool:
    return any(float((rows[:, 2:] < 0).mean()) > _SUM for rows in answers)


def _scores(file: ModelFile, pair: _Pair) -> tuple[Finding, ...] | None:
    """Return how scores are read, and which column is the background; None where they are logits."""
    answers = file.tried.get(pair.scores.name, ())
    found = scores_of(answers, "most exports' of such detectors")
    if found is None or found[0].value == "sigmoid":
        return None
    rows = [array.reshape(-1, pair.classes) for array in answers]
    if pair.classes > 1 and rows and all(np.allclose(r.sum(axis=1), 1, atol=_SUM) for r in rows):
        usual = int(np.concatenate(rows).mean(axis=0).argmax())
        place = {0: "first", pair.classes - 1: "last"}.get(usual)
        if place is not None:
            return (*found, Finding("background", place, "tried", "scores sum to 1, and it is the usual one"))
    return found


def _family(
    file: ModelFile, pair: _Pair, order: Finding | None, *, has_background: bool
) -> tuple[str, tuple[Finding, ...], dict[str, str]]:
    """Return the family, how pixels are given, and what to ask about them."""
    size, corners = image_size(file)[0], order is not None and order.value == "xyxy"
    if (size, pair.rows) == _SSD and has_background and corners:
        why = "pytorch-ssd: RGB, (x - 127) / 128, stretched"
        return "pytorch-ssd", convention(why, resize="stretch", color="RGB", mean=127, std=128), {}
    if pair.rows == sum(cells_of(file, _STRIDES)) and corners:
        why = "YOLO-NAS: RGB, /255, letterbox"
        return "yolo-nas", convention(why, resize="letterbox", color="RGB", mean=0, std=255), {}
    if pair.rows in (3 * sum(cells_of(file, _STRIDES)), 3 * sum(cells_of(file, _TINY))):
        why = "YOLOv4: RGB, /255, stretched"
        return "yolov4", convention(why, resize="stretch", color="RGB", mean=0, std=255), {}
    unknown = "how pixels are normalised is not in the file ((x - mean) / std of 0 to 255)"
    pixels = convention("nothing in the file says it", resize="stretch", color="RGB")
    return "boxes-and-scores", pixels, {"mean": unknown, "std": unknown}


def _offsets(file: ModelFile, pair: _Pair) -> Conclusion:
    """Return the conclusion for offsets to priors, all of which only the user knows."""
    found, asks = labels_of(file, pair.classes)
    unknown = "how pixels are normalised is not in the file ((x - mean) / std of 0 to 255)"
    asks = {"mean": unknown, "std": unknown, **asks}
    if "min_sizes" not in file.flags:
        asks["anchors"] = "the priors are not in the file; or strides and min_sizes (docs/pipelines.md, ssd)"
    return Conclusion(
        family="ssd",
        findings=(
            Finding("task", "detect", "flag", "--decoder"),
            Finding("decoder", "ssd", "flag"),
            *found,
            *convention("nothing in the file says it", resize="stretch", color="RGB"),
            *convention("edgekit's", score_threshold=0.5, iou_threshold=0.45),
        ),
        outputs={
            "boxes": Output(pair.boxes.name, (1, pair.rows, 4)),
            "scores": Output(pair.scores.name),
        },
        asks={**asks, "activation": "softmax or sigmoid of the scores, or none"},
        no_real_file=True,
    )
