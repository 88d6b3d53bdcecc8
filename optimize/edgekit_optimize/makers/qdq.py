"""ONNX Runtime's static int8: QuantizeLinear and DequantizeLinear pairs around what runs on integers.

The only file that calls ``onnxruntime.quantization``'s quantizer. Ranges come from ``ranges``, so
that their time and memory are bounded and a tensor at fault is named.
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


def quantise_dynamic(model: Any, *, per_channel: bool | None = None, keep_float: Sequence[str] = ()) -> Any:
    """Return the model with int8 weights and activations that are quantised at each inference.

    Args:
        model: As ``graph.read`` returns it.
        per_channel: One scale for each output channel. None: yes, but for convolutions, whose
            dynamic kernels have one scale and unsigned weights only.
        keep_float: Names of nodes to leave alone.

    Raises:
        ModelError: Nothing can be quantised, or the quantizer fails; names the layer.
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
        made = onnx.load(str(target))
    if not any(node.op_type in _INTEGER or "Quant" in node.op_type for node in made.graph.node):
        raise _nothing(model, "dynamic quantisation takes Conv, MatMul, Gemm and LSTM with constant weights")
    return graph.prepared(made)


def quantise_weights(model: Any, *, bits: int, keep_float: Sequence[str] = ()) -> tuple[Any, float]:
    """Return the model with the weights of MatMul and Gemm in few bits, and their share of the work.

    Raises:
        ModelError: There is no such layer, or the quantizer fails; names the layer.
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
    made = quantizer.model.model
    changed = [node.name for node in made.graph.node if node.op_type == "MatMulNBits"]
    facts = graph.layers_of(model)
    share = sum(f.multiply_adds for f in facts if any(name.startswith(f.node) for name in changed))
    if not changed:
        raise _nothing(model, "weights in 4 bits are for MatMul and Gemm with constant weights")
    return made, float(share)


def _split_gemms(model: Any, kept: set[str]) -> None:
    """Write each plain Gemm with constant weights as a MatMul and an Add."""
    onnx, _ = graph.tools()
    values = graph.constants(model)
    for place, node in reversed(list(enumerate(model.graph.node))):
        set_to = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        scaled = set_to.get("alpha", 1.0) != 1.0 or set_to.get("beta", 1.0) != 1.0 or set_to.get("transA")
        if node.op_type != "Gemm" or node.name in kept or node.input[1] not in values or scaled:
            continue
        weights = values[node.input[1]]
        matrix, product = f"{node.input[1]}/{node.output[0]}", f"{node.output[0]}/product"
        turned = np.ascontiguousarray(weights.T if set_to.get("transB") else weights)
        model.graph.initializer.append(onnx.numpy_helper.from_array(turned, matrix))
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
    found = ", ".join(f"{count} {operator}" for operator, count in counts.items()) or "no such layer"
    return ModelError(f"nothing to quantise: {why}; the model has {found}")


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
    share = sum(f.multiply_adds for f in facts if any(_is_of(name, f.node) for name in integers))
    return round(min(share, 1.0), 6)


def _is_of(name: str, node: str) -> bool:
    """Return whether an optimised node came of a node; some rewrites append to the name."""
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
def _named(model: Any) -> Iterator[None]:
    """Turn what a quantizer raises into an error that names the layer."""
    try:
        yield
    except ModelError:
        raise
    except Exception as cause:  # the quantizers raise whatever comes
        raise ModelError(
            f"ONNX Runtime cannot quantise {graph.blamed(model, str(cause))}: {graph.first_line(cause)}",
            hint="leave that layer in float: keep_float",
        ) from cause
