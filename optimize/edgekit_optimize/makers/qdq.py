"""Quantises ONNX models with ``onnxruntime.quantization``: static, dynamic, and weights only.

Activation ranges come from ``ranges``, so that calibration has bounded time and memory, and its errors
name the tensor.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekit.core.errors import ModelError
from edgekit_optimize.makers import graph
from edgekit_optimize.makers.ranges import Range
from edgekit_optimize.quiet import hushed

# Operators with integer kernels, in the standard domain and in com.microsoft.
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

    These are ONNX Runtime's basic optimisations: the result has only standard operators and is the same
    on every machine, unlike with the higher levels.

    Raises:
        ModelError: ONNX Runtime cannot load the model; the message names the layer.
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
        ranges: The range of every float activation.
        per_channel: One weight scale per output channel.
        symmetric: int8 activations, zero point 0.
        for_tensorrt: Write what TensorRT's parser needs: float weights followed by a Q/DQ pair, float
            bias, one pair per reader. Source: onnxruntime issue 11535.
        keep_float: Names of nodes to leave in float.
        only: Names of the nodes to quantise; empty for all.

    Raises:
        ModelError: The quantizer fails; the message names the layer.
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
    with _named(model), hushed():
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
    quantised = graph.prepared(quantizer.model.model)
    if not for_tensorrt:
        _guard(quantised, set(keep_float))
    return quantised


def _guard(model: Any, keep_nodes: set[str]) -> None:
    """Prevent ONNX Runtime from quantising the layers that stay in float.

    Since 1.21 it quantises, at load and per tensor, the float weights of any Conv, ConvTranspose and Gemm
    between a DequantizeLinear and a QuantizeLinear, unless its input has per-channel scales. So these
    layers get their own Q/DQ pair with the same scale repeated per channel.

    Source: onnxruntime pull request 22969, ``WeightBiasQuantization``.
    """
    onnx, _ = graph.tools()
    shapes, values = graph.tensor_shapes(model), graph.constants(model)
    writers = {name: node for node in model.graph.node for name in node.output}
    for index, node in reversed(list(enumerate(model.graph.node))):
        source = writers.get(node.input[0]) if node.name in keep_nodes else None
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
        model.graph.node.insert(index, twin)


def quantise_dynamic(model: Any, *, per_channel: bool | None = None, keep_float: Sequence[str] = ()) -> Any:
    """Return the model with int8 weights, and activations quantised at each inference.

    Args:
        model: As ``graph.read`` returns it.
        per_channel: One weight scale per output channel. None: yes, except for convolutions, whose
            dynamic kernels support only one scale and unsigned weights.
        keep_float: Names of nodes to leave in float.

    Raises:
        ModelError: Nothing can be quantised, or the quantizer fails; the message names the layer.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx, _ = graph.tools()
    convolves = any(node.op_type == "Conv" and node.name not in keep_float for node in model.graph.node)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder, _named(model), hushed():
        target = Path(folder, "dynamic.onnx")
        quantize_dynamic(
            copy,
            target,
            per_channel=not convolves if per_channel is None else per_channel,
            weight_type=QuantType.QUInt8 if convolves else QuantType.QInt8,
            nodes_to_exclude=list(keep_float),
        )
        quantised = onnx.load(str(target))
    if not any(node.op_type in _INTEGER or "Quant" in node.op_type for node in quantised.graph.node):
        raise _nothing(
            model, "dynamic quantisation supports Conv, MatMul, Gemm and LSTM with constant weights"
        )
    return graph.prepared(quantised)


def quantise_weights(model: Any, *, bits: int, keep_float: Sequence[str] = ()) -> tuple[Any, float]:
    """Return the model with MatMul and Gemm weights in 4 or 8 bits, and their share of the work.

    Raises:
        ModelError: There is no such layer, or the quantizer fails; the message names the layer.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    onnx, _ = graph.tools()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _split_gemms(copy, set(keep_float))
    with _named(model), hushed():
        quantizer = MatMulNBitsQuantizer(
            copy,
            bits=bits,
            block_size=32,
            is_symmetric=True,
            accuracy_level=4,
            nodes_to_exclude=[*keep_float],
        )
        quantizer.process()
    quantised = quantizer.model.model
    changed = [node.name for node in quantised.graph.node if node.op_type == "MatMulNBits"]
    layers = graph.layers_of(model)
    share = sum(f.multiply_adds for f in layers if any(name.startswith(f.node) for name in changed))
    if not changed:
        raise _nothing(model, "4-bit weights are supported for MatMul and Gemm with constant weights")
    return quantised, float(share)


def _split_gemms(model: Any, kept: set[str]) -> None:
    """Replace each plain Gemm with constant weights by a MatMul and an Add."""
    onnx, _ = graph.tools()
    values = graph.constants(model)
    for place, node in reversed(list(enumerate(model.graph.node))):
        set_to = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        scaled = set_to.get("alpha", 1.0) != 1.0 or set_to.get("beta", 1.0) != 1.0 or set_to.get("transA")
        if node.op_type != "Gemm" or node.name in kept or node.input[1] not in values or scaled:
            continue
        weights = values[node.input[1]]
        matrix, product = f"{node.input[1]}/{node.output[0]}", f"{node.output[0]}/product"
        transposed = np.ascontiguousarray(weights.T if set_to.get("transB") else weights)
        model.graph.initializer.append(onnx.numpy_helper.from_array(transposed, matrix))
        bias = [name for name in node.input[2:] if name]
        output, source = node.output[0], node.input[0]
        multiply = onnx.helper.make_node(
            "MatMul", [source, matrix], [product if bias else output], name=node.name
        )
        model.graph.node.remove(node)
        if bias:
            add = onnx.helper.make_node("Add", [product, bias[0]], [output], name=f"{multiply.name}/bias")
            model.graph.node.insert(place, add)
        model.graph.node.insert(place, multiply)
    read = {name for node in model.graph.node for name in node.input}
    spare = [tensor for tensor in model.graph.initializer if tensor.name not in read]
    for tensor in spare:
        model.graph.initializer.remove(tensor)


def _nothing(model: Any, why: str) -> ModelError:
    counts = Counter(fact.operator for fact in graph.layers_of(model))
    operators = ", ".join(f"{count} {operator}" for operator, count in counts.items()) or "no such layer"
    return ModelError(f"nothing to quantise: {why}; the model has {operators}")


def integer_share(original: Any, quantised: Any) -> float:
    """Return the share of a model's multiply-adds that ONNX Runtime's CPU kernels run on integers.

    Args:
        original: The float model.
        quantised: The quantised model, with the same node names.
    """
    onnx, _ = graph.tools()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        target = Path(folder, "optimised.onnx")
        _optimise(quantised, target, "ORT_ENABLE_EXTENDED")
        running = onnx.load(str(target))
    integers = [node.name for node in running.graph.node if node.op_type in _INTEGER]
    layers = graph.layers_of(original)
    share = sum(f.multiply_adds for f in layers if any(_is_of(name, f.node) for name in integers))
    return round(min(share, 1.0), 6)


def _is_of(name: str, node: str) -> bool:
    """Return whether an optimised node is derived from a node; some rewrites append to the name."""
    return name == node or name.startswith((f"{node}_quant", f"{node}_fused", f"{node}_MatMul"))


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
            hint="export the model again, or replace the operator in the model",
        ) from cause


def _without_spare_domains(model: Any) -> Any:
    """Return the model without the operator sets that ONNX Runtime adds but nothing uses."""
    used = {node.domain for node in model.graph.node}
    used_domains = [
        entry for entry in model.opset_import if entry.domain in used or entry.domain in ("", "ai.onnx")
    ]
    entries = [(entry.domain, entry.version) for entry in used_domains]
    del model.opset_import[:]
    for domain, version in entries:
        model.opset_import.add(domain=domain, version=version)
    return model


@contextmanager
def _named(model: Any) -> Iterator[None]:
    """Convert a quantizer's exceptions to a ``ModelError`` that names the layer."""
    try:
        yield
    except ModelError:
        raise
    except Exception as cause:  # the quantizers raise exceptions of any type
        raise ModelError(
            f"ONNX Runtime cannot quantise {graph.blamed(model, str(cause))}: {graph.first_line(cause)}",
            hint="leave that layer in float: keep_float",
        ) from cause
