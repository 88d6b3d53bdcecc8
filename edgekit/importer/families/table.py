"""Models of tables: classifiers, regressors and outlier detectors of scikit-learn, LightGBM and XGBoost.

Source: what skl2onnx 1.20.0 and onnxmltools 1.16.0 write (operators of ``ai.onnx.ml``, output names, ZipMap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_OPERATORS = frozenset(
    {
        *("LinearClassifier", "LinearRegressor", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
        *("TreeEnsemble", "SVMClassifier", "SVMRegressor", "ZipMap", "OneHotEncoder", "Imputer", "Scaler"),
        *("ArrayFeatureExtractor", "LabelEncoder", "Normalizer", "FeatureVectorizer", "Binarizer"),
    }
)
"""Operators of ``ai.onnx.ml``: only exporters of classical models write them."""
_LABELS = ("INT64", "BYTES")


@dataclass(frozen=True)
class _Head:
    """The task, its findings, and the logical output of a model's outputs."""

    task: str
    findings: Sequence[Finding]
    outputs: dict[str, Output]


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for an ONNX file with operators of ``ai.onnx.ml`` and inputs of rows."""
    used = sorted(_OPERATORS & file.operators.keys())
    is_asked = file.asks_for("table", "tabular", "regress", "outlier") and "window" not in file.flags
    if not (used or is_asked) or not all(1 <= len(tensor.shape) <= 2 for tensor in file.inputs):
        return None
    head = _head(file)
    if head is None:
        return None
    columns, source, why = _columns(file)
    return Conclusion(
        family="table",
        findings=(
            Finding("task", head.task, "signature", f"operators {', '.join(used)}" if used else "its shapes"),
            *head.findings,
            Finding("resize", "none", "signature", "rows of a table"),
            Finding("columns", columns, source, why),  # type: ignore[arg-type]
        ),
        inputs={tensor.name: Input(tensor.name, shape=_row(tensor)) for tensor in file.inputs},
        outputs=head.outputs,
    )


def _row(tensor: FileTensor) -> tuple[int, ...]:
    return (1, max(1, tensor.shape[1])) if len(tensor.shape) == 2 else (1,)


def _columns(file: ModelFile) -> tuple[list[dict[str, Any]], str, str]:
    """Return the columns, and where their names come from: the inputs, or the user's ``header``.

    Raises:
        BundleError: The user's header has another number of names.
    """
    places = [(tensor.name, index) for tensor in file.inputs for index in range(_row(tensor)[-1])]
    header = file.flags.get("header")
    if header is not None:
        names = header.split(",") if isinstance(header, str) else [str(name) for name in header]
        if len(names) != len(places):
            raise BundleError(f"header: {len(names)} names, the model has {len(places)} columns")
        source, why = "flag", "header"
    elif all(_row(tensor)[-1] == 1 for tensor in file.inputs):
        names, source, why = [name for name, _ in places], "signature", "one input for each column"
    else:
        names = [f"x{number}" for number in range(len(places))]
        source, why = "assumed", "the file does not name its columns: header=[...] does"
    rows = [
        {"name": name.strip(), "input": tensor, "index": index}
        for name, (tensor, index) in zip(names, places, strict=True)
    ]
    return rows, source, why


def _head(file: ModelFile) -> _Head | None:
    labels = [tensor for tensor in file.outputs if tensor.datatype in _LABELS]
    reals = [tensor for tensor in file.outputs if tensor.datatype in ("FP32", "FP64", "SEQUENCE")]
    if len(reals) != 1 or len(labels) > 1:
        return None
    (output,) = reals
    if not labels:
        return _regression(output)
    if output.datatype != "SEQUENCE" and output.shape[-1:] == (1,):
        return _outliers(output)
    return _classes(file, output)


def _classes(file: ModelFile, output: FileTensor) -> _Head:
    count = len(file.classes) or (output.shape[-1] if len(output.shape) == 2 else -1)
    found = (
        Finding("decoder", "classify", "signature", f"a label, and {output.name!r} for each class"),
        *([Finding("labels", file.classes, "metadata", "the classes in its graph")] if file.classes else []),
        Finding("score_threshold", 0.0, "assumed", "each class is reported, the best first"),
        Finding("top_k", max(count, 5), "assumed", "each class is reported"),
    )
    return _Head("tabular", found, {"scores": Output(output.name, (1, count))})


def _outliers(output: FileTensor) -> _Head:
    found = (
        Finding("decoder", "outlier", "signature", f"a label, and one number {output.name!r}"),
        Finding("threshold", 0.0, "assumed", "scikit-learn's decision_function"),
        Finding("is_low", True, "assumed", "scikit-learn: outliers are below 0"),
    )
    return _Head("anomaly", found, {"score": Output(output.name, (1, 1))})


def _regression(output: FileTensor) -> _Head:
    targets = output.shape[-1] if len(output.shape) == 2 else 1
    found = (Finding("decoder", "regress", "signature", f"numbers {output.name!r} and no label"),)
    return _Head("regress", found, {"values": Output(output.name, (1, targets))})
