"""Heat maps of centres with sizes beside them: CenterNet and CenterFace.

CenterFace has one class, and landmarks of ten numbers a cell.

Source: CenterFace's published model and decoding (RGB, 0 to 255, stretched); CenterNet: no real file seen.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

_STRIDE, _LANDMARKS = 4, 10
_FACE = convention("CenterFace: RGB, 0 to 255, stretched", resize="stretch", color="RGB", mean=0, std=1)
_FACE_OPTIONS = convention(
    "CenterFace's decoding",
    size="log",
    order="yx",
    shift=0.5,
    peaks=False,
    score_threshold=0.5,
    iou_threshold=0.3,
)


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with a heat map, sizes and offsets on cells of four pixels."""
    if file.image() is None or len(file.outputs) not in (3, 4):
        return None
    (height, width), _ = image_size(file)
    grid = (height // _STRIDE, width // _STRIDE)
    shapes = {t.name: file.shape_of(t) for t in file.outputs}
    if any(len(shape) != 4 or shape[2:] != grid for shape in shapes.values()):
        return None
    pairs = [t for t in file.outputs if shapes[t.name][1] == 2]
    points = [t for t in file.outputs if shapes[t.name][1] == _LANDMARKS]
    heat = [t for t in file.outputs if t not in pairs and t not in points]
    is_face = len(pairs) == 2 and len(points) == len(heat) == 1 and shapes[heat[0].name][1] == 1
    if is_face:
        return _face(file, heat[0], pairs, points[0])
    if len(file.outputs) == 3 and len(pairs) == 2:
        rest = next(t for t in file.outputs if t not in pairs)
        return _net(file, rest, pairs, shapes[rest.name][1])
    return None


def _face(file: ModelFile, heat: FileTensor, pairs: list[FileTensor], points: FileTensor) -> Conclusion:
    why = "a heat map of one class, two pairs and five landmarks on cells of 4 pixels"
    sizes, offsets = pairs  # CenterFace writes them in this order
    return Conclusion(
        family="centerface",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "centre", "signature", why),
            Finding(
                "labels", file.labels or ("face",), "metadata" if file.labels else "assumed", "CenterFace"
            ),
            *_FACE,
            Finding("stride", _STRIDE, "signature", why),
            Finding("landmarks", _LANDMARKS // 2, "signature", why),
            *_FACE_OPTIONS,
        ),
        outputs={
            "heatmap": Output(heat.name),
            "size": Output(sizes.name),
            "offset": Output(offsets.name),
            "landmarks": Output(points.name),
        },
    )


def _net(file: ModelFile, heat: FileTensor, pairs: list[FileTensor], classes: int) -> Conclusion | None:
    by_name = {t.name.lower(): t for t in pairs}
    sizes = next((t for name, t in by_name.items() if "wh" in name or "size" in name), pairs[0])
    offsets = next(t for t in pairs if t is not sizes)
    found, asks = labels_of(file, classes)
    answers = file.tried.get(heat.name, ())
    is_logit = any(float(array.min(initial=0)) < 0 for array in answers)
    why = f"a heat map of {classes} classes and two pairs on cells of {_STRIDE} pixels"
    unknown = "how pixels are normalised is not in the file"
    return Conclusion(
        family="centernet",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "centre", "signature", why),
            *found,
            *convention("CenterNet: BGR, letterbox with black", resize="letterbox", pad=0, color="BGR"),
            Finding("stride", _STRIDE, "signature", why),
            Finding(
                "activation",
                "sigmoid" if is_logit else "none",
                "tried" if answers else "assumed",
                "values below 0 are logits",
            ),
            *convention("CenterNet's demo", score_threshold=0.3, nms="none"),
        ),
        outputs={
            "heatmap": Output(heat.name),
            "size": Output(sizes.name),
            "offset": Output(offsets.name),
        },
        asks={"mean": unknown, "std": unknown, **asks},
        no_real_file=True,
    )
