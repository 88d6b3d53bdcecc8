"""An ONNX file's declarations and metadata, read from its protobuf without ``onnx``.

Source: onnx.proto3 of ONNX 1.17, field numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.backends.file_fields import fields, integers, texts
from edgekit.core.errors import BundleError
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.literals import literals

_GRAPH, _PRODUCER, _PRODUCER_VERSION, _PROPERTY = 7, 2, 3, 14
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _OP = 1, 5, 11, 12, 4
_TENSOR_DIMS, _TENSOR_NAME, _EXTERNAL = 1, 8, 13
_ATTRIBUTE, _INTS, _STRINGS = 5, 8, 9
_KERNEL_AXES = 4
_DATATYPES: Mapping[int, str] = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}


def read_onnx(path: Path, data: Any) -> ModelFile:
    """Return what an ONNX file declares.

    Raises:
        BundleError: A file with external weights is missing.
        LookupError: The bytes are no such file.
    """
    model = list(fields(memoryview(data)))
    bodies = _bodies(model, _GRAPH)
    if not bodies or not isinstance(bodies[0], memoryview):
        raise LookupError("no graph")
    graph = list(fields(bodies[0]))
    operators: Counter[str] = Counter()
    kernels: Counter[tuple[int, ...]] = Counter()
    constants, external = set(), set()
    classes: tuple[str, ...] = ()
    for number, body in graph:
        if number == _NODE:
            operators.update(texts(fields(body), _OP))
            classes = _classes(body) or classes
        elif number == _INITIALIZER:
            parts = list(fields(body))
            constants |= set(texts(parts, _TENSOR_NAME))
            kernels[integers(parts, _TENSOR_DIMS)] += 1
            external |= {value for key, value in map(_pair, _bodies(parts, _EXTERNAL)) if key == "location"}
    texts_of_model = dict(map(_pair, _bodies(model, _PROPERTY)))
    return ModelFile(
        path=path,
        format="onnx",
        inputs=tuple(t for t in map(_tensor, _bodies(graph, _INPUT)) if t.name not in constants),
        outputs=tuple(map(_tensor, _bodies(graph, _OUTPUT))),
        metadata=literals(texts_of_model),
        metadata_from="metadata_props" if texts_of_model else "",
        operators=operators,
        kernels={shape: count for shape, count in kernels.items() if len(shape) == _KERNEL_AXES},
        classes=classes,
        producer=" ".join((*texts(model, _PRODUCER), *texts(model, _PRODUCER_VERSION))),
        parts=(path, *(_weights(path, name) for name in sorted(external))),
    )


def _classes(node: Any) -> tuple[str, ...]:
    """Return the class labels of a node of ``ai.onnx.ml`` (texts or integers)."""
    for attribute in _bodies(fields(node), _ATTRIBUTE):
        parts = list(fields(attribute))
        if next(iter(texts(parts, 1)), "").startswith("classlabels_"):
            numbers = [str(value) for value in _bodies(parts, _INTS) if isinstance(value, int)]
            return tuple(texts(parts, _STRINGS)) or tuple(numbers)
    return ()


def _bodies(parts: Any, which: int) -> list[Any]:
    return [body for number, body in parts if number == which]


def _pair(entry: Any) -> tuple[str, str]:
    parts = list(fields(entry))
    return next(iter(texts(parts, 1)), ""), next(iter(texts(parts, 2)), "")


def _weights(path: Path, location: str) -> Path:
    weights = path.parent / location
    if Path(location).name != location or not weights.is_file():
        raise BundleError(
            f"{path}: its weights are in another file, {location!r}, which is not beside it",
            hint="copy that file into the same folder, or export the model into one file",
        )
    return weights


def _tensor(info: Any) -> FileTensor:
    parts = list(fields(info))
    name, kind = texts(parts, 1)[0], list(fields(_bodies(parts, 2)[0]))
    tensor = _bodies(kind, 1)
    if not tensor:
        return FileTensor(name, "SEQUENCE")
    inner = list(fields(tensor[0]))
    shape, symbols = [], []
    for dims in _bodies(inner, 2):
        for dim in _bodies(fields(dims), 1):
            sides = list(fields(dim))
            size = next(iter(_bodies(sides, 1)), 0)
            shape.append(size if 0 < size < 1 << 40 else -1)
            symbols.append(next(iter(texts(sides, 2)), ""))
    datatype = _DATATYPES.get(next(iter(_bodies(inner, 1)), 0), "OTHER")
    return FileTensor(name, datatype, tuple(shape), symbols=tuple(symbols))
