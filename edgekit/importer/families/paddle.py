"""PaddleDetection's detectors with their suppression inside: PicoDet, PP-YOLOE, YOLOv3.

Inputs are a picture, ``scale_factor`` [1, 2] (by what the picture was scaled, in y and x: always 1 here, so
boxes are pixels of the input), and maybe ``im_shape`` [1, 2] (the input's own height and width); outputs the
rows [n, 6] (class, score, left, top, right, bottom) and their number. Neither says how many classes there
are: PicoDet's last convolutions do, which come in pairs, one for the classes and one for 4 x 8 distances.

Source: PaddleDetection's exports by paddle2onnx, and ``configs/picodet`` (stretched, RGB, ImageNet's mean and
std). PP-YOLOE and YOLOv3: no real file seen.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, labels_of
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import image_size

_SCALE, _SIZE = "scale_factor", "im_shape"
_SIDES = 32
_ROW = 6
_IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with PaddleDetection's second input and its two outputs."""
    names = {tensor.name for tensor in file.inputs}
    rows = next((t for t in file.outputs if t.shape[1:] == (_ROW,)), None)
    count = next((t for t in file.outputs if t.shape in ((1,), (-1,)) and t.datatype == "INT32"), None)
    is_known = _SCALE in names and len(names - {_SIZE}) == 2
    if file.image() is None or rows is None or count is None or not is_known:
        return None
    classes = _classes(file)
    found, asks = labels_of(file, classes) if classes else ((), {"labels": "the file has no names"})
    pixels = convention("PaddleDetection: stretched, RGB", resize="stretch", color="RGB")
    if classes:
        pixels += convention("PicoDet: ImageNet's mean and std", **_IMAGENET)
    else:
        why = "0 and 255 for PP-YOLOE+, ImageNet's for others; not in the file"
        asks = {"mean": why, "std": why, **asks}
    size = tuple(float(side) for side in image_size(file)[0])
    constants: dict[str, tuple[float, ...]] = {_SCALE: (1.0,)}
    if _SIZE in names:
        constants[_SIZE] = size
    why = f"inputs with {_SCALE}, rows of {_ROW} numbers and their count"
    return Conclusion(
        family="picodet" if classes else "paddle",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "detections", "signature", why),
            *found,
            *pixels,
            Finding("columns", ("class", "score", "left", "top", "right", "bottom"), "signature", why),
            Finding("units", "pixels", "signature", f"{_SCALE} is 1"),
            *convention("edgekit's", score_threshold=0.4),
        ),
        inputs={name: Input(name, shape=(1, 2)) for name in constants},
        constants=constants,
        shapes={t.name: (1, 2) for t in file.inputs if t.name in constants and min(t.shape, default=1) < 0},
        outputs={"rows": Output(rows.name, (-1, _ROW))},
        asks=asks,
        no_real_file=not classes,
    )


def _classes(file: ModelFile) -> int:
    """Return the number of classes by the pairs of last convolutions; 0 where there are none."""
    pairs = {
        shape[0]
        for shape, times in file.kernels.items()
        for sides in [(_SIDES, *shape[1:])]
        if shape != sides and shape[2:] == (1, 1) and file.kernels.get(sides) == times
    }
    pairs = pairs - {1} or pairs  # biases are shaped like weights of one output
    return pairs.pop() if len(pairs) == 1 else 0
