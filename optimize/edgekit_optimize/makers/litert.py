"""Makes TensorFlow Lite candidates: float, float16, static int8, int8 and int4 weights, Edge TPU.

Files are written from the root's network, so tensors keep their canonical names and images are
channels-last. If the root's TensorFlow Lite file has a node with no equivalent in ``Network``, the LiteRT
quantizer processes the file instead. The ONNX file with the same integers is made here too.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import msgspec
import numpy as np

from edgekit.core.errors import BackendUnavailableError, ConfigError, ModelError
from edgekit.core.spec import Requires
from edgekit_optimize.graph.layer import WEIGHTED, Array
from edgekit_optimize.graph.network import Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.onnx_network import read_onnx
from edgekit_optimize.graph.quantize import Affine, Quantized, quantize
from edgekit_optimize.graph.ranges import Method, Ranges, calibrate
from edgekit_optimize.graph.tflite import read_tflite, write_tflite
from edgekit_optimize.graph.tflite_run import EveryTensor, interpreter
from edgekit_optimize.makers.baked import byte_steps
from edgekit_optimize.makers.edgetpu import compile_file, readiness
from edgekit_optimize.makers.litert_tools import quantize_file, tool_version
from edgekit_optimize.makers.samples import calibration
from edgekit_optimize.plan import Layout, Made, Plan, Root

_FILE: Final = "model.tflite"
_ONNX_FILE: Final = "model.onnx"
_EDGETPU_RUNTIME: Final = ">=14"
_THREADS: Final = 2


class Source(NamedTuple):
    """What candidates are made from: a network, or only a file, and then why there is no network."""

    network: Network | None
    data: bytes
    transposed: frozenset[str]
    why: str = ""


def make_float(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the float32 file.

    Raises:
        ModelError: The model has neither an ONNX nor a TensorFlow Lite form.
    """
    source = _source(root)
    data = source.data or write_tflite(_network(source), name=plan.id)
    return _made(root, folder, data, notes=_notes(source))


def make_half(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file with float16 weights: half the size, widened to float32 at load."""
    source = _source(root)
    data = write_tflite(_network(source), half_weights=True, name=plan.id)
    note = "weights are stored as float16 and widened at load: smaller, but not faster on a CPU"
    return _made(root, folder, data, notes=(note, *_notes(source)))


def make_static(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the int8 file, with integers from inputs to outputs except for layers left in float.

    Options: ``keep_float``, ``ranges``, ``per_channel``.

    Raises:
        TensorError: The calibration data are unusable.
        ModelError: The model cannot be quantised, or ``keep_float`` names an unknown layer.
    """
    source = _source(root)
    if source.network is None:
        return _static_by_tool(root, plan, folder, source)
    quantized = _quantized(root, plan, source)
    share = integer_share(source.network, quantized)
    data = write_tflite(source.network, quantized, name=plan.id)
    notes = (f"{share:.1%} of the multiply-adds run on integers", *_float_note(quantized), *_notes(source))
    return _made(root, folder, data, notes=notes, share=share)


def make_weights(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file with integer weights, whose activations are quantised at each inference.

    Option ``bits``: 8, or 4 for dense layers only (all others have 8).

    Raises:
        ModelError: ``bits`` is 4 and the model has no dense layer.
    """
    bits = plan.options.get("bits", 8)
    if bits not in (4, 8):
        raise ConfigError(f"option bits: want 8 or 4, got {bits!r}")
    source = _source(root)
    if bits == 4 and source.network and not any(layer.kind == "dense" for layer in source.network.layers):
        raise ModelError(f"model {root.id!r} has no dense layer, and only those support 4-bit weights here")
    data = source.data or write_tflite(_network(source), name=plan.id)
    quantized = quantize_file(data, "dynamic_wi8" if bits == 8 else "dynamic_wi4_dense")
    interpreter(quantized)  # checks that LiteRT can load what the quantizer wrote
    kinds = "weights have 8 bits" if bits == 8 else "weights of dense layers have 4 bits, all others 8"
    note = f"{kinds}; activations are quantised at each inference"
    return _made(root, folder, quantized, notes=(note, *_notes(source)), tools=tool_version())


def make_onnx_static(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the ONNX file with the same integers as the int8 file: uint8 activations, int8 weights."""
    if root.onnx:
        network = read_onnx(Path(root.onnx))
        transposed = frozenset(name for name, shape in network.inputs.items() if shape != _shape(root, name))
        source = Source(network, b"", transposed)
    else:
        source = _source(root)
    network = _network(source)
    quantized = _quantized(root, plan, source)
    share = integer_share(network, quantized)
    (folder / _ONNX_FILE).write_bytes(write_onnx(network, quantized, name=plan.id))
    return Made(
        files=(_ONNX_FILE,),
        layout="NCHW" if root.layout else "",
        notes=(f"{share:.1%} of the multiply-adds run on integers", *_float_note(quantized)),
        tools={"onnx": version("onnx")},
        integer_share=share,
    )


def make_edgetpu(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file for an Edge TPU, with no operation left on the CPU.

    Raises:
        BackendUnavailableError: ``edgetpu_compiler`` is not on PATH; the message says whether the
            int8 file is ready, and the reasons name the unsupported operations.
        ModelError: The compiler rejects the file, or leaves operations on the CPU.
    """
    source = _source(root)
    if plan.options.get("keep_float"):
        raise ConfigError(f"{plan.id}: an Edge TPU cannot run layers in float", hint="remove keep_float")
    network = _network(source)
    quantized = _quantized(root, plan, source, dense_per_channel=False)
    data = write_tflite(network, quantized, name=plan.id)
    ready = readiness(data)
    compiler = shutil.which("edgetpu_compiler")
    if compiler is None:
        raise BackendUnavailableError(
            f"{plan.id}: edgetpu_compiler is not on PATH; {ready.sentence()}",
            reasons=ready.reasons(),
            hint="compile the int8 file on an x86-64 machine that has Coral's edgetpu_compiler",
        )
    compiled = compile_file(data, compiler)
    made = _made(root, folder, compiled.data, notes=(ready.sentence(), *compiled.notes), share=1.0)
    return msgspec.structs.replace(made, requires=Requires(edgetpu_runtime=_EDGETPU_RUNTIME))


def integer_share(network: Network, quantized: Quantized) -> float:
    """Return the share of a network's multiply-adds that run on integers, from 0 to 1."""
    work = multiply_adds(network)
    total = sum(work.values())
    floats = sum(count for name, count in work.items() if name in quantized.floats)
    return 1.0 - floats / total if total else 0.0


def multiply_adds(network: Network) -> dict[str, int]:
    """Return the number of multiply-adds of each layer with weights, by output name."""
    shapes = network.shapes()
    counts = {}
    for layer in network.layers:
        if layer.kind in WEIGHTED:
            weights, _ = layer.parameters()
            # A transposed convolution applies all of its weights at each input position.
            shape = shapes[layer.inputs[0] if layer.kind == "transposed_conv" else layer.output]
            counts[layer.output] = int(np.prod(shape[:-1])) * weights.size
    return counts


# ---------------------------------------------------------------------------------------------


def _shape(root: Root, name: str) -> tuple[int, ...]:
    return next(spec.shape for spec in root.inputs if spec.name == name)


def _source(root: Root) -> Source:
    """Return the root's ONNX form as a network, or else its TensorFlow Lite file."""
    transposed = frozenset({root.image}) if root.layout == "NCHW" and root.image else frozenset[str]()
    if root.onnx:
        return Source(read_onnx(Path(root.onnx), transposed), b"", transposed)
    if not root.tflite:
        reason = root.missing.get("tflite", "it was not converted")
        raise ModelError(
            f"model {root.id!r} has no ONNX or TensorFlow Lite form: {reason}",
            hint="give the model as ONNX, or as a torch module",
        )
    data = Path(root.tflite).read_bytes()
    try:
        return Source(read_tflite(data), data, frozenset())
    except ModelError as error:
        return Source(None, data, frozenset(), error.message)


def _network(source: Source) -> Network:
    if source.network is None:
        raise ModelError(
            source.why, hint="give the model as ONNX, or use technique litert-static or litert-weights"
        )
    return source.network


def _notes(source: Source) -> tuple[str, ...]:
    return (f"made directly from the TensorFlow Lite file: {source.why}",) if source.why else ()


def _float_note(quantized: Quantized) -> tuple[str, ...]:
    return (f"left in float: {', '.join(sorted(quantized.floats))}",) if quantized.floats else ()


def _feeds(root: Root, transposed: Collection[str]) -> list[dict[str, Array]]:
    return [
        {
            name: np.ascontiguousarray(
                values.transpose(0, 2, 3, 1) if name in transposed else values, dtype=np.float32
            )
            for name, values in sample.items()
        }
        for sample in calibration(root)
    ]


def _method(plan: Plan) -> Method:
    method: Any = plan.options.get("ranges", "minmax")
    if method not in get_args(Method):
        raise ConfigError(f"option ranges: want one of {', '.join(get_args(Method))}, got {method!r}")
    ranges: Method = method
    return ranges


def _quantized(root: Root, plan: Plan, source: Source, *, dense_per_channel: bool = True) -> Quantized:
    network = _network(source)
    feeds = _feeds(root, source.transposed)
    ranges = calibrate(network, lambda: feeds, _method(plan), run=EveryTensor(network, _THREADS))
    return quantize(
        network,
        ranges,
        _pixels(root, ranges),
        keep_float=tuple(plan.options.get("keep_float", ())),
        per_channel=bool(plan.options.get("per_channel", True)),
        dense_per_channel=dense_per_channel,
    )


def _pixels(root: Root, ranges: Ranges) -> dict[str, Affine]:
    """Return quantisation of the image input such that its integers are the bytes minus 128.

    Empty if the calibration data do not match ``pre``, since this scale would then be wrong.
    """
    steps = byte_steps(root.pre)
    if not root.image or steps is None:
        return {}
    scale, zero = steps
    low, high = -zero * scale, (255 - zero) * scale
    seen_low, seen_high = ranges.low[root.image], ranges.high[root.image]
    fits = low - scale <= seen_low and seen_high <= high + scale and seen_high - seen_low > (high - low) / 4
    return {root.image: Affine(float(np.float32(scale)), zero - 128)} if fits else {}


def _static_by_tool(root: Root, plan: Plan, folder: Path, source: Source) -> Made:
    unavailable = [name for name in ("keep_float", "ranges", "per_channel") if name in plan.options]
    if unavailable:
        raise ModelError(
            f"{plan.id}: option {unavailable[0]} needs the model as a network, but {source.why}",
            hint="give the model as ONNX",
        )
    quantized = quantize_file(source.data, "static_wi8_ai8", _feeds(root, ()))
    interpreter(quantized)
    return _made(root, folder, quantized, notes=_notes(source), tools=tool_version())


def _made(
    root: Root,
    folder: Path,
    data: bytes,
    *,
    notes: tuple[str, ...] = (),
    tools: dict[str, str] | None = None,
    share: float | None = None,
) -> Made:
    (folder / _FILE).write_bytes(data)
    layout: Layout = "NHWC" if root.layout else ""
    return Made(
        files=(_FILE,),
        layout=layout,
        notes=notes,
        tools={"ai-edge-litert": version("ai-edge-litert"), **(tools or {})},
        integer_share=share,
    )
