"""Detectors that end in lists, told apart by names and shapes: RT-DETR's own, torchvision's and others.

YOLO-NAS's four lists and MMDeploy's two (OpenVINO's Training Extensions have the same without a batch).

RT-DETR, D-FINE and DEIM as their repositories export them take the picture's size as a second input,
``orig_target_sizes``; it is always the input's own here. torchvision's take one picture without a batch, and
normalise it inside; class 0 is the background.

Source: torchvision 0.29 exports; RT-DETR's repository and TensorRT's EfficientNMS: no real file seen.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, units_of
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

_SIZES = "orig_target_sizes"
_BOXES, _SCORES = "boxes", "scores"
_LISTS = (_BOXES, _SCORES, "labels")
_LOGICAL = (_BOXES, _SCORES, "classes")
_FOUR = {
    "efficient-nms": ("num_dets", "det_boxes", "det_scores", "det_classes"),
    "yolo-nas": ("num_predictions", "pred_boxes", "pred_scores", "pred_classes"),
}
"""Count, boxes, scores and classes, by family."""
_NO_NAMES = {"labels": "the file has no names"}


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with one of these lists."""
    if file.image() is None:
        return None
    names = {tensor.name: tensor for tensor in file.outputs}
    for family, four in _FOUR.items():
        if names.keys() == set(four):
            return _four_lists(file, family, four)
    if "labels" in names and "INT" in names["labels"].datatype and len(file.inputs) == 1:
        pairs = [t for t in file.outputs if t.name in ("dets", "boxes") and file.shape_of(t)[-1:] == (5,)]
        if len(pairs) == 1:
            return _with_scores(file, pairs[0])
    if any(name not in names for name in _LISTS) or "INT" not in names["labels"].datatype:
        return None
    if any(tensor.name == _SIZES for tensor in file.inputs):
        return _rtdetr(file)
    return _torchvision(file) if len(file.inputs) == 1 else None


def _head(file: ModelFile, why: str) -> tuple[tuple[Finding, ...], dict[str, str]]:
    """Return task, decoder and labels of a list, and what to ask."""
    known = (Finding("labels", file.labels, "metadata", file.labels_from),) if file.labels else ()
    rows = (Finding("task", "detect", "signature", why), Finding("decoder", "detections", "signature", why))
    return (*rows, *known), {} if known else dict(_NO_NAMES)


def _rtdetr(file: ModelFile) -> Conclusion:
    found, asks = _head(file, f"labels, boxes, scores and the input {_SIZES}")
    (height, width), _ = image_size(file)
    return Conclusion(
        family="rt-detr",
        findings=(
            *found,
            *convention("RT-DETR: stretched, RGB, /255", resize="stretch", color="RGB", mean=0, std=255),
            Finding("units", "pixels", "signature", f"{_SIZES} is the input's own size"),
            *convention("RT-DETR's", score_threshold=0.5),
        ),
        inputs={_SIZES: Input(_SIZES, shape=(1, 2))},
        constants={_SIZES: (float(width), float(height))},
        shapes={_SIZES: (1, 2)},
        outputs={name: Output(tensor) for name, tensor in zip(_LOGICAL, _LISTS, strict=True)},
        asks=asks,
        no_real_file=True,
    )


def _torchvision(file: ModelFile) -> Conclusion | None:
    shapes = [file.shape_of(next(t for t in file.outputs if t.name == name)) for name in ("boxes", "scores")]
    if len(shapes[0]) != 2 or len(shapes[1]) != 1:
        return None
    found, asks = _head(file, "boxes [n, 4], scores [n] and labels [n], as torchvision's detectors have")
    if asks:
        asks = {"labels": "the file has no names; the first is the background's (coco91 for torchvision's)"}
    return Conclusion(
        family="torchvision",
        findings=(
            *found,
            *convention(
                "torchvision: RGB, 0 to 1, resized inside", resize="stretch", color="RGB", mean=0, std=255
            ),
            Finding("units", "pixels", "signature", "torchvision's"),
            *convention("edgekit's", score_threshold=0.5),
        ),
        outputs={
            name: Output(tensor, (-1, 4) if name == _BOXES else (-1,))
            for name, tensor in zip(_LOGICAL, _LISTS, strict=True)
        },
        asks=asks,
    )


def _with_scores(file: ModelFile, boxes: FileTensor) -> Conclusion:
    found, asks = _head(file, f"labels, and {boxes.name} of four edges and a score")
    unknown = "how pixels are normalised is not in the file ((x - mean) / std of 0 to 255)"
    shape = file.shape_of(boxes)
    return Conclusion(
        family="mmdeploy",
        findings=(
            *found,
            *convention("MMDetection's test pipelines", resize="letterbox", align="top-left", color="RGB"),
            units_of([a[..., :4] for a in file.tried.get(boxes.name, ())], "pixels", "MMDeploy's"),
            *convention("edgekit's", score_threshold=0.3),
        ),
        outputs={
            "boxes": Output(boxes.name, (*shape[:-2], -1, 5)),
            "classes": Output("labels", (*shape[:-2], -1)),
        },
        asks={"mean": unknown, "std": unknown, **asks},
        no_real_file=True,
    )


def _four_lists(file: ModelFile, family: str, names: tuple[str, str, str, str]) -> Conclusion:
    found, asks = _head(file, ", ".join(names))
    count, box, score, which = names
    boxes = [array.reshape(-1, 4) for array in file.tried.get(box, ())]
    return Conclusion(
        family=family,
        findings=(
            *found,
            *convention("the YOLOs' letterbox: RGB, /255", resize="letterbox", color="RGB", mean=0, std=255),
            units_of(boxes, "pixels", "the YOLOs' exports"),
            *convention("edgekit's", score_threshold=0.25),
        ),
        outputs={
            "boxes": Output(box),
            "scores": Output(score),
            "classes": Output(which),
            "count": Output(count),
        },
        asks=asks,
        no_real_file=True,
    )
