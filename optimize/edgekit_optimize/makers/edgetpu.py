"""Checks whether a TensorFlow Lite file fits the Edge TPU, and compiles it with Coral's compiler.

``readiness`` checks each operation against Coral's documentation, so it needs no compiler, which exists
only for x86-64.

Source: coral.ai, "TensorFlow models on the Edge TPU": model requirements, and the table of supported
operations with their limitations; "Edge TPU Compiler": options and output.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.graph.tflite_schema import schema, unpack

_TIMEOUT_S: Final = 300
_SOFTMAX_MAX: Final = 16_000
_RUNTIME: Final = "14"  # the oldest runtime that supports every operation in the table
_EIGHT_BITS: Final = frozenset({"INT8", "UINT8"})


@dataclass(frozen=True)
class Verdict:
    """Whether the Edge TPU runs one operation, and the reason if not."""

    index: int
    operator: str
    ok: bool
    reason: str


@dataclass(frozen=True)
class Readiness:
    """Whether the Edge TPU runs every operation of a file."""

    ready: bool
    operators: tuple[Verdict, ...]

    def sentence(self) -> str:
        """Return the result as one sentence."""
        count = len(self.operators)
        if self.ready:
            return f"the int8 file is ready: all {count} operations fit the Edge TPU's documented list"
        unsupported = sum(not verdict.ok for verdict in self.operators)
        return (
            f"the int8 file is not ready: the Edge TPU does not support {unsupported} of {count} operations"
        )

    def reasons(self) -> tuple[str, ...]:
        """Return one line for each unsupported operation."""
        return tuple(
            f"operation {verdict.index} ({verdict.operator}): {verdict.reason}"
            for verdict in self.operators
            if not verdict.ok
        )


@dataclass(frozen=True)
class Compiled:
    """The compiled file, and the compiler's memory figures as notes for the report."""

    data: bytes
    notes: tuple[str, ...]


def readiness(data: bytes) -> Readiness:
    """Return which operations of a file the Edge TPU supports according to its documentation.

    Args:
        data: A TensorFlow Lite file.

    Raises:
        ModelError: It is not a TensorFlow Lite file.
        BackendUnavailableError: ``ai-edge-litert`` is not installed.
    """
    file = _File(data)
    verdicts = []
    for index, operator in enumerate(file.graph.operators):
        call = _Call(file, operator)
        reason = _refusal(call)
        verdicts.append(Verdict(index, call.name, not reason, reason))
    return Readiness(bool(verdicts) and all(verdict.ok for verdict in verdicts), tuple(verdicts))


def compile_file(data: bytes, compiler: str) -> Compiled:
    """Return an int8 file compiled with Coral's compiler.

    Args:
        data: The file.
        compiler: Path of ``edgetpu_compiler``.

    Raises:
        ModelError: The compiler rejects the file, or leaves operations on the CPU (in ``reasons``).
        BackendUnavailableError: The compiler cannot be run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.tflite"
        source.write_bytes(data)
        command = [compiler, "-s", "-m", _RUNTIME, "-o", scratch, str(source)]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendUnavailableError(f"{compiler} does not run: {error}") from error
        target = Path(scratch) / "model_edgetpu.tflite"
        log = process.stdout + process.stderr
        if process.returncode != 0 or not target.is_file():
            last = [line.strip() for line in log.splitlines() if line.strip()][-1:]
            raise ModelError(
                f"edgetpu_compiler rejects the int8 file: {''.join(last) or f'exit {process.returncode}'}",
                reasons=readiness(data).reasons(),
            )
        unmapped = left_on_cpu(log)
        if unmapped:
            raise ModelError(
                f"edgetpu_compiler leaves {sum(count for _, count, _ in unmapped)} operations on the CPU",
                reasons=tuple(f"{count} x {operator}: {why}" for operator, count, why in unmapped),
                hint="replace the layers of these operations, or use another accelerator",
            )
        return Compiled(target.read_bytes(), _facts(log))


def left_on_cpu(log: str) -> list[tuple[str, int, str]]:
    """Return (operator, count, reason) for each operator not mapped according to the compiler's log.

    >>> left_on_cpu("ELU   2   Operation is not supported")
    [('ELU', 2, 'Operation is not supported')]
    """
    rows = re.findall(r"^\s*([A-Z][A-Z0-9_]+)\s+(\d+)\s+(\S.*?)\s*$", log, re.MULTILINE)
    return [(operator, int(count), why) for operator, count, why in rows if why != "Mapped to Edge TPU"]


def _facts(log: str) -> tuple[str, ...]:
    """Return the compiler's lines about on-chip memory, which determines the speed."""
    headings = ("On-chip memory used", "Off-chip memory used")
    return tuple(line.strip() for line in log.splitlines() if line.strip().startswith(headings))


# ---------------------------------------------------------------------------------------------


class _File:
    def __init__(self, data: bytes) -> None:
        self.model, generated = unpack(data), schema()
        self.graph = self.model.subgraphs[0]
        self.types = {code: name for name, code in vars(generated.TensorType).items()}
        self.operators = {code: name for name, code in vars(generated.BuiltinOperator).items()}
        self.plain = generated.ActivationFunctionType.NONE


class _Call:
    """One operation with its tensors."""

    def __init__(self, file: _File, operator: Any) -> None:
        code = file.model.operatorCodes[operator.opcodeIndex]
        self.file, self.name = file, file.operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        self.inputs = [int(index) for index in operator.inputs if index >= 0]
        self.outputs = [int(index) for index in operator.outputs]
        self.options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)

    def shape(self, index: int) -> tuple[int, ...]:
        sizes = self.file.graph.tensors[index].shape
        return () if sizes is None else tuple(int(size) for size in sizes)

    def values(self, index: int) -> Any:
        """Return a constant's bytes; None if the tensor is computed."""
        data = self.file.model.buffers[self.file.graph.tensors[index].buffer].data
        return None if data is None or len(data) == 0 else data

    def numbers(self, position: int) -> list[int]:
        """Return the values of a constant int32 input."""
        if len(self.inputs) <= position or self.values(self.inputs[position]) is None:
            return []
        return [int(number) for number in np.frombuffer(bytes(self.values(self.inputs[position])), "<i4")]

    def type(self, index: int) -> str:
        name: str = self.file.types[self.file.graph.tensors[index].type]
        return name

    def has_activation(self) -> bool:
        return bool(self.options.get("fusedActivationFunction", self.file.plain) != self.file.plain)


def _refusal(call: _Call) -> str:
    """Return why the Edge TPU does not run an operation; empty if it does."""
    if call.name not in _RULES:
        return "not among the supported operations"
    return _bad_tensor(call) or _RULES[call.name](call)


def _bad_tensor(call: _Call) -> str:
    for index in [*call.inputs, *call.outputs]:
        tensor, kind = call.file.graph.tensors[index], call.type(index)
        name, shape = tensor.name.decode(errors="replace"), call.shape(index)
        is_constant = call.values(index) is not None
        if kind not in _EIGHT_BITS and not (kind == "INT32" and is_constant):
            return f"tensor {name!r} is {kind.lower()}, not 8 bits"
        signature = tensor.shapeSignature
        if signature is not None and any(size < 0 for size in signature):
            return f"tensor {name!r} has no fixed size"
        if not is_constant and any(size != 1 for size in shape[:-3]):
            return f"tensor {name!r} of shape {shape} has more than three axes longer than 1"
    return ""


def _any(_call: _Call) -> str:
    return ""


def _plain(call: _Call) -> str:
    return "an activation is fused into it" if call.has_activation() else ""


def _constant_weights(call: _Call) -> str:
    if any(call.values(index) is None for index in call.inputs[1:]):
        return "its weights or bias are not constant"
    return ""


def _conv(call: _Call) -> str:
    if call.options.get("dilationHFactor", 1) != call.options.get("dilationWFactor", 1):
        return "its dilation differs between height and width"
    channels, kernel_channels = call.shape(call.inputs[0])[-1], call.shape(call.inputs[1])[-1]
    return "it has groups" if channels != kernel_channels else _constant_weights(call)


def _depthwise(call: _Call) -> str:
    if (call.options.get("dilationHFactor", 1), call.options.get("dilationWFactor", 1)) != (1, 1):
        return "it is dilated"
    return _constant_weights(call)


def _dense(call: _Call) -> str:
    if call.options.get("weightsFormat", 0):
        return "its weights are shuffled"
    if any(size != 1 for size in call.shape(call.outputs[0])[:-1]):
        return "its output has more than one axis"
    scales = call.file.graph.tensors[call.inputs[1]].quantization
    if scales is not None and scales.scale is not None and len(scales.scale) > 1:
        return "its weights have one scale per output; only one scale per tensor is supported"
    return _constant_weights(call)


def _concat(call: _Call) -> str:
    constants = [index for index in call.inputs if call.values(index) is not None]
    if constants and (len(call.inputs) != 2 or any(np.any(call.values(index)) for index in constants)):
        return "it concatenates a constant that is not all zeros, or several tensors with one"
    return _plain(call)


def _spatial(position: int) -> Callable[[_Call], str]:
    def check(call: _Call) -> str:
        rank = len(call.shape(call.inputs[0]))
        over = {axis % rank for axis in call.numbers(position)}
        return "" if over <= {1, 2} and rank == 4 else "it reduces more than height and width"

    return check


def _not_batch(call: _Call) -> str:
    rank = len(call.shape(call.inputs[0]))
    return "its axis is the batch" if rank > 1 and 0 in {axis % rank for axis in call.numbers(1)} else ""


def _pad(call: _Call) -> str:
    pads = np.asarray(call.numbers(1)).reshape(-1, 2)
    outside = [axis for axis, amounts in enumerate(pads) if any(amounts) and axis not in (1, 2)]
    return "it pads more than height and width" if outside or len(pads) != 4 else ""


def _prelu(call: _Call) -> str:
    slopes = call.shape(call.inputs[1])
    if call.values(call.inputs[1]) is None or any(size != 1 for size in slopes[:-1]):
        return "its slopes are not one constant per channel"
    return ""


def _resize(call: _Call) -> str:
    return "" if len(call.shape(call.inputs[0])) == 4 else "its input is not an image"


def _softmax(call: _Call) -> str:
    shape = call.shape(call.inputs[0])
    if any(size != 1 for size in shape[:-1]):
        return f"its input has shape {shape}; only one row is supported"
    return f"it has more than {_SOFTMAX_MAX} values" if shape[-1] > _SOFTMAX_MAX else ""


def _strided(call: _Call) -> str:
    if any(step != 1 for step in call.numbers(3)):
        return "its steps are not 1"
    masked = call.options.get("ellipsisMask", 0) or call.options.get("newAxisMask", 0)
    return "it adds or skips axes" if masked else ""


def _split(call: _Call) -> str:
    axis = call.numbers(0)
    return "it splits the batch" if axis and axis[0] % len(call.shape(call.inputs[1])) == 0 else ""


def _squeeze(call: _Call) -> str:
    before, after = call.shape(call.inputs[0]), call.shape(call.outputs[0])
    return "" if before[len(before) - len(after) :] == after else "it drops more than leading axes"


def _transposed(call: _Call) -> str:
    return "its weights are not constant" if call.values(call.inputs[1]) is None else ""


_RULES: Final[dict[str, Callable[[_Call], str]]] = {
    **dict.fromkeys(
        (
            "ADD",
            "SUB",
            "MUL",
            "MINIMUM",
            "MAXIMUM",
            "RELU",
            "RELU6",
            "RELU_N1_TO_1",
            "LOGISTIC",
            "TANH",
            "RSQRT",
            "SQUARED_DIFFERENCE",
            "L2_NORMALIZATION",
            "QUANTIZE",
            "RESHAPE",
            "EXPAND_DIMS",
            "PACK",
            "SLICE",
            "SPACE_TO_DEPTH",
            "TRANSPOSE",
        ),
        _any,
    ),
    "AVERAGE_POOL_2D": _plain,
    "MAX_POOL_2D": _plain,
    "CONCATENATION": _concat,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "MEAN": _spatial(1),
    "REDUCE_MAX": _not_batch,
    "REDUCE_MIN": _not_batch,
    "SUM": _not_batch,
    "PAD": _pad,
    "PRELU": _prelu,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided,
}
