"""One vector for a picture: a classifier's scores, or an embedding. Which of the two no shape says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_EITHER = (
    "[1, N] may be a classifier's scores or an embedding: classify or embed; a picture of sound: front_end="
)


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with one picture and one vector, or with the output asked for."""
    if file.image() is None or len(file.inputs) != 1 or {"window", "front_end"} & file.flags.keys():
        return None
    if file.asks_for("classify") and (heads := _heads(file)) is not None:
        return heads
    output = _vector(file)
    if output is None:
        return None
    if file.asks_for("embed"):
        head = _embedding(file, output)
    elif file.asks_for("classify"):
        head = _classifier(file, output)
    elif len(file.outputs) == 1:
        head = Conclusion(
            family="vector",
            findings=(),
            outputs={},
            asks={"decoder": _EITHER},
            decoders=("classify", "embed"),
        )
    else:
        return None
    return head


def _vector(file: ModelFile) -> FileTensor | None:
    """Return the only output with a vector for each picture, or the only one with a score for each label."""
    vectors = [tensor for tensor in file.outputs if _length(file, tensor) > 1]
    labels = file.flags.get("labels", file.labels)
    if file.asks_for("classify") and labels:
        vectors = [tensor for tensor in vectors if _length(file, tensor) == len(labels)] or vectors
    return vectors[0] if len(vectors) == 1 else None


def _heads(file: ModelFile) -> Conclusion | None:
    """Return a classifier of several heads, or None where one output is meant."""
    vectors = [tensor for tensor in file.outputs if _length(file, tensor) > 1]
    labels = file.flags.get("labels", file.labels)
    stated = file.flags.get("heads")
    if stated is None and (len(vectors) < 2 or any(_length(file, t) == len(labels) for t in vectors)):
        return None
    lengths = ", ".join(f"{tensor.name} of {_length(file, tensor)}" for tensor in vectors)
    names = [str(row.get("output", "")) for row in stated or () if isinstance(row, Mapping)]
    outputs = {t.name: Output(t.name, (1, _length(file, t))) for t in vectors if not names or t.name in names}
    why = f'classes of {lengths}: heads=[{{"output": NAME, "labels": [...]}}, ...], or --labels of one'
    return Conclusion(
        family="classify",
        findings=(
            Finding("task", "classify", "flag", "--decoder"),
            Finding("decoder", "classify", "flag"),
            *_picture(),
            *([activation_of(file, vectors[0])] if vectors else []),
        ),
        outputs=outputs,
        asks={**_normalisation(file), "heads": why},
    )


def _length(file: ModelFile, tensor: FileTensor) -> int:
    shape, image = file.shape_of(tensor), file.image()
    batch = image.tensor.shape[0] if image is not None and len(image.tensor.shape) == 4 else 1
    if shape[:1] not in ((1,), (batch,)) and file.tried:  # a list of so many rows
        return 0
    inner = [size for size in shape[1:] if size != 1]
    return inner[0] if len(shape) in (2, 4) and len(inner) == 1 else 0


def _normalisation(file: ModelFile) -> dict[str, str]:
    (tensor,) = file.inputs
    if tensor.datatype == "UINT8" and tensor.quantization is None:  # such a file normalises inside
        return {}
    why = "how pixels are normalised is not in the file ((x - mean) / std of 0 to 255)"
    return {"mean": why, "std": why}


def _picture() -> tuple[Finding, ...]:
    return (
        Finding("resize", "stretch", "assumed", "nothing in the file says it"),
        Finding("color", "RGB", "assumed", "nothing in the file says it"),
    )


def _embedding(file: ModelFile, output: FileTensor) -> Conclusion:
    return Conclusion(
        family="embed",
        findings=(
            Finding("task", "embed", "flag", "--decoder"),
            Finding("decoder", "embed", "flag"),
            *_picture(),
        ),
        outputs={"embedding": Output(output.name, (1, _length(file, output)))},
        asks=_normalisation(file),
    )


def _classifier(file: ModelFile, output: FileTensor) -> Conclusion:
    count = _length(file, output)
    asks = _normalisation(file)
    if not file.labels:
        asks["labels"] = f"{count} classes, and the file has no names"
    labels = (Finding("labels", file.labels, "metadata", file.labels_from),) if file.labels else ()
    return Conclusion(
        family="classify",
        findings=(
            Finding("task", "classify", "flag", "--decoder"),
            Finding("decoder", "classify", "flag"),
            *labels,
            *_picture(),
            activation_of(file, output),
        ),
        outputs={"scores": Output(output.name, (1, count))},
        asks=asks,
    )


def activation_of(file: ModelFile, output: FileTensor) -> Finding:
    """Return whether scores are probabilities, by their values: such are at least 0 and sum to 1.

    Whether logits are of one class or of several no value says.
    """
    rows = [array.reshape(-1) for array in file.tried.get(output.name, ())]
    if not rows:
        return Finding("activation", "softmax", "assumed", "most exporters write logits")
    if all(row.min() >= -0.01 and abs(float(row.sum()) - 1) < 0.05 for row in rows):
        return Finding("activation", "none", "tried", "the scores of a picture sum to 1")
    if all(row.min() >= 0 and row.max() <= 1 for row in rows):
        return Finding("activation", "none", "tried", "each score is between 0 and 1")
    seen = f"logits from {np.min(rows):.3g} to {np.max(rows):.3g}; sigmoid where each class holds by itself"
    return Finding("activation", "softmax", "assumed", seen)
