"""A backend's tensors by the manifest's names: layouts, quantisation, and the rows of a batch.

The manifest's tensors are *logical*: real numbers, or unquantised integers, of one sample. A file may have
other names, another layout, quantisation, and several samples in one run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.base.dtypes import DTYPES
from edgekit.core.errors import InferenceError, TensorError
from edgekit.core.ports import Backend
from edgekit.core.spec import Adjust, Manifest, TensorSpec, Variant
from edgekit.pipeline.pre import dequantize, quantize, squeezed

_SMALL_INTEGERS = ("INT8", "UINT8", "INT16", "UINT16")


class FileTensors:
    """One variant's inputs and outputs by logical name.

    ``batch`` is the number of samples in one run; ``inputs`` and ``outputs`` are the file's specs of one
    sample. ``unbounded`` names the outputs that may hold a NaN or an infinity.

    Raises:
        TensorError: The file lacks a tensor of the manifest, or its outputs have no row per sample.
    """

    def __init__(self, manifest: Manifest, variant: Variant, backend: Backend) -> None:
        self._backend = backend
        self._layout, self._adjust = variant.layout, variant.adjust
        self._logical_inputs = {spec.name: spec for spec in manifest.inputs}
        self._logical_outputs = manifest.outputs
        inputs = _bind(manifest.inputs, variant.inputs, backend.inputs, "input")
        outputs = _bind(manifest.outputs, variant.outputs, backend.outputs, "output")
        self.batch = max(
            (_batch(self._logical_inputs[name], spec) for name, spec in inputs.items()), default=1
        )
        if self.batch > 1 and manifest.state:
            raise TensorError(
                f"{manifest.model!r} carries state from sample to sample, and is open at batch {self.batch}",
                hint="open it at batch 1",
            )
        self.inputs = {name: self._row_of(name, spec) for name, spec in inputs.items()}
        self.outputs = {name: self._row_of(name, spec) for name, spec in outputs.items()}
        self.unbounded = tuple(
            name for name, spec in self.outputs.items() if name in self._adjust or not _is_bounded(spec)
        )

    def _row_of(self, name: str, spec: TensorSpec) -> TensorSpec:
        if self.batch == 1:
            return spec
        if spec.shape[:1] not in ((self.batch,), (-1,)):
            raise self._no_rows(name, spec.shape)
        return msgspec.structs.replace(spec, shape=(1, *spec.shape[1:]))

    def view(self, name: str, row: int = 0) -> NDArray[Any]:
        """Return the backend's memory of one sample's input; drop it before the run."""
        view = self._backend.view(self.inputs[name].name)
        return view if self.batch == 1 else view[row : row + 1]

    def constant(self, name: str, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the values that an input always has, in the file's shape.

        Raises:
            TensorError: They are neither one nor as many as the input holds.
        """
        shape = self.inputs[name].shape
        try:
            return np.full(shape, values[0]) if len(values) == 1 else np.reshape(values, shape)
        except ValueError as cause:
            raise TensorError(
                f"constants: input {name!r} has shape {list(shape)}, got {len(values)} values"
            ) from cause

    def fill(self, name: str, array: NDArray[Any], row: int = 0) -> None:
        """Write one logical tensor into one sample's input, quantised if the file is.

        Args:
            name: The logical name.
            array: In the manifest's shape, ignoring axes of length 1. Real numbers; or integers of the
                manifest's datatype, which a file of that datatype takes unchanged.
            row: The sample's number in a run.

        Raises:
            TensorError: It has another size, or a dtype that the file's cannot represent.
        """
        logical, spec, view = self._logical_inputs[name], self.inputs[name], self.view(name, row)
        if array.size != view.size:
            is_as_said = fits(array.shape, logical.shape)
            whose, wanted = ("the variant's file wants", spec) if is_as_said else ("want", logical)
            raise TensorError(
                f"input {name!r}: {whose} {wanted.datatype} {list(wanted.shape)}, got {list(array.shape)}"
            )
        is_held = array.dtype == view.dtype and logical.datatype == spec.datatype
        if spec.quantization is not None and not is_held:
            array = quantize(array, spec)
        elif (array.dtype.kind in "OU") != (view.dtype.kind == "O") or not np.can_cast(
            array.dtype, view.dtype, "same_kind"
        ):
            raise TensorError(
                f"input {name!r}: want {spec.datatype}, got {array.dtype}", hint="convert the array"
            )
        np.copyto(view, self._turned(logical, array).reshape(view.shape), casting="same_kind")

    def _turned(self, logical: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim != 4 or not self._layout or not logical.layout or self._layout == logical.layout:
            return array
        turned: NDArray[Any] = array.transpose((0, 3, 1, 2) if logical.layout == "NHWC" else (0, 2, 3, 1))
        return turned

    def reals(self, held: Mapping[str, NDArray[Any]], row: int = 0) -> dict[str, NDArray[np.float32]]:
        """Return one sample's outputs as real numbers, float32, in the manifest's shapes; texts as they are.

        They share no memory with ``held``.

        Raises:
            TensorError: An output has another shape than the manifest says.
        """
        return self.real(self.copies(held, row))

    def copies(self, held: Mapping[str, NDArray[Any]], row: int = 0) -> dict[str, NDArray[Any]]:
        """Return one sample's outputs by logical name, as the file holds them, in memory of their own.

        Raises:
            TensorError: There is no row for each sample.
        """
        return {name: np.array(self._row(held[spec.name], name, row)) for name, spec in self.outputs.items()}

    def real(self, copies: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return what ``reals`` does for its ``copies``, whose memory it may share.

        Raises:
            TensorError: An output has another shape than the manifest says.
        """
        tensors = {}
        for logical in self._logical_outputs:
            spec, real = self.outputs[logical.name], copies[logical.name]
            if spec.datatype != "BYTES":
                real = dequantize(real, spec)
            if (adjust := self._adjust.get(logical.name)) is not None:
                real = adjusted(real, adjust)
            tensors[logical.name] = shape_as(real, logical, self._layout)
        return tensors

    def typed(self, held: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return copies of the first sample's outputs in the manifest's datatypes.

        An output of the file's own datatype is not dequantised.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for logical in self._logical_outputs:
            spec = self.outputs[logical.name]
            array = self._row(held[spec.name], logical.name, 0)
            adjust = self._adjust.get(logical.name)
            if logical.datatype != spec.datatype or adjust is not None:
                real = dequantize(array, spec)
                real = real if adjust is None else adjusted(real, adjust)
                array = real.astype(DTYPES[logical.datatype])
            tensors[logical.name] = np.array(shape_as(array, logical, self._layout))
        return tensors

    def _row(self, array: NDArray[Any], name: str, row: int) -> NDArray[Any]:
        if self.batch == 1:
            return array
        if array.shape[:1] != (self.batch,):
            raise self._no_rows(name, array.shape)
        return array[row : row + 1]

    def _no_rows(self, name: str, shape: tuple[int, ...]) -> TensorError:
        return TensorError(
            f"tensor {name!r}: want a row for each of {self.batch} samples, got shape {list(shape)}",
            hint="open the variant at batch 1",
        )


def adjusted(real: NDArray[np.float32], adjust: Adjust) -> NDArray[np.float32]:
    """Return a file's output with its axes permuted and its values scaled, as a variant's ``adjust`` says.

    Raises:
        TensorError: It has other axes, or another length along the scaled one.
    """
    try:
        if adjust.permute:
            real = real.transpose(adjust.permute)
        if adjust.factors:
            along = [1] * real.ndim
            along[adjust.axis] = len(adjust.factors)
            real = real * np.array(adjust.factors, np.float32).reshape(along)
    except (ValueError, IndexError) as cause:
        raise TensorError(f"adjust: does not fit an output of shape {list(real.shape)}: {cause}") from cause
    return real


def _batch(logical: TensorSpec, spec: TensorSpec) -> int:
    """Return the samples in a file's input: its first length, if only that differs."""
    first = spec.shape[0] if len(spec.shape) > 1 else 1
    size, logical_size = (math.prod(max(size, 1) for size in shape) for shape in (spec.shape, logical.shape))
    return first if first > 1 and size == first * logical_size else 1


def shape_as(real: NDArray[Any], spec: TensorSpec, file_layout: str) -> NDArray[Any]:
    """Return an output of a file in its logical shape.

    Axes of length 1 are added and removed; four axes are transposed between NHWC and NCHW.

    Raises:
        TensorError: The sizes differ.
    """
    if real.ndim == 4 and spec.layout and file_layout and spec.layout != file_layout:
        real = real.transpose((0, 2, 3, 1) if spec.layout == "NHWC" else (0, 3, 1, 2))
    if real.shape == spec.shape or fits(real.shape, spec.shape):
        return real
    if spec.shape.count(-1) <= 1 and fits(squeezed(real.shape), squeezed(spec.shape)):
        return real.reshape(spec.shape)
    raise TensorError(f"output {spec.name!r}: want shape {list(spec.shape)}, got {list(real.shape)}")


def fits(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two shapes agree; -1 is any length."""
    return len(shape) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(shape, other, strict=True))


def _bind(
    logical: Sequence[TensorSpec], renamed: Mapping[str, str], specs: Sequence[TensorSpec], what: str
) -> dict[str, TensorSpec]:
    """Return the file's tensor for each logical name."""
    by_name = {spec.name: spec for spec in specs}
    bound = {}
    for spec in logical:
        name = renamed.get(spec.name, spec.name)
        if name not in by_name:
            raise TensorError(
                f"{what} {spec.name!r}: the file has no tensor {name!r}",
                reasons=tuple(f"it has {s.name!r}, {s.datatype} {list(s.shape)}" for s in specs),
                hint=f"map the logical name to the file's in the variant's {what}s",
            )
        bound[spec.name] = by_name[name]
    return bound


def _is_bounded(spec: TensorSpec) -> bool:
    """Return whether every value that a tensor can hold is a finite number once it is dequantised."""
    if spec.quantization is None or spec.datatype not in _SMALL_INTEGERS:
        return False
    limits, grid = np.iinfo(DTYPES[spec.datatype]), spec.quantization
    widest = max(abs(limits.min - grid.zero_point), abs(limits.max - grid.zero_point))
    return bool(widest * grid.scale < float(np.finfo(np.float32).max))


def check_finite(tensors: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> None:
    """Refuse the named outputs with a NaN or an infinity.

    Raises:
        InferenceError: There is one.
    """
    for name in names:
        tensor = tensors[name]
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise InferenceError(f"output {name!r} has a value that is not a finite number")
