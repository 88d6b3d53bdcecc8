"""A map over a picture: classes, a matte, depth, text or defects. Which one no shape says."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.core.spec import Finding
from edgekit.importer.families.ultralytics import pixels
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_CELLS = {"matte": "segment", "depth": "depth", "heatmap": "defect", "textmap": "text"}
"""Decoder of one value for each cell: its task."""
_OUTPUT = {"textmap": "map"}
_EITHER = "a matte, depth, textmap or heatmap (a value for each cell), or ctc (a line of text)"
_ASSUMED = "most exporters' of maps: RGB, 0 to 1, stretched"


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with one picture and a map, or with the kind of map asked for."""
    if file.image() is None or len(file.inputs) != 1:
        return None
    if file.asks_for("segment"):
        return _segment(file)
    asked = next((name for name in _CELLS if file.asks_for(name)), "")
    cells = [tensor for tensor in file.outputs if _has_cells(file.shape_of(tensor))]
    if asked and cells:
        return _conclusion(file, asked, _CELLS[asked], {_OUTPUT.get(asked, asked): Output(cells[0].name)})
    classes = [tensor for tensor in cells if _is_numbered(tensor)]
    if len(file.outputs) == 1 and classes:
        return _segment(file)
    if len(file.outputs) == 1 and cells:
        return Conclusion(
            family="map", findings=(), outputs={}, asks={"decoder": _EITHER}, decoders=tuple(_CELLS)
        )
    return None


def _has_cells(shape: Sequence[int]) -> bool:
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        return min(shape[2], *(size for size in (shape[1], shape[3]) if size != 1), shape[2]) > 7
    # [1, H, W], and not a list of boxes or classes
    return len(shape) == 3 and min(shape[1:]) > 7 and 0.1 < shape[1] / shape[2] < 10


def _is_numbered(tensor: FileTensor) -> bool:
    return tensor.datatype in ("INT64", "INT32", "UINT8") and tensor.quantization is None


def _segment(file: ModelFile) -> Conclusion | None:
    for tensor in file.outputs:
        shape = file.shape_of(tensor)
        if _has_cells(shape) and _is_numbered(tensor):
            return _conclusion(file, "segment", "segment", {"classes": Output(tensor.name)})
        if len(shape) == 4 and file.asks_for("segment"):
            is_first = shape[1] < shape[3]
            turned = (shape[0], shape[2], shape[3], shape[1]) if is_first else tuple(shape)
            layout = "NHWC" if is_first == _is_planar(file) else ""
            return _conclusion(
                file,
                "segment",
                "segment",
                {"scores": Output(tensor.name, turned, layout)},  # type: ignore[arg-type]
            )
    return None


def _is_planar(file: ModelFile) -> bool:
    image = file.image()
    return image is not None and image.layout == "NCHW"


def _conclusion(file: ModelFile, decoder: str, task: str, outputs: dict[str, Output]) -> Conclusion:
    source = "flag" if file.asks_for(decoder) else "signature"
    labels = (Finding("labels", file.labels, "metadata", file.labels_from),) if file.labels else ()
    return Conclusion(
        family=decoder,
        findings=(
            Finding("task", task, source, "--decoder" if source == "flag" else "numbers for each cell"),  # type: ignore[arg-type]
            Finding("decoder", decoder, source),  # type: ignore[arg-type]
            *labels,
            *pixels("stretch", _ASSUMED),
        ),
        outputs=outputs,
        no_real_file=decoder == "heatmap",
    )
