"""Exports of Ultralytics that carry its metadata: ONNX, TFLite and OpenVINO; task, head and names are stated.

Source: what ultralytics 8.4.190 writes (metadata keys, preprocessing and output layouts by task and head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import units_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.literals import names_of

_LETTERBOX = "Ultralytics' letterbox: centred, grey 114, RGB, /255"
_CROP = "Ultralytics' classify: centre crop, RGB, /255, no ImageNet mean"


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose metadata name a task of Ultralytics.

    Raises:
        BundleError: Names and shapes contradict each other.
    """
    meta = file.metadata
    names = names_of(meta.get("names"))
    if "task" not in meta or "stride" not in meta or not names:
        return None
    concluded = _TASKS.get(str(meta["task"]))
    return concluded(file, names) if concluded else None


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
        ),
        outputs={"scores": Output(output.name, (1, len(names)))},
    )


def _detect(file: ModelFile, names: tuple[str, ...]) -> Conclusion | None:
    if file.metadata.get("head") == "RTDETRDecoder" or len(file.outputs) != 1:
        return None
    output = file.outputs[0]
    turned = columns_of(file.shape_of(output), 4 + len(names))
    if turned is None:
        raise _contradiction(file, names, output)
    axis = 1 if turned == "columns" else 2
    boxes = [array.take(range(4), axis) for array in file.tried.get(output.name, ())]
    convention = "shares" if file.format == "tflite" else "pixels"
    return Conclusion(
        family="ultralytics",
        is_stated=True,
        findings=(
            *_stated(file, "detect", "yolo", names),
            *pixels("letterbox", _LETTERBOX),
            Finding("layout", turned, "signature", f"output {list(file.shape_of(output))}"),
            Finding("box", "cxcywh", "assumed", "Ultralytics' head without end-to-end rows"),
            units_of(boxes, convention, f"Ultralytics' {file.format} export"),
            Finding("score_threshold", 0.25, "assumed", "Ultralytics' predict"),
            Finding("iou_threshold", 0.45, "assumed", "edgekit's"),
        ),
        outputs={"predictions": Output(output.name)},
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


def _contradiction(file: ModelFile, names: tuple[str, ...], output: FileTensor) -> BundleError:
    return BundleError(
        f"{file.path}: its metadata say {file.metadata['task']} with {len(names)} classes, "
        f"its output {output.name!r} has shape {list(file.shape_of(output))}",
        hint="export the file again: metadata and network are of different models",
    )


_TASKS: Mapping[str, Callable[[ModelFile, tuple[str, ...]], Conclusion | None]] = {
    "classify": _classify,
    "detect": _detect,
}
