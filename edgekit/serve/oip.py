"""One inference request and its answer in the Open Inference Protocol v2 over HTTP.

Pure: bytes to arrays and back. Every field of a request is checked before it is used.

Source: kserve/open-inference-protocol, inference_rest.md; Triton's protocol/extension_binary_data.md,
extension_schedule_policy.md, extension_parameters.md, extension_classification.md and
extension_shared_memory.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from edgekit.base.dtypes import DTYPES
from edgekit.core.errors import TensorError
from edgekit.core.spec import TensorSpec
from edgekit.serve.shared_memory import PARAMETERS, Regions
from edgekit.serve.tensors import (
    FloatReader,
    checked_shape,
    classes,
    datatype_of,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dimension = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_LONG_ID = 128
PRIORITIES, DEFAULT_PRIORITY = 9, 5
"""Priorities are 1, the highest, to 9; 0 stands for 5."""
_REGION = PARAMETERS[0]
_FOREIGN = "shared memory is for clients on this machine"


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


_LONG_BYTES = 4096
# A key: within a text its quotes are escaped.
_LIST = re.compile(rb'"data"\s*:\s*(\[)\s*')
_NESTED_OR_TEXT = (b"[", b'"')
_ENVELOPE = msgspec.json.Decoder(Envelope)


@dataclass(frozen=True)
class Step:
    """One request of a sequence."""

    id: int | str
    is_first: bool
    is_last: bool


@dataclass(frozen=True)
class InferRequest:
    """A request with parsed JSON, but not yet parsed tensors.

    ``tail`` is the binary data after the JSON. ``timeout_us`` 0 means no deadline; ``priority`` is the
    lane's: the higher goes first, 0 is the usual one. ``step`` is its part in a sequence.
    """

    envelope: Envelope
    tail: memoryview
    timeout_us: int = 0
    priority: int = 0
    is_binary_by_default: bool = False
    step: Step | None = None

    @property
    def rows(self) -> int:
        """The largest first dimension of its inputs."""
        return max((tensor.shape[0] for tensor in self.envelope.inputs if tensor.shape), default=1)

    @property
    def is_binary(self) -> bool:
        """Whether all of its inputs are binary data of its own."""
        return all(
            "binary_data_size" in tensor.parameters and _REGION not in tensor.parameters
            for tensor in self.envelope.inputs
        )

    def content_hash(self) -> bytes:
        """Return a hash of its inputs as they were written; empty if a tensor is in shared memory."""
        inputs = self.envelope.inputs
        parameters = [tensor.parameters for tensor in inputs]
        parameters += [tensor.parameters for tensor in self.envelope.outputs]
        if any(_REGION in given for given in parameters):
            return b""
        rows = [
            (each.name, each.datatype, each.shape, each.parameters.get("binary_data_size"), len(each.data))
            for each in inputs
        ]
        digest = hashlib.sha256(msgspec.json.encode(rows))
        for tensor in inputs:
            digest.update(tensor.data)
        digest.update(self.tail)
        return digest.digest()


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
        envelope = _decoded(body, end)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise TensorError(f"the request is not an inference request: {cause}") from cause
    _check(envelope)
    return InferRequest(
        envelope,
        view[end:],
        _whole_number(envelope.parameters, "timeout"),
        _priority(envelope.parameters),
        _truth(envelope.parameters, "binary_data_output"),
        _step(envelope.parameters),
    )


def _decoded(body: bytes, end: int) -> Envelope:
    """Return the JSON before ``end``, decoded.

    Long lists of numbers are cut out first: skipping one takes longer than parsing it.
    """
    view = memoryview(body)
    if end < _LONG_BYTES:
        return _ENVELOPE.decode(view[:end])
    kept, cut, at, seek = list[bytes](), list[memoryview](), 0, 0
    while (found := _LIST.search(body, seek, end)) is not None:
        first, seek = found.start(1), found.end()
        if body[seek : seek + 1] in _NESTED_OR_TEXT:
            continue
        close = body.find(b"]", seek, end)
        if close < 0:  # nor has any that follows: to look for each one's end would take hours
            break
        kept += [body[at:first], b"%d" % len(cut)]
        cut.append(view[first : close + 1])
        at = seek = close + 1
    try:
        envelope = _ENVELOPE.decode(b"".join((*kept, body[at:end])))
    except msgspec.DecodeError:  # of something that is no list of numbers, or no JSON
        return _ENVELOPE.decode(view[:end])
    marks = [bytes(tensor.data) for tensor in envelope.inputs]
    if marks != [b"%d" % number for number in range(len(cut))]:  # not all of them were inputs' data
        return _ENVELOPE.decode(view[:end])
    tensors = [
        msgspec.structs.replace(tensor, data=msgspec.Raw(data))
        for tensor, data in zip(envelope.inputs, cut, strict=True)
    ]
    return msgspec.structs.replace(envelope, inputs=tensors)


def _raw_request(body: bytes, inputs: Sequence[TensorSpec]) -> InferRequest:
    """Return the request of a body that is one tensor's bytes."""
    if len(inputs) != 1:
        raise TensorError(f"a raw binary request needs a model of one input, this one has {len(inputs)}")
    spec = inputs[0]
    if spec.datatype == "BYTES":  # the body is one text's bytes
        if any(length not in (1, -1) for length in spec.shape):
            raise TensorError(f"a raw binary request is one text, input {spec.name!r} is {list(spec.shape)}")
        size = len(body) + 4
        one = TensorIn(spec.name, [1] * len(spec.shape), "BYTES", {"binary_data_size": size})
        text = memoryview(len(body).to_bytes(4, "little") + body)
        return InferRequest(Envelope([one]), text, is_binary_by_default=True)
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


def feeds_of(
    request: InferRequest,
    inputs: Sequence[TensorSpec],
    optional: frozenset[str] = frozenset(),
    regions: Regions | None = None,
    floats: FloatReader | None = None,
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
        if tensor.parameters and _REGION in tensor.parameters:
            if regions is None:
                raise TensorError(f"input {tensor.name!r}: {_FOREIGN}")
            if tensor.data or "binary_data_size" in tensor.parameters:
                raise TensorError(f"input {tensor.name!r} is in shared memory and has data too")
            shared = regions.read(f"input {tensor.name!r}", tensor.parameters)
            feeds[tensor.name] = from_binary(spec, shape, shared)
            continue
        if "binary_data_size" not in tensor.parameters:
            feeds[tensor.name] = from_json(spec, shape, tensor.data or b"null", floats)
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


def answer(
    request: InferRequest,
    model: str,
    version: str,
    outputs: Mapping[str, NDArray[Any]],
    labels: Sequence[str] = (),
    regions: Regions | None = None,
) -> Answer:
    """Return the answer to a request: the outputs it names, or all, copied.

    ``labels`` are the model's classes; ``regions`` hold the outputs that are to be in shared memory.

    Raises:
        TensorError: The model has no such output, JSON cannot hold its values, or its region is too small.
    """
    rows, pieces = [], []
    for output in request.envelope.outputs or [TensorOut(name) for name in outputs]:
        name, parameters = output.name, output.parameters
        if name not in outputs:
            raise TensorError(f"the model has no output {name[:64]!r}, it has {sorted(outputs)}")
        array = np.asarray(outputs[name])
        if parameters and (count := _whole_number(parameters, "classification")):
            array = classes(name, array, count, labels, is_batched=True)
        row: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(name, array)}
        if parameters and _REGION in parameters:
            if regions is None:
                raise TensorError(f"output {name!r}: {_FOREIGN}")
            data = to_binary(array)
            regions.write(f"output {name!r}", parameters, data)
            row["parameters"] = {key: parameters[key] for key in PARAMETERS if key in parameters}
            row["parameters"][PARAMETERS[2]] = data.nbytes
        elif _truth(parameters, "binary_data", default=request.is_binary_by_default):
            piece = to_binary(array)
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
    return Answer(b"".join((header, *pieces)), len(header))


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


def _step(parameters: Mapping[str, Any]) -> Step | None:
    if not any(parameters.get(key) for key in _SEQUENCE):
        return None
    name = parameters.get(_SEQUENCE[0], 0)
    is_number = isinstance(name, int) and not isinstance(name, bool) and 0 < name < 1 << 64
    if not is_number and not (isinstance(name, str) and 0 < len(name) <= _LONG_ID):
        raise TensorError(
            f"parameter 'sequence_id': want a number from 1, or a text of at most {_LONG_ID} letters"
        )
    return Step(name, _truth(parameters, _SEQUENCE[1]), _truth(parameters, _SEQUENCE[2]))


def _priority(parameters: Mapping[str, Any]) -> int:
    value = _whole_number(parameters, "priority")
    if value > PRIORITIES:
        raise TensorError(f"parameter 'priority': want 0 (the default) to {PRIORITIES}, got {value}")
    return DEFAULT_PRIORITY - (value or DEFAULT_PRIORITY)


def _truth(parameters: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise TensorError(f"parameter {key!r}: want true or false")
    return value
