"""One inference request and its answer in the Open Inference Protocol v2 over HTTP.

Pure: bytes to arrays and back. Every field of a request is checked before it is used.

Source: kserve/open-inference-protocol, inference_rest.md; Triton's protocol/extension_binary_data.md,
extension_schedule_policy.md and extension_parameters.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from edgekit.base.dtypes import DTYPES, TEXT
from edgekit.core.errors import TensorError
from edgekit.core.spec import TensorSpec
from edgekit.serve.tensors import checked_shape, datatype_of, from_binary, from_json, to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dimension = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end", "priority")
_UNSUPPORTED_OF_TENSORS = ("shared_memory_region", "classification")


class TensorIn(msgspec.Struct, frozen=True):
    """An input of a request; ``data`` is JSON text, parsed later."""

    name: str
    shape: list[Dimension]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class TensorOut(msgspec.Struct, frozen=True):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class Envelope(msgspec.Struct, frozen=True):
    """The JSON of a request."""

    inputs: list[TensorIn]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[TensorOut] = []


_ENVELOPE = msgspec.json.Decoder(Envelope)


@dataclass(frozen=True)
class InferRequest:
    """A request with parsed JSON, but not yet parsed tensors.

    ``tail`` is the binary data after the JSON. ``timeout_us`` 0 means no deadline.
    """

    envelope: Envelope
    tail: memoryview
    timeout_us: int = 0
    is_binary_by_default: bool = False


def parse_request(body: bytes, header_length: int | None, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Return a request with its JSON parsed.

    Args:
        body: The whole body.
        header_length: ``Inference-Header-Content-Length``: how many bytes of the body are JSON; None
            means all; 0 means none, the body is the one input's bytes.
        inputs: The model's.

    Raises:
        TensorError: It violates the protocol, or asks for an unsupported feature.
    """
    if header_length == 0:
        return _raw_request(body, inputs)
    if header_length is not None and not 0 < header_length <= len(body):
        raise TensorError(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes"
        )
    view = memoryview(body)
    end = len(body) if header_length is None else header_length
    try:
        envelope = _ENVELOPE.decode(view[:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise TensorError(f"the request is not an inference request: {cause}") from cause
    _check(envelope)
    return InferRequest(
        envelope,
        view[end:],
        _whole_number(envelope.parameters, "timeout"),
        _truth(envelope.parameters, "binary_data_output"),
    )


def _raw_request(body: bytes, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Return the request of a body that is one tensor's bytes."""
    if len(inputs) != 1:
        raise TensorError(f"a raw binary request needs a model of one input, this one has {len(inputs)}")
    spec = inputs[0]
    if spec.datatype == "BYTES":
        raise TensorError(f"input {spec.name!r}: texts are sent as JSON, not as binary data")
    known = DTYPES[spec.datatype].itemsize * math.prod(length for length in spec.shape if length > 0)
    free = spec.shape.count(-1)
    if free > 1:
        raise TensorError(f"a raw binary request leaves the {free} free dimensions of {spec.name!r} open")
    if free and (not body or len(body) % known):
        raise TensorError(f"input {spec.name!r}: want a multiple of {known} bytes, got {len(body)}")
    shape = [len(body) // known if length == -1 else length for length in spec.shape]
    only = TensorIn(spec.name, shape, spec.datatype, {"binary_data_size": len(body)})
    return InferRequest(Envelope([only]), memoryview(body), is_binary_by_default=True)


def _check(envelope: Envelope) -> None:
    names = [tensor.name for tensor in envelope.inputs]
    outputs = [tensor.name for tensor in envelope.outputs]
    for what, given in (("input", names), ("output", outputs)):
        if len(set(given)) != len(given):
            raise TensorError(f"an {what} appears twice in the request")
    for key in _UNSUPPORTED:
        if envelope.parameters.get(key):
            raise TensorError(f"parameter {key!r} is not supported")
    tensors: list[TensorIn | TensorOut] = [*envelope.inputs, *envelope.outputs]
    for tensor in tensors:
        for key in _UNSUPPORTED_OF_TENSORS:
            if tensor.parameters.get(key):
                raise TensorError(f"tensor {tensor.name!r}: parameter {key!r} is not supported")


def feeds_of(
    request: InferRequest, inputs: Sequence[TensorSpec], optional: frozenset[str] = frozenset()
) -> dict[str, NDArray[Any]]:
    """Return a request's tensors by name, each checked against the model's input.

    Raises:
        TensorError: A tensor is missing, unknown, or of another datatype, shape or length; or there is
            binary data after the last tensor.
    """
    specs = {spec.name: spec for spec in inputs}
    given = {tensor.name for tensor in request.envelope.inputs}
    if given != specs.keys() and (given - specs.keys() or specs.keys() - given - optional):
        missing, unknown = sorted(specs.keys() - given - optional), sorted(given - specs.keys())
        raise TensorError(f"the model has inputs {sorted(specs)}: missing {missing}, unknown {unknown[:8]}")
    feeds, at = {}, 0
    for tensor in request.envelope.inputs:
        spec = specs[tensor.name]
        shape = checked_shape(spec, tensor.datatype, tensor.shape)
        if "binary_data_size" not in tensor.parameters:
            feeds[tensor.name] = from_json(spec, shape, tensor.data or b"null")
            continue
        size = _whole_number(tensor.parameters, "binary_data_size")
        if tensor.data:
            raise TensorError(f"input {tensor.name!r} has both data and binary_data_size")
        if size > len(request.tail) - at:
            raise TensorError(
                f"input {tensor.name!r}: binary_data_size is {size}, {len(request.tail) - at} bytes are left"
            )
        feeds[tensor.name] = from_binary(spec, shape, request.tail[at : at + size])
        at += size
    if at != len(request.tail):
        raise TensorError(f"{len(request.tail) - at} bytes follow the last tensor")
    return feeds


@dataclass(frozen=True)
class Answer:
    """An answer's body; ``header_length`` is its JSON's, None without binary data."""

    body: bytes
    header_length: int | None


def answer(request: InferRequest, model: str, version: str, outputs: Mapping[str, NDArray[Any]]) -> Answer:
    """Return the answer to a request: the outputs it names, or all, copied.

    Raises:
        TensorError: The model has no such output, or JSON cannot hold its values.
    """
    rows, pieces = [], []
    for output in request.envelope.outputs or [TensorOut(name) for name in outputs]:
        name = output.name
        if name not in outputs:
            raise TensorError(f"the model has no output {name[:64]!r}, it has {sorted(outputs)}")
        array = np.asarray(outputs[name])
        row: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(name, array)}
        if _truth(output.parameters, "binary_data", default=request.is_binary_by_default):
            if array.dtype == TEXT:
                raise TensorError(f"output {name!r}: texts are sent as JSON, not as binary data")
            piece = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            row["parameters"] = {"binary_data_size": piece.nbytes}
            pieces.append(piece)
        else:
            row["data"] = to_json(name, array)
        rows.append(row)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": rows}
    if request.envelope.id:
        document["id"] = request.envelope.id
    header = msgspec.json.encode(document)
    if not pieces:
        return Answer(header, None)
    return Answer(b"".join((header, *(piece.data for piece in pieces))), len(header))


def json_tensors(outputs: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return outputs as the protocol's rows, with their data as JSON.

    Raises:
        TensorError: JSON cannot hold a value.
    """
    return [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(name, array),
            "data": to_json(name, array),
        }
        for name, array in outputs.items()
    ]


def _whole_number(parameters: Mapping[str, Any], key: str) -> int:
    value = parameters.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise TensorError(f"parameter {key!r}: want a whole number from 0")
    return value


def _truth(parameters: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise TensorError(f"parameter {key!r}: want true or false")
    return value
