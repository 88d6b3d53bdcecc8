"""What the input itself says, whatever the family: grey, normalised by its quantisation, of a free size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from edgekit.core.spec import Finding
from edgekit.importer.findings import Conclusion
from edgekit.importer.model_file import FileTensor, Image, ModelFile
from edgekit.importer.trial import image_size

_ONE_SIZE = frozenset({"classify", "embed", "ctc", "matte", "depth", "heatmap", "landmarks"})
"""Decoders of models that see nothing at another size than they were trained at; detectors take many."""
_STEP = 0.02


def with_input(conclusion: Conclusion, file: ModelFile) -> Conclusion:
    """Return a conclusion with what its image input says in place of assumptions, and the size asked for."""
    image = file.image()
    if image is None or not conclusion.takes_image or not conclusion.findings:
        return conclusion
    stated = _grey(image) | _metadata(file) | _quantised(image.tensor, conclusion)
    stated = {key: row for key, row in stated.items() if _may_replace(conclusion, key, row)}
    findings = [stated.pop(row.key, row) for row in conclusion.findings]
    asks = {key: why for key, why in conclusion.asks.items() if key not in stated}
    if conclusion.value("decoder") in _ONE_SIZE and image_size(file)[1] == "assumed":
        asks["size"] = "height and width of its input, which the file leaves free"
    return replace(conclusion, findings=(*findings, *stated.values()), asks=asks)


def _may_replace(conclusion: Conclusion, key: str, row: Finding) -> bool:
    """Return whether a key was only assumed, or not said at all; an input's channels overrule all."""
    held = next((f for f in conclusion.findings if f.key == key), None)
    return held is None or held.source == "assumed" or row.key == "color"


def _grey(image: Image) -> dict[str, Finding]:
    if image.channels != 1:
        return {}
    return {"color": Finding("color", "GRAY", "signature", "its input has one channel")}


def _metadata(file: ModelFile) -> dict[str, Finding]:
    """Return mean and std of TFLite Metadata, which are those of pixels from 0 to 255."""
    if file.metadata_from != "TFLite Metadata":
        return {}
    rows: dict[str, Any] = {key: file.metadata[key] for key in ("mean", "std") if file.metadata.get(key)}
    if len(rows) < 2 or not all(math.isfinite(v) for values in rows.values() for v in values):
        return {}
    return {key: Finding(key, list(values), "metadata", file.metadata_from) for key, values in rows.items()}


def _quantised(tensor: FileTensor, conclusion: Conclusion) -> dict[str, Finding]:
    """Return mean and std of an input whose integers are the pixels themselves, or less 128.

    Its scale then says what the network takes: 0 to 1, or -1 to 1.
    """
    held = tensor.quantization
    if held is None or conclusion.value("mean") is not None or tensor.datatype not in ("UINT8", "INT8"):
        return {}
    zero = held.zero_point + (128 if tensor.datatype == "INT8" else 0)
    is_unit = _is_near(held.scale, 1 / 255) and zero == 0
    is_signed = _is_near(held.scale, 1 / 127.5) and zero in (127, 128)
    if not is_unit and not is_signed:
        return {}
    mean, std = (0.0, 255.0) if is_unit else (127.5, 127.5)
    why = f"its integers are the pixels: scale {held.scale:.6g}, zero point {held.zero_point}"
    return {
        "mean": Finding("mean", mean, "signature", why),
        "std": Finding("std", std, "signature", why),
    }


def _is_near(scale: float, wanted: float) -> bool:
    return abs(scale - wanted) <= _STEP * wanted
