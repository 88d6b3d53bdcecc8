"""Makes ONNX Runtime candidates: float, float16, static and dynamic int8, int4 weights; and Myriad's ONNX.

Files keep the canonical tensor names; with option ``pixels`` the image input is uint8 and channels-last.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from edgekit.core.errors import ConfigError, ModelError, TensorError
from edgekit.core.spec import Requires
from edgekit_optimize.makers import baked, graph, half, myriad, qdq
from edgekit_optimize.makers.ranges import METHODS, Range, observe
from edgekit_optimize.makers.samples import calibration
from edgekit_optimize.plan import Made, Plan, Root

_FILE: Final = "model.onnx"
_HALF_SAMPLES: Final = 16
_IR_VERSION: Final = 8  # readable by onnxruntime 1.14 and later


def make_float(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the float32 file: a copy of the root's, or with constants folded and nodes fused.

    Option ``fused`` applies ONNX Runtime's basic optimisations: standard operators only, so the file is
    the same for x86 and ARM. Machine-specific optimisations happen at load.
    """
    source = _source(root)
    if not plan.options.get("fused") and not plan.options.get("pixels"):
        (folder / _FILE).write_bytes(source.read_bytes())
        return Made(files=(_FILE,), layout=root.layout, tools=_versions("onnx"))
    model = graph.read(source)
    notes: tuple[str, ...] = ()
    if plan.options.get("fused"):
        before, model = len(model.graph.node), qdq.fold(model)
        notes = (f"after fusing, {len(model.graph.node)} of {before} nodes remain",)
    return _write(model, root, plan, folder, notes=notes)


def make_static(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the int8 file: uint8 activations, int8 weights, one scale per output channel.

    Options: ``per_channel``, ``ranges``, ``symmetric``, ``keep_float``, ``pixels``, and ``fused``, by
    default true here, since an unfused batch norm or weights behind a cast would stay in float.

    Raises:
        TensorError: The calibration data are unusable.
        ModelError: The model has nothing to quantise, or a layer cannot be quantised.
    """
    original = graph.read(_source(root))
    model = qdq.fold(original) if plan.options.get("fused", True) else original
    keep = tuple(plan.options.get("keep_float", ()))
    keep_nodes = graph.nodes_named(original, model, keep)
    layers = graph.layers_of(model)
    if not layers:
        raise ModelError("the model has no layer to quantise: no Conv, Gemm or MatMul")
    ranges = observe(model, calibration(root), _ranges(plan))
    _check_ranges(model, ranges, keep_nodes)
    if plan.options.get("pixels"):
        ranges |= _byte_range(root)
    symmetric = bool(plan.options.get("symmetric"))
    quantised = qdq.quantise(
        model,
        ranges,
        per_channel=bool(plan.options.get("per_channel", True)),
        symmetric=symmetric,
        for_tensorrt=symmetric and plan.accelerator != "cpu",
        keep_float=keep_nodes,
    )
    share = qdq.integer_share(model, quantised)
    notes = [f"{share:.0%} of the multiply-adds run on integers in ONNX Runtime's CPU kernels"]
    if keep:
        notes.append(f"left in float: {', '.join(keep)}")
    return _write(quantised, root, plan, folder, notes=tuple(notes), share=share)


def make_dynamic(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file with int8 weights, whose activations are quantised at each inference.

    Faster only for models dominated by MatMul, Gemm or LSTM: ONNX Runtime's dynamic convolutions are
    slower than its float ones. Options: ``per_channel``, ``keep_float``, ``pixels``.

    Raises:
        ModelError: The model has no layer of these kinds.
    """
    original = graph.read(_source(root))
    model = qdq.fold(original)
    keep_nodes = graph.nodes_named(original, model, tuple(plan.options.get("keep_float", ())))
    quantised = qdq.quantise_dynamic(
        model, per_channel=plan.options.get("per_channel"), keep_float=keep_nodes
    )
    return _write(quantised, root, plan, folder, share=qdq.integer_share(model, quantised))


def make_int4(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file with 4-bit MatMul and Gemm weights in blocks of 32 (option ``bits``: 4 or 8).

    Raises:
        ModelError: The model has no MatMul or Gemm with constant weights.
    """
    bits = plan.options.get("bits", 4)
    if bits not in (4, 8):
        raise ConfigError(f"option bits: want 4 or 8, got {bits!r}")
    original = graph.read(_source(root))
    model = qdq.fold(original)
    keep_nodes = graph.nodes_named(original, model, tuple(plan.options.get("keep_float", ())))
    quantised, share = qdq.quantise_weights(model, bits=bits, keep_float=keep_nodes)
    notes = (f"{share:.1%} of the multiply-adds use {bits}-bit weights",)
    # Source: onnxruntime 1.17 release notes, MatMulNBits on the CPU; 8 bits came with 1.22.
    requires = Requires(backend_version=">=1.17" if bits == 4 else ">=1.22")
    return _write(quantised, root, plan, folder, notes=notes, requires=requires)


def make_half(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the float16 file for CUDA and TensorRT; inputs and outputs stay float32.

    Layers whose values exceed the float16 range on the calibration data, if there are any, stay in
    float32, as do the layers of option ``keep_float``.
    """
    original = graph.read(_source(root))
    model = qdq.fold(original)
    keep_nodes = graph.nodes_named(original, model, tuple(plan.options.get("keep_float", ())))
    wide = half.too_large(model, calibration(root, limit=_HALF_SAMPLES)) if root.calibration else ()
    notes = (f"values too large for float16, left in float32: {', '.join(wide)}",) if wide else ()
    halved = half.halved(model, {*keep_nodes, *graph.nodes_named(model, model, wide)})
    return _write(halved, root, plan, folder, notes=notes)


def make_myriad(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the ONNX file in opset 11 for OpenVINO 2021.4, the last version with a Myriad plugin.

    float16 if the plan asks for it, else float32, which the plugin converts itself.

    Raises:
        ModelError: A layer has no equivalent in opset 11; the message names it.
    """
    original = graph.read(_source(root))
    folded = qdq.fold(original)
    model = myriad.lowered(folded)
    myriad.compare(root, folded, model)
    if plan.precision == "fp16":
        model = half.halved(model, set())
    model.ir_version = myriad.IR_VERSION
    return _write(model, root, plan, folder, notes=(f"ONNX opset {graph.opset(model)}",))


def _ranges(plan: Plan) -> Any:
    method = plan.options.get("ranges", "minmax")
    if method not in METHODS:
        raise ConfigError(f"option ranges: want one of {', '.join(METHODS)}, got {method!r}")
    return method


def _check_ranges(model: Any, ranges: dict[str, Range], keep_nodes: list[str]) -> None:
    """Check that no layer reads or writes a constant tensor, which has no range to choose a scale by."""
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in graph.WORKING or node.name in keep_nodes:
            continue
        for tensor in (node.input[0], node.output[0]):
            low, high = ranges.get(tensor, (0.0, 1.0))
            if low < high:
                continue
            if tensor in inputs:
                raise TensorError(
                    f"calibration data for {tensor!r} are {low:g} everywhere",
                    hint="calibrate with 50 to 300 different samples, preprocessed as the device does it",
                )
            raise ModelError(
                f"tensor {tensor!r} of layer {node.output[0]!r} ({node.op_type}) is {low:g} on all "
                "calibration data",
                hint=f"calibrate with more varied data, or keep {node.output[0]!r} in float",
            )


def _byte_range(root: Root) -> dict[str, Range]:
    """Return the range of the image input for which its integers equal the bytes."""
    steps = baked.byte_steps(root.pre)
    if steps is None:
        return {}
    scale, zero = steps
    return {root.image: (-zero * scale, (255 - zero) * scale)}


def _source(root: Root) -> Path:
    if not root.onnx:
        reason = root.missing.get("onnx", "it was not converted")
        raise ModelError(
            f"model {root.id!r} has no ONNX form: {reason}",
            hint="give the model as ONNX or as a torch module",
        )
    return Path(root.onnx)


def _write(
    model: Any,
    root: Root,
    plan: Plan,
    folder: Path,
    *,
    notes: tuple[str, ...] = (),
    share: float | None = None,
    requires: Requires = Requires(),  # noqa: B008 (a frozen structure)
) -> Made:
    """Write the file, with preprocessing baked in if the plan asks for it."""
    pixels = bool(plan.options.get("pixels"))
    if pixels:
        model = baked.bake(model, root)
        size = "x".join(map(str, baked.image_shape(root)[1:3]))
        notes += (f"takes a uint8 {size} image and normalises it itself",)
    model.ir_version = (
        min(int(model.ir_version), _IR_VERSION) if graph.opset(model) < 19 else model.ir_version
    )
    model.producer_name, model.producer_version, model.doc_string = "edgekit", "", ""
    del model.metadata_props[:]
    (folder / _FILE).write_bytes(model.SerializeToString(deterministic=True))
    return Made(
        files=(_FILE,),
        layout="NHWC" if pixels else root.layout,
        notes=notes,
        requires=requires,
        tools=_versions("onnx", "onnxruntime"),
        integer_share=share,
    )


def _versions(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}
