"""Candidates that ONNX Runtime runs: float, float16, static and dynamic int8, int4 weights; and Myriad's.

Files keep the canonical tensor names; images become UINT8 and channels-last with option ``pixels``.
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
_IR_VERSION: Final = 8  # what onnxruntime 1.14 and every runtime since reads


def make_float(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the float32 file: the root's own, or with constants folded and nodes fused.

    Option ``fused`` is ONNX Runtime's basic level: standard operators only, so the file is the same
    for x86 and ARM; what is particular to a machine is done there, when the file is loaded.
    """
    source = _source(root)
    if not plan.options.get("fused") and not plan.options.get("pixels"):
        (folder / _FILE).write_bytes(source.read_bytes())
        return Made(files=(_FILE,), layout=root.layout, tools=_versions("onnx"))
    model = graph.read(source)
    notes: tuple[str, ...] = ()
    if plan.options.get("fused"):
        before, model = len(model.graph.node), qdq.fold(model)
        notes = (f"fusing left {len(model.graph.node)} of {before} nodes",)
    return _write(model, root, plan, folder, notes=notes)


def make_static(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the int8 file: uint8 activations, int8 weights, a scale for each output channel.

    Options: ``per_channel``, ``ranges``, ``symmetric``, ``keep_float``, ``pixels``, and ``fused``, here
    true by default: a batch norm left standing, or weights behind a cast, would stay in float.

    Raises:
        TensorError: The calibration data does not fit or says nothing.
        ModelError: The model has nothing to quantise, or a layer cannot be quantised.
    """
    original = graph.read(_source(root))
    model = qdq.fold(original) if plan.options.get("fused", True) else original
    keep = tuple(plan.options.get("keep_float", ()))
    kept = graph.nodes_named(original, model, keep)
    facts = graph.layers_of(model)
    if not facts:
        raise ModelError("the model has no layer to quantise: no Conv, Gemm or MatMul")
    ranges = observe(model, calibration(root), _ranges(plan))
    _check_ranges(model, ranges, kept)
    if plan.options.get("pixels"):
        ranges |= _byte_range(root)
    symmetric = bool(plan.options.get("symmetric"))
    made = qdq.quantise(
        model,
        ranges,
        per_channel=bool(plan.options.get("per_channel", True)),
        symmetric=symmetric,
        for_tensorrt=symmetric and plan.accelerator != "cpu",
        keep_float=kept,
    )
    share = qdq.integer_share(model, made)
    notes = [f"{share:.0%} of the multiply-adds run on integers in ONNX Runtime's CPU kernels"]
    if keep:
        notes.append(f"left in float: {', '.join(keep)}")
    return _write(made, root, plan, folder, notes=tuple(notes), share=share)


def make_dynamic(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file whose weights are int8 and whose activations are quantised at each inference.

    Faster only where MatMul, Gemm or LSTM do the work: ONNX Runtime's dynamic convolutions are slower
    than its float ones. Options: ``per_channel``, ``keep_float``, ``pixels``.

    Raises:
        ModelError: No layer of the model can be quantised so.
    """
    original = graph.read(_source(root))
    model = qdq.fold(original)
    kept = graph.nodes_named(original, model, tuple(plan.options.get("keep_float", ())))
    made = qdq.quantise_dynamic(model, per_channel=plan.options.get("per_channel"), keep_float=kept)
    return _write(made, root, plan, folder, share=qdq.integer_share(model, made))


def make_int4(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the file whose MatMul and Gemm weights are 4-bit integers (option ``bits``: or 8) in blocks of 32.

    Raises:
        ModelError: The model has no MatMul or Gemm with constant weights; says what it has.
    """
    bits = plan.options.get("bits", 4)
    if bits not in (4, 8):
        raise ConfigError(f"option bits: want 4 or 8, got {bits!r}")
    original = graph.read(_source(root))
    model = qdq.fold(original)
    kept = graph.nodes_named(original, model, tuple(plan.options.get("keep_float", ())))
    made, share = qdq.quantise_weights(model, bits=bits, keep_float=kept)
    notes = (f"{share:.1%} of the multiply-adds read {bits}-bit weights",)
    # Source: onnxruntime 1.17 release notes, MatMulNBits on the CPU; 8 bits came with 1.22.
    requires = Requires(backend_version=">=1.17" if bits == 4 else ">=1.22")
    return _write(made, root, plan, folder, notes=notes, requires=requires)


def make_half(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the float16 file for CUDA and TensorRT; inputs and outputs stay float32.

    Layers whose values do not fit into 16 bits on the calibration data, where there is any, stay in
    float32, and so do the layers of option ``keep_float``.
    """
    original = graph.read(_source(root))
    model = qdq.fold(original)
    kept = graph.nodes_named(original, model, tuple(plan.options.get("keep_float", ())))
    wide = half.too_large(model, calibration(root, limit=_HALF_SAMPLES)) if root.calibration else ()
    notes = (f"too large for 16 bits, left in 32: {', '.join(wide)}",) if wide else ()
    made = half.halved(model, {*kept, *graph.nodes_named(model, model, wide)})
    return _write(made, root, plan, folder, notes=notes)


def make_myriad(root: Root, plan: Plan, folder: Path) -> Made:
    """Make the ONNX file that OpenVINO 2021.4, the last with a Myriad plugin, reads: opset 11.

    float16 where the plan says so, else float32, which the plugin narrows itself.

    Raises:
        ModelError: A layer cannot be written in opset 11, or means something else there; names it.
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


def _check_ranges(model: Any, ranges: dict[str, Range], kept: list[str]) -> None:
    """Refuse a layer that reads or writes one value only: there is nothing to choose a scale by."""
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in graph.WORKING or node.name in kept:
            continue
        for tensor in (node.input[0], node.output[0]):
            low, high = ranges.get(tensor, (0.0, 1.0))
            if low < high:
                continue
            if tensor in inputs:
                raise TensorError(
                    f"calibration data for {tensor!r} is {low:g} everywhere",
                    hint="calibrate with 50 to 300 different samples, preprocessed as the device does it",
                )
            raise ModelError(
                f"tensor {tensor!r} of layer {node.output[0]!r} ({node.op_type}) is {low:g} on all "
                "calibration data",
                hint=f"calibrate with data that is more varied, or keep {node.output[0]!r} in float",
            )


def _byte_range(root: Root) -> dict[str, Range]:
    """Return the range of the image input for which its integers are the bytes themselves."""
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
    """Write the file, with preprocessing baked in where the plan asks for it."""
    pixels = bool(plan.options.get("pixels"))
    if pixels:
        model = baked.bake(model, root)
        size = "x".join(map(str, baked.image_shape(root)[1:3]))
        notes += (f"takes the bytes of a {size} image and normalises them itself",)
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
