"""Exports of LibreYOLO, whose metadata name the family: YOLO9, YOLO-NAS, YOLOX, RT-DETR, D-FINE, DEIM.

Source: what libreyolo 1.6.0 writes (metadata keys, preprocessing, output layouts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

Rows = tuple[str, tuple[Finding, ...], dict[str, Output], int]
"""Decoder, findings, outputs, classes."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a detector whose metadata have ``model_family``.

    Raises:
        BundleError: Its outputs are not those of that family.
    """
    family = str(file.metadata.get("model_family", ""))
    read = _FAMILIES.get(family)
    if read is None or "libreyolo_version" not in file.metadata or file.metadata.get("task") != "detect":
        return None
    rows = read(file)
    if rows is None:
        raise BundleError(
            f"{file.path}: its metadata say {family}, its outputs are "
            + ", ".join(str(list(file.shape_of(t))) for t in file.outputs),
            hint="export the file again: metadata and network are of different models",
        )
    decoder, found, outputs, classes = rows
    labels, asks = labels_of(file, classes) if classes > 0 else ((), {})
    why = f"{file.metadata_from}: model_family {family}"
    return Conclusion(
        family="libreyolo",
        is_stated=True,
        findings=(
            Finding("task", "detect", "metadata", why),
            Finding("decoder", decoder, "metadata", why),
            *labels,
            *found,
            *convention("edgekit's", score_threshold=0.3, iou_threshold=0.5),
        ),
        outputs=outputs,
        asks=asks,
    )


def _yolo9(file: ModelFile) -> Rows | None:
    output = _only(file)
    shape = file.shape_of(output) if output else ()
    if output is None or len(shape) != 3:
        return None
    place = "centre" if file.metadata.get("letterbox_pad") == "center" else "top-left"
    pixels = convention("LibreYOLO YOLO9", resize="letterbox", color="RGB", mean=0, std=255)
    where = Finding("align", place, "metadata", "letterbox_pad; top-left without it")
    if shape[2] == 6:
        return "detections", (*pixels, where), {"rows": Output(output.name)}, -1
    options: tuple[Finding, ...] = (
        Finding("layout", "columns", "signature", f"output {list(shape)}"),
        Finding("box", "xyxy", "metadata", "LibreYOLO's YOLO9 writes corners"),
    )
    if file.metadata.get("model_family") == "yolo9_e2e":
        options += (Finding("nms", "none", "metadata", "its head names each object once"),)
    return "yolo", (*pixels, where, *options), {"predictions": Output(output.name)}, shape[1] - 4


def _yolox(file: ModelFile) -> Rows | None:
    output = _only(file)
    if output is None or len(file.shape_of(output)) != 3:
        return None
    found = convention(
        "LibreYOLO YOLOX: BGR, 0 to 255, top left; decoded inside",
        resize="letterbox",
        align="top-left",
        color="BGR",
        mean=0,
        std=1,
        objectness=True,
    )
    return "yolo", found, {"predictions": Output(output.name)}, file.shape_of(output)[2] - 5


def _yolonas(file: ModelFile) -> Rows | None:
    # the two names are swapped in the file
    pair = {t.name: t for t in file.outputs}
    if pair.keys() != {"pred_logits", "pred_boxes"} or file.shape_of(pair["pred_logits"])[-1] != 4:
        return None
    found = convention("LibreYOLO YOLO-NAS", resize="letterbox", color="RGB", mean=0, std=255, box="xyxy")
    outputs = {"boxes": Output("pred_logits"), "scores": Output("pred_boxes")}
    return "yolo", found, outputs, file.shape_of(pair["pred_boxes"])[-1]


def _detr(file: ModelFile) -> Rows | None:
    pair = {t.name: t for t in file.outputs}
    if pair.keys() != {"pred_logits", "pred_boxes"} or file.shape_of(pair["pred_boxes"])[-1] != 4:
        return None
    found = convention(
        "LibreYOLO's DETRs: stretched, RGB, /255", resize="stretch", color="RGB", mean=0, std=255
    )
    outputs = {"logits": Output("pred_logits"), "boxes": Output("pred_boxes")}
    classes = file.shape_of(pair["pred_logits"])[-1]
    return "detr", (*found, Finding("activation", "sigmoid", "metadata", "its family")), outputs, classes


def _only(file: ModelFile) -> FileTensor | None:
    return file.outputs[0] if len(file.outputs) == 1 else None


_FAMILIES: Mapping[str, Callable[[ModelFile], Rows | None]] = {
    "yolo9": _yolo9,
    "yolo9_e2e": _yolo9,
    "yolox": _yolox,
    "yolonas": _yolonas,
    **dict.fromkeys(("rtdetr", "rtdetrv2", "dfine", "deim"), _detr),
}
