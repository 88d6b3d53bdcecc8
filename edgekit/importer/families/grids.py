"""Raw grids of YOLOs with anchors (v3, v4, v5, v7, YOLO-Fastest), and FastestDet's only grid without.

Each output is one stride's grid with three anchors a cell. How sizes are computed and the anchors themselves
are in no file. FastestDet's is known by its softmax of classes.

Source: these repositories' exports before their own decoding. No real file seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

_ANCHORS, _LEAST = 3, 6
_STRIDES = (8, 16, 32, 64)
_FASTEST_STRIDE, _SUM = 16, 0.05
_ASKS = {
    "formula": "v5 for YOLOv5 and v7, v3 for YOLOv3, v4 and YOLO-Fastest",
    "anchors": "for each stride, the smallest first, width and height in pixels by turns; for COCO's YOLOv3 "
    "and v5 [[10,13,16,30,33,23],[30,61,62,45,59,119],[116,90,156,198,373,326]]",
}


class _Grid(NamedTuple):
    tensor: FileTensor
    stride: int
    layout: str
    width: int


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose outputs are such grids of different strides."""
    if file.image() is None or len(file.inputs) != 1 or "task" in file.metadata:
        return None
    if len(file.outputs) == 1:
        return _fastestdet(file, file.outputs[0])
    grids = [grid for tensor in file.outputs if (grid := _grid(file, tensor)) is not None]
    grids.sort(key=lambda grid: grid.stride)
    strides, alike = tuple(grid.stride for grid in grids), {grid[2:] for grid in grids}
    if len(grids) != len(file.outputs) or len(set(strides)) != len(grids) or len(alike) != 1:
        return None
    classes = grids[0].width - 5
    found, asks = labels_of(file, classes)
    answers = [array for grid in grids for array in file.tried.get(grid.tensor.name, ())]
    is_logit = not answers or any(float(array.min(initial=0)) < 0 for array in answers)
    why = f"grids of strides {', '.join(map(str, strides))}, three anchors a cell, {classes} classes"
    return Conclusion(
        family="yolo-grid",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo-grid", "signature", why),
            *found,
            *convention("the YOLOs' letterbox: RGB, /255", resize="letterbox", color="RGB", mean=0, std=255),
            Finding("strides", strides, "signature", why),
            Finding("layout", grids[0].layout, "signature", why),
            Finding(
                "activation",
                "sigmoid" if is_logit else "none",
                "tried" if answers else "assumed",
                "values below 0 are logits",
            ),
            *convention("YOLOv5's detect", score_threshold=0.25, iou_threshold=0.45),
        ),
        outputs={f"grid{number}": Output(grid.tensor.name) for number, grid in enumerate(grids)},
        asks={**_ASKS, **asks},
        no_real_file=True,
    )


def _grid(file: ModelFile, tensor: FileTensor) -> _Grid | None:
    shape = file.shape_of(tensor)
    (height, width), _ = image_size(file)
    options: tuple[tuple[str, int, int, int], ...]
    if len(shape) == 5 and shape[1] == _ANCHORS:
        options = (("split", shape[2], shape[3], shape[4] * _ANCHORS),)
    elif len(shape) == 4:
        options = (("NCHW", shape[2], shape[3], shape[1]), ("NHWC", shape[1], shape[2], shape[3]))
    else:
        return None
    for layout, high, wide, channels in options:
        stride = next((s for s in _STRIDES if (high * s, wide * s) == (height, width)), 0)
        if stride and not channels % _ANCHORS and channels // _ANCHORS >= _LEAST:
            return _Grid(tensor, stride, layout, channels // _ANCHORS)
    return None


def _fastestdet(file: ModelFile, output: FileTensor) -> Conclusion | None:
    """Return the conclusion for objectness, a box and a softmax of classes in each cell of 16 pixels."""
    shape, answers = file.shape_of(output), file.tried.get(output.name, ())
    (height, width), _ = image_size(file)
    grid = (height // _FASTEST_STRIDE, width // _FASTEST_STRIDE)
    if len(shape) != 4 or shape[2:] != grid or shape[1] < _LEAST or not answers:
        return None
    if any(np.abs(array[:, 5:].sum(axis=1) - 1).max() > _SUM for array in answers):
        return None
    found, asks = labels_of(file, shape[1] - 5)
    why = f"output {list(shape)}: objectness, box and a softmax of {shape[1] - 5} classes in each cell"
    return Conclusion(
        family="fastestdet",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo-grid", "tried", why),
            *found,
            *convention("FastestDet: BGR, /255, stretched", resize="stretch", color="BGR", mean=0, std=255),
            Finding("head", "fastestdet", "tried", why),
            Finding("strides", (_FASTEST_STRIDE,), "signature", why),
            *convention("FastestDet's demo", score_threshold=0.65, iou_threshold=0.45),
        ),
        outputs={"grid0": Output(output.name)},
        asks=asks,
        no_real_file=True,
    )
