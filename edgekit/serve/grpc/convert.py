"""Messages of gRPC as requests over HTTP, and answers over HTTP as messages. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgekit.core.errors import TensorError

# How the typed contents of each datatype are packed; array's codes are C's types.
_CONTENTS = {
    "BOOL": ("bool_contents", "B"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
}
DATA_TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
    "FP32", "FP64", "STRING", "BF16",
)  # fmt: skip
"""In the order of Triton's enumeration."""


def parameters_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a map of parameters as JSON has them."""
    found = {}
    for name, value in given.items():
        chosen = value.WhichOneof("parameter_choice")
        if chosen is not None:
            found[name] = getattr(value, chosen)
    return found


def request_of(message: Any) -> tuple[bytes, int]:
    """Return a ModelInferRequest's body over HTTP, with binary tensors, and the length of its JSON.

    Raises:
        TensorError: It has both raw and typed contents, or contents of another datatype or count.
    """
    raw = list(message.raw_input_contents)
    pieces, inputs = [], []
    for tensor in message.inputs:
        parameters = parameters_of(tensor.parameters)
        if "shared_memory_region" not in parameters:
            piece = raw.pop(0) if message.raw_input_contents and raw else _packed(tensor)
            parameters["binary_data_size"] = len(piece)
            pieces.append(piece)
        row = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        inputs.append({**row, "parameters": parameters})
    if raw:
        raise TensorError(f"there are {len(raw)} raw_input_contents more than inputs")
    outputs = [{"name": each.name, "parameters": parameters_of(each.parameters)} for each in message.outputs]
    document: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "id": message.id}
    for output in outputs:
        output["parameters"].setdefault("binary_data", True)
    document["parameters"] = {**parameters_of(message.parameters), "binary_data_output": True}
    header = msgspec.json.encode(document)
    return b"".join((header, *pieces)), len(header)


def _packed(tensor: Any) -> bytes:
    """Return typed contents as bytes."""
    if tensor.datatype == "BYTES":
        texts = tensor.contents.bytes_contents
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    if tensor.datatype not in _CONTENTS:
        raise TensorError(f"input {tensor.name!r}: {tensor.datatype[:20]} is sent in raw_input_contents")
    field, code = _CONTENTS[tensor.datatype]
    try:
        return array(code, getattr(tensor.contents, field)).tobytes()
    except OverflowError as cause:
        raise TensorError(f"input {tensor.name!r}: a number does not fit {tensor.datatype}") from cause


def fill_answer(message: Any, body: bytes, header_length: int | None) -> None:
    """Fill a ModelInferResponse with an answer over HTTP, whose tensors are binary."""
    at = len(body) if header_length is None else header_length
    document = msgspec.json.decode(body[:at])
    message.model_name = document["model_name"]
    message.model_version = document.get("model_version", "")
    message.id = document.get("id", "")
    for row in document["outputs"]:
        tensor = message.outputs.add(name=row["name"], datatype=row["datatype"], shape=row["shape"])
        parameters = dict(row.get("parameters", {}))
        size = parameters.pop("binary_data_size", None)
        for name, value in parameters.items():
            _set(tensor.parameters[name], value)
        if size is None:
            message.raw_output_contents.append(b"")  # it is in shared memory
        else:
            message.raw_output_contents.append(body[at : at + size])
            at += size


def _set(parameter: Any, value: Any) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = str(value)


def config_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's document with the fields and numbers of its message."""
    typed = {name: _typed(document[name]) for name in ("input", "output")}
    steps = document.get("ensemble_scheduling", {}).get("step", [])
    numbered = [{**step, "model_version": _number_of(step["model_version"])} for step in steps]
    return {**document, **typed, **({"ensemble_scheduling": {"step": numbered}} if steps else {})}


def _number_of(version: str) -> int:
    """Return a version as the protocol counts them; -1, the newest, for one of several numbers."""
    return int(version) if version.isdecimal() and len(version) < 19 else -1


def _typed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "data_type": DATA_TYPES.index(row["data_type"].removeprefix("TYPE_"))} for row in rows]
