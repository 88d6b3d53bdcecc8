"""Tensors between the wire and NumPy: shapes checked against the model, bytes against the shape.

The check comes before the allocation, whose size is that of bytes which have already arrived: a request
cannot make the server reserve memory by naming a large shape.

Source: Open Inference Protocol v2, "Tensor Data"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.base.dtypes import DATATYPES, DTYPES, TEXT
from edgekit.core.errors import TensorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core.spec import TensorSpec

_LONG_BYTES = 4096
_KEPT_BYTES = 1 << 20
"""The parser of a longer list is not kept: it can hold twelve times as much memory."""
_FEW = 32
"""So many numbers are rounded faster one by one than by array operations."""
_ELEMENT: Mapping[str, Any] = MappingProxyType(
    {"b": list[bool], "u": list[int], "i": list[int], "f": list[float], "O": list[str]}
)


def checked_shape(spec: TensorSpec, datatype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that a request states for an input, if the model's ``spec`` takes it.

    Raises:
        TensorError: The datatype differs, or the shape does not fit.
    """
    given = tuple(shape)
    if datatype == spec.datatype and (given == spec.shape or _fits(given, spec.shape)) and 0 not in given:
        return given
    raise TensorError(
        f"input {spec.name!r}: want {spec.datatype} {list(spec.shape)}, got {datatype[:20]} {list(shape[:8])}"
    )


def _fits(given: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(given) == len(declared) and all(
        length >= 1 and free in (-1, length) for length, free in zip(given, declared, strict=True)
    )


def from_binary(spec: TensorSpec, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    """Return one input from its bytes (row-major, little-endian), a read-only view.

    An element of BYTES is its length, four bytes, and its text in UTF-8.

    Raises:
        TensorError: There are more or fewer bytes, a BOOL is neither 0 nor 1, or a text is not UTF-8.
    """
    if spec.datatype == "BYTES":
        return _texts(spec.name, shape, data)
    dtype = DTYPES[spec.datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        raise TensorError(
            f"input {spec.name!r}: {spec.datatype} {list(shape)} is {size} bytes, got {len(data)}"
        )
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise TensorError(f"input {spec.name!r}: a BOOL is one byte, 0 or 1")
    return np.frombuffer(data, dtype).reshape(shape)


def _texts(name: str, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    texts: list[str] = []
    at, count = 0, math.prod(shape)
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data) or at + 4 > len(data) or len(texts) == count:
            raise TensorError(f"input {name!r}: BYTES {list(shape)} does not end with its data")
        try:
            texts.append(str(data[at + 4 : end], "utf-8"))
        except UnicodeDecodeError as cause:
            raise TensorError(f"input {name!r}: element {len(texts)} is not UTF-8: {cause}") from cause
        at = end
    if len(texts) != count:
        raise TensorError(f"input {name!r}: BYTES {list(shape)} is {count} elements, got {len(texts)}")
    array = np.empty(count, TEXT)
    array[:] = texts
    return array.reshape(shape)


def to_binary(array: NDArray[Any]) -> memoryview:
    """Return an output's bytes, as ``from_binary`` takes them."""
    if array.dtype == TEXT:
        texts = (str(text).encode() for text in array.ravel())
        return memoryview(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data


def classes(
    name: str, array: NDArray[Any], count: int, labels: Sequence[str], *, is_batched: bool
) -> NDArray[Any]:
    """Return the largest values of an output as texts, "value:index" or "value:index:label".

    Args:
        name: The output's.
        array: Numbers.
        count: How many; fewer where it has fewer.
        labels: Of its elements, if there are as many.
        is_batched: Whether the first dimension counts samples, each of which has its own classes.

    Raises:
        TensorError: It has texts, or no elements.

    Source: Triton's protocol/extension_classification.md.
    """
    if array.dtype == TEXT or not array.size:
        raise TensorError(f"output {name!r} has no numbers to classify by")
    rows = array.reshape(array.shape[0] if is_batched and array.ndim > 1 else 1, -1)
    order = np.argsort(rows, axis=1, kind="stable")[:, ::-1][:, :count]
    ends = [f":{label}" for label in labels] if len(labels) == rows.shape[1] else [""] * rows.shape[1]
    kind = "f" if array.dtype.kind == "f" else "d"
    texts = np.empty(order.shape, TEXT)
    for row, columns in enumerate(order):
        texts[row] = [f"{rows[row, column]:{kind}}:{column}{ends[column]}" for column in columns]
    return texts if is_batched and array.ndim > 1 else texts[0]


class FloatReader:
    """Reads long flat lists of real numbers, one at a time, and keeps the parser's memory for the next one.

    No number becomes a Python object: a quarter of the time. A parser made for each list would take longer to
    get its memory from the system, page by page, than to parse the list.
    """

    def __init__(self) -> None:
        self._parser: Any = None

    def read(
        self, spec: TensorSpec, shape: tuple[int, ...], data: bytes | msgspec.Raw
    ) -> NDArray[Any] | None:
        """Return the list as an array; None for anything else, or without the library."""
        if spec.datatype not in ("FP32", "FP64") or len(data) < _LONG_BYTES:
            return None
        try:
            import simdjson
        except ImportError:
            return None
        text = bytes(data)
        if text.find(b"[", 1) > 0:  # nested
            return None
        parser = self._parser or simdjson.Parser()
        self._parser = parser if len(text) <= _KEPT_BYTES else None
        try:
            numbers: Any = parser.parse(text)
            buffer = numbers.as_buffer(of_type="d")
        except (ValueError, TypeError, RuntimeError, AttributeError):  # the slow way reports it
            return None
        with np.errstate(over="ignore"):
            array = np.frombuffer(buffer, np.float64).astype(DTYPES[spec.datatype])
        is_right = array.size == math.prod(shape) and bool(np.isfinite(array).all())
        return array.reshape(shape) if is_right else None


def from_json(
    spec: TensorSpec,
    shape: tuple[int, ...],
    data: bytes | msgspec.Raw,
    floats: FloatReader | None = None,
) -> NDArray[Any]:
    """Return one input from its JSON: a flat list in row-major order, or lists nested as the shape.

    ``floats`` keeps memory from one request to the next.

    Raises:
        TensorError: It is no such list, has another length, or an element of another datatype or out of
            range.
    """
    what = f"input {spec.name!r}"
    if (quick := (floats or FloatReader()).read(spec, shape, data)) is not None:
        return quick
    if spec.datatype == "FP16":
        raise TensorError(f"{what}: FP16 cannot be written in JSON, send it as binary data")
    dtype = TEXT if spec.datatype == "BYTES" else DTYPES[spec.datatype]
    flat = _flat(what, shape, data, _ELEMENT[dtype.kind])
    if len(flat) != math.prod(shape):
        raise TensorError(f"{what}: shape {list(shape)} is {math.prod(shape)} elements, got {len(flat)}")
    if dtype.kind in "ui":
        info = np.iinfo(dtype)
        if min(flat) < info.min or max(flat) > info.max:
            raise TensorError(f"{what}: want {spec.datatype}, from {info.min} to {info.max}")
    with np.errstate(over="ignore"):
        array = np.array(flat, np.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise TensorError(f"{what}: a number is too large for {spec.datatype}")
    return array.reshape(shape)


def _flat(what: str, shape: tuple[int, ...], data: bytes | msgspec.Raw, kind: Any) -> list[Any]:
    try:
        return msgspec.json.decode(data, type=kind)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        pass  # nested or invalid
    except (msgspec.DecodeError, ValueError, RecursionError) as cause:
        raise TensorError(f"{what}: data is not JSON: {cause}") from cause
    try:
        flat, nesting = _unnested(what, msgspec.json.decode(data), max(1, len(shape)))
        if len(nesting) > 1 and nesting != shape:
            raise TensorError(f"{what}: lists are nested as {list(nesting)}, its shape is {list(shape)}")
        return msgspec.convert(flat, type=kind)  # type: ignore[no-any-return]
    except (msgspec.ValidationError, ValueError, RecursionError) as cause:
        raise TensorError(f"{what}: {cause}") from cause


def _unnested(what: str, nested: Any, rank: int) -> tuple[list[Any], tuple[int, ...]]:
    if not isinstance(nested, list):
        raise TensorError(f"{what}: data must be a list")
    flat, shape = nested, [len(nested)]
    while flat and isinstance(flat[0], list):
        if len(shape) == rank:
            raise TensorError(f"{what}: data is nested deeper than its shape")
        length = len(flat[0])
        if any(not isinstance(row, list) or len(row) != length for row in flat):
            raise TensorError(f"{what}: data is nested unevenly")
        shape.append(length)
        flat = [element for row in flat for element in row]
    return flat, tuple(shape)


def to_json(name: str, array: NDArray[Any]) -> list[Any]:
    """Return an output as a flat list in row-major order.

    Raises:
        TensorError: JSON cannot hold it: FP16, a NaN or an infinity.
    """
    if array.dtype == np.float16:
        raise TensorError(f"output {name!r}: FP16 cannot be written in JSON", hint="ask for binary data")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TensorError(
            f"output {name!r} has a NaN or an infinity, which JSON cannot hold", hint="ask for binary data"
        )
    flat = array.ravel()
    return _nine_digits(flat) if array.dtype == np.float32 else flat.tolist()


def _nine_digits(array: NDArray[Any]) -> list[float]:
    """Return float32 numbers rounded to nine digits, which are enough to read them back."""
    if array.size < _FEW:
        return [_rounded(value) for value in array.tolist()]
    real = array.astype(np.float64)
    size = np.abs(real)
    with np.errstate(divide="ignore"):
        scale = 10.0 ** (8 - np.floor(np.log10(size)))
    is_plain = (size > 1e-12) & (size < 1e12)  # where the scale is exact
    scale[~is_plain] = 1.0
    rounded: list[float] = np.where(is_plain, np.rint(real * scale) / scale, real).tolist()
    for at in np.flatnonzero(~is_plain & (size > 0)):
        rounded[at] = _rounded(rounded[at])
    return rounded


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def datatype_of(name: str, array: NDArray[Any]) -> str:
    """Return the protocol's name of an array's element type.

    Raises:
        TensorError: It has none.
    """
    if array.dtype == TEXT:
        return "BYTES"
    try:
        return DATATYPES[array.dtype.newbyteorder("<")]
    except KeyError:
        raise TensorError(f"output {name!r} holds {array.dtype}, which has no datatype") from None
