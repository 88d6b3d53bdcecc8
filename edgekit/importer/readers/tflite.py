"""A TFLite file's declarations, its TFLite Metadata and its appended zip, read without flatbuffers.

Sources: tensorflow/compiler/mlir/lite/schema/schema.fbs version 3; tflite-support metadata_schema.fbs 1.5.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.backends._common import unique_names
from edgekit.backends.file_fields import Table, read_scalar
from edgekit.core.spec import Quantization
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.zipped import metadata_in, read_zip

_DATATYPES: Mapping[int, str] = {
    0: "FP32",
    1: "FP16",
    2: "INT32",
    3: "UINT8",
    4: "INT64",
    5: "BYTES",
    6: "BOOL",
    7: "INT16",
    9: "INT8",
    10: "FP64",
}
_FLOATS = {0, 1, 10}
_FLOAT32, _INT8 = 0, 9
_CUSTOM = 32
# The few built-in operators that recognition looks at.
_OPERATORS = {1: "AVERAGE_POOL_2D", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 14: "LOGISTIC", 25: "SOFTMAX"}
_LABEL_FILES = (2, 3)
_NORMALIZATION = 1


def read_tflite(path: Path, data: Any) -> ModelFile:
    """Return what a TFLite file declares; ``struct.error`` or ``LookupError`` if it is no such file."""
    if bytes(data[4:8]) != b"TFL3":
        raise LookupError("no TFL3 mark")
    model = Table(data, read_scalar(data, "I", 0))
    graph = model.tables(2)[0]
    tensors = graph.tables(0)
    contents = read_zip(path)
    metadata, source = metadata_in(contents)
    stated = _tflite_metadata(model, contents)
    if not metadata and stated:
        metadata, source = stated, "TFLite Metadata"
    labels = () if "names" in metadata else _labels(contents, stated)
    return ModelFile(
        path=path,
        format="tflite",
        inputs=tuple(_tensor(tensors[index]) for index in graph.values(1, "i")),
        outputs=_unique(tuple(_tensor(tensors[index]) for index in graph.values(2, "i"))),
        metadata=metadata,
        metadata_from=source,
        operators=_operators(model, graph),
        miscomputed=_miscomputed(model, graph),
        producer=model.text(3),
        labels=labels,
        labels_from="labels in the file" if labels else "",
        parts=(path,),
    )


def _tensor(table: Table) -> FileTensor:
    shape, signature = table.values(0, "i"), table.values(7, "i")
    kind, parameters = table.scalar(1, "b"), table.table(4)
    scales: tuple[Any, ...] = parameters.values(2, "f") if parameters else ()
    quantization = None
    if parameters and len(scales) == 1 and kind not in _FLOATS:
        zero = next(iter(parameters.values(3, "q")), 0)
        quantization = Quantization(scale=float(scales[0]), zero_point=zero)
    return FileTensor(table.text(3), _DATATYPES.get(kind, "OTHER"), tuple(signature or shape), quantization)


def _unique(tensors: tuple[FileTensor, ...]) -> tuple[FileTensor, ...]:
    """Name the outputs as the litert backend does: a second one of a name gets its position."""
    names = unique_names((tensor.name for tensor in tensors), "output")
    return tuple(replace(tensor, name=name) for tensor, name in zip(tensors, names, strict=True))


def _operators(model: Table, graph: Table) -> Counter[str]:
    return Counter(name for name, _ in _calls(model, graph))


def _calls(model: Table, graph: Table) -> list[tuple[str, Table]]:
    """Return each operation of the graph, with the operator's name."""
    codes = []
    for code in model.tables(1):
        number = max(code.scalar(0, "b"), code.scalar(3, "i"))
        codes.append(code.text(1) if number == _CUSTOM else _OPERATORS.get(number, f"builtin {number}"))
    return [(codes[operator.scalar(0, "I")], operator) for operator in graph.tables(3)]


def _miscomputed(model: Table, graph: Table) -> dict[str, str]:
    """Return why LiteRT's answers would be wrong, if they would be.

    With depthwise weights of int8 on activations of float32, LiteRT reads a scale for each channel: where
    the file has one for all, it reads what lies behind, and each load may answer otherwise. Measured with
    2.3.0 on exports of Ultralytics 8.2.79 to 8.3.162; OpenVINO computes the same files rightly.
    """
    tensors, count = graph.tables(0), 0
    for name, operator in _calls(model, graph):
        if name != "DEPTHWISE_CONV_2D":
            continue
        given, weights = (tensors[index] for index in operator.values(1, "i")[:2])
        kinds = (given.scalar(1, "b"), weights.scalar(1, "b"))
        parameters, shape = weights.table(4), weights.values(0, "i")
        has_one = parameters is not None and len(parameters.values(2, "f")) == 1
        count += kinds == (_FLOAT32, _INT8) and has_one and shape[-1] > 1
    if not count:
        return {}
    return {
        "litert": f"LiteRT computes int8 depthwise weights with one scale wrongly ({count} layers have such)"
    }


def _tflite_metadata(model: Table, contents: Mapping[str, str]) -> dict[str, Any]:
    """Return ``name``, ``mean`` and ``std`` of the first input, and ``label_file``, as far as stated."""
    buffer = next((row.scalar(1, "I") for row in model.tables(6) if row.text(0) == "TFLITE_METADATA"), None)
    if buffer is None:
        return {}
    held = bytes(model.tables(4)[buffer].values(0, "B"))
    if held[4:8] != b"M001":
        return {}
    root = Table(held, read_scalar(held, "I", 0))
    stated: dict[str, Any] = {"name": root.text(0), "description": root.text(1)}
    for graph in root.tables(3)[:1]:
        for tensor in graph.tables(2)[:1]:
            for unit in tensor.tables(4):
                options = unit.table(1)
                if unit.scalar(0, "B") == _NORMALIZATION and options is not None:
                    stated |= {"mean": options.values(0, "f"), "std": options.values(1, "f")}
        for tensor in graph.tables(3):
            for file in tensor.tables(6):
                if file.scalar(2, "b") in _LABEL_FILES and file.text(0) in contents:
                    stated.setdefault("label_file", file.text(0))
    return {key: value for key, value in stated.items() if value}


def _labels(contents: Mapping[str, str], stated: Mapping[str, Any]) -> tuple[str, ...]:
    name = stated.get("label_file") or next((n for n in contents if n.endswith(".txt") and "label" in n), "")
    return tuple(contents[name].splitlines()) if name else ()
