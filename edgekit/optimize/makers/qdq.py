"""ONNX Runtime's static int8: QuantizeLinear and DequantizeLinear pairs around what runs on integers.

The only file that calls ``onnxruntime.quantization``'s quantizer. Ranges come from ``ranges``, so
that their time and memory are bounded and a tensor at fault is named.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.core.errors import ModelError
from edgekit.optimize.makers import graph
from edgekit.optimize.makers.ranges import Range

# Operators whose kernels take integers, in the standard domain and in com.microsoft.
_INTEGER: Final = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "QLinearConvTranspose",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)


def fold(model: Any) -> Any:
    """Return the model with constants folded and standard nodes fused (batch norms into layers).

    ONNX Runtime's basic level: the result has standard operators only and is the same on every
    machine, unlike the levels above it, which write kernels of this machine's kind.

    Raises:
        ModelError: ONNX Runtime cannot load the model; names the layer.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        target = Path(folder, "folded.onnx")
        _optimise(model, target, "ORT_ENABLE_BASIC")
        onnx, _ = graph.tools()
        folded = onnx.load(str(target))
    return graph.prepared(_without_spare_domains(folded))


def quantise(
    model: Any,
    ranges: Mapping[str, Range],
    *,
    per_channel: bool = True,
    symmetric: bool = False,
    for_tensorrt: bool = False,
    keep_float: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Any:
    """Return the model with int8 weights, and uint8 activations between quantised nodes.

    Args:
        model: As ``graph.read`` returns it.
        ranges: Of every float activation.
        per_channel: One scale for each output channel of a layer's weights.
        symmetric: int8 activations, zero point 0.
        for_tensorrt: Float weights followed by a pair, float bias, a pair for each reader: what
            TensorRT's parser takes. Source: onnxruntime issue 11535.
        keep_float: Names of nodes to leave alone.
        only: Names of the nodes to quantise; empty for all.

    Raises:
        ModelError: The quantizer fails; names the layer.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    extra: dict[str, Any] = {"ActivationSymmetric": symmetric, "WeightSymmetric": True}
    if for_tensorrt:
        extra |= {"AddQDQPairToWeight": True, "QuantizeBias": False, "DedicatedQDQPair": True}
    arrays = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    copy = type(model)()
    copy.CopyFrom(model)
    try:
        with _quiet():
            quantizer = QDQQuantizer(
                copy,
                per_channel,
                False,
                QuantType.QInt8,
                QuantType.QInt8 if symmetric else QuantType.QUInt8,
                TensorsData(CalibrationMethod.MinMax, arrays),
                list(only),
                list(keep_float),
                sorted({*QLinearOpsRegistry, *QDQRegistry}),
                extra,
            )
            quantizer.quantize_model()
    except Exception as cause:  # the quantizer raises whatever comes
        raise ModelError(
            f"ONNX Runtime cannot quantise {graph.blamed(model, str(cause))}: {graph.first_line(cause)}",
            hint="leave that layer in float: keep_float",
        ) from cause
    made = graph.prepared(quantizer.model.model)
    if not for_tensorrt:
        _guard(made, set(keep_float))
    return made


def _guard(model: Any, kept: set[str]) -> None:
    """Keep ONNX Runtime from quantising, with one scale for all, the layers that are to stay in float.

    From 1.21 on it quantises the float weights of any Conv, ConvTranspose and Gemm that stands between
    a DequantizeLinear and a QuantizeLinear when it loads a model. It leaves alone those whose input
    has a scale for each channel, so such layers get a pair of their own with the same scale repeated.

    Source: onnxruntime pull request 22969, ``WeightBiasQuantization``.
    """
    onnx, _ = graph.tools()
    shapes, values = graph.tensor_shapes(model), graph.constants(model)
    writers = {name: node for node in model.graph.node for name in node.output}
    for place, node in reversed(list(enumerate(model.graph.node))):
        source = writers.get(node.input[0]) if node.name in kept else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        shape = shapes.get(node.input[0], ())
        axis = next((i for i in (1, *range(len(shape))) if i < len(shape) and shape[i] > 1), None)
        if axis is None:
            continue
        target = f"{node.output[0]}/input"
        for suffix, name in (("scale", source.input[1]), ("zero", source.input[2])):
            repeated = np.repeat(np.atleast_1d(values[name]), shape[axis])
            model.graph.initializer.append(onnx.numpy_helper.from_array(repeated, f"{target}/{suffix}"))
        inputs = [source.input[0], f"{target}/scale", f"{target}/zero"]
        twin = onnx.helper.make_node("DequantizeLinear", inputs, [target], name=target, axis=axis)
        node.input[0] = target
        model.graph.node.insert(place, twin)


def integer_share(original: Any, made: Any) -> float:
    """Return the share of a model's multiply-adds that ONNX Runtime's CPU kernels run on integers.

    Args:
        original: The float model that was quantised; ``made`` has its node names.
        made: The quantised model.
    """
    onnx, _ = graph.tools()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        target = Path(folder, "optimised.onnx")
        _optimise(made, target, "ORT_ENABLE_EXTENDED")
        running = onnx.load(str(target))
    integers = [node.name for node in running.graph.node if node.op_type in _INTEGER]
    facts = graph.layers_of(original)
    return float(sum(f.multiply_adds for f in facts if any(_is_of(name, f.node) for name in integers)))


def _is_of(name: str, node: str) -> bool:
    """Return whether an optimised node came of a node; some rewrites append to the name."""
    return name == node or name.startswith((f"{node}_quant", f"{node}_fused", f"{node}_MatMulInteger"))


def _optimise(model: Any, target: Path, level: str) -> None:
    _, onnxruntime = graph.tools()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # the library's exceptions have no common base
        raise ModelError(
            f"ONNX Runtime cannot load {graph.blamed(model, str(cause))}: {graph.first_line(cause)}",
            hint="export the model anew, or replace the operator in the model",
        ) from cause


def _without_spare_domains(model: Any) -> Any:
    """Return the model without the operator sets that ONNX Runtime names and nothing uses."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used or entry.domain in ("", "ai.onnx")]
    entries = [(entry.domain, entry.version) for entry in kept]
    del model.opset_import[:]
    for domain, version in entries:
        model.opset_import.add(domain=domain, version=version)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice, which goes to the root logger, from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
