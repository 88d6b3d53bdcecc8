"""Measures how much int8 in each layer alone changes the model's outputs.

The weights of one layer and its input and output activations are rounded as in static int8, in an
otherwise float model: one small ONNX Runtime session per layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.makers import cuts, graph, qdq
from edgekit_optimize.makers.graph import LayerFact
from edgekit_optimize.makers.ranges import Range, observe
from edgekit_optimize.makers.samples import Feeds, calibration
from edgekit_optimize.plan import Root
from edgekit_optimize.study import LayerSensitivity

__all__ = ["LayerFact", "LayerSensitivity", "layers", "measure", "suggest"]

Outputs = dict[str, NDArray[Any]]
Agreement = Callable[[Outputs, Outputs], float]
_MOST_DB: Final = 120.0  # beyond float32's own precision
_BUDGET_S: Final = 300.0
_FEWEST_SAMPLES: Final = 4
_CLAMPS: Final = ("Relu", "Clip")


def layers(onnx: Path) -> tuple[LayerFact, ...]:
    """Return every Conv, ConvTranspose, Gemm and MatMul of a model with its share of the work.

    Raises:
        ModelError: The file is not a valid ONNX model for compression.
    """
    return graph.layers_of(graph.read(onnx))


def measure(
    root: Root,
    *,
    samples: int = 32,
    progress: Callable[[int, int], None] | None = None,
    agreement: Agreement | None = None,
    budget_s: float = _BUDGET_S,
) -> tuple[LayerSensitivity, ...]:
    """Return the effect on the model's outputs of quantising each layer alone.

    Args:
        root: The model, with an ONNX form and calibration data.
        samples: Maximum number of calibration samples.
        progress: Called with the number of layers done and of all layers.
        agreement: Returns the similarity, 0 to 1, of the float and the quantised outputs of one
            sample. Default: whether the top class is the same if the only output is a row of scores,
            else the cosine of the outputs.
        budget_s: Time limit in seconds, kept by running fewer samples (at least 4).

    Returns:
        One row per layer, the most harmful first, named by its output tensor in the ONNX form.

    Raises:
        ModelError: The root has no ONNX form, or the model cannot be run.
        TensorError: The calibration data are unusable.
    """
    if not root.onnx:
        reason = root.missing.get("onnx", "it was not converted")
        raise ModelError(
            f"per-layer sensitivity needs the model's ONNX form, which is missing: {reason}",
            hint="give the model as ONNX or as a torch module",
        )
    original = graph.read(Path(root.onnx))
    model = qdq.fold(original)
    feeds = calibration(root, limit=samples)
    ranges = observe(model, feeds)
    layer_facts = graph.layers_of(model)
    names = _original_names(original, layer_facts)
    run = _session(model)
    began = time.monotonic()
    reference = [run(feed) for feed in feeds]
    feeds = feeds[: _affordable(time.monotonic() - began, len(feeds), len(layer_facts), budget_s)]
    alike = agreement or (_same_class if _is_classifier(reference[0]) else _cosine)
    reference, rows = reference[: len(feeds)], []
    for done, (fact, tail, entries) in enumerate(_tails(model, layer_facts, feeds), 1):
        alone = _session(_alone(tail, fact, ranges))
        answers = [alone(entry) for entry in entries]
        rows.append(_row(names[fact.name], fact, reference, answers, alike))
        if progress is not None:
            progress(done, len(layer_facts))
    return tuple(sorted(rows, key=lambda row: (row.sqnr_db, row.layer)))


def suggest(
    sensitivity: Sequence[LayerSensitivity], counts: Sequence[int] = (1, 2, 4, 8, 16)
) -> tuple[tuple[str, ...], ...]:
    """Return sets of layers to leave in float, each a superset of the one before.

    Args:
        sensitivity: As ``measure`` returns it.
        counts: Maximum number of layers of each set.

    Returns:
        The most harmful layers, worst first. No set has more than half of the model's work, since
        such a candidate would gain nothing.

    >>> rows = [
    ...     LayerSensitivity(layer=n, operator="Conv", sqnr_db=d, agreement=1.0, multiply_adds=m)
    ...     for n, d, m in (("a", 9.0, 0.2), ("b", 12.0, 0.6), ("c", 30.0, 0.2))
    ... ]
    >>> suggest(rows, (1, 2, 4))
    (('a',), ('a', 'c'))
    """
    chosen, work = [], 0.0
    for row in sorted(sensitivity, key=lambda row: (row.sqnr_db, row.layer)):
        if work + row.multiply_adds <= 0.5:
            chosen.append(row.layer)
            work += row.multiply_adds
    sets = [tuple(chosen[:count]) for count in sorted(counts)]
    return tuple(dict.fromkeys(layer_set for layer_set in sets if layer_set))


def _original_names(original: Any, layer_facts: Sequence[LayerFact]) -> dict[str, str]:
    """Return the original name of each layer after folding."""
    before = graph.layers_of(original)
    folded_names = {fact.name for fact in layer_facts}
    names = {fact.name: fact.name for fact in layer_facts}
    for fact in before:
        matches = [alias for alias in graph.aliases(original, fact.name) if alias in folded_names]
        if matches:
            names[matches[0]] = fact.name
    return names


def _affordable(took_s: float, samples: int, layers: int, budget_s: float) -> int:
    """Return how many samples fit into the time limit, given the duration of one pass over all."""
    each_s = max(took_s / samples, 1e-6) * max(layers, 1)
    return min(samples, max(_FEWEST_SAMPLES, int(budget_s / each_s)))


def _tails(
    model: Any, layer_facts: Sequence[LayerFact], feeds: list[Feeds]
) -> Iterator[tuple[LayerFact, Any, list[Feeds]]]:
    """Yield each layer with the shortest tail of the model that contains it, and the tail's inputs.

    The part before a layer is not changed by quantising it, so it is run only once per sample.
    """
    cut, tail, begin = cuts.bridges(model), model, 0
    index_of = {node.name: index for index, node in enumerate(model.graph.node)}
    for fact in layer_facts:
        nearest = max((at for at in cut if at <= index_of[fact.node]), default=0)
        if nearest > begin:
            name = cut[nearest]
            run = _session(cuts.part(model, begin, cut.get(begin, ""), nearest, name))
            feeds = [run(feed) for feed in feeds]
            begin, tail = nearest, cuts.part(model, nearest, name)
        yield fact, tail, feeds


def _session(model: Any) -> Callable[[Feeds], Outputs]:
    _, onnxruntime = graph.tools()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # as on the device
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as cause:  # the library's exceptions have no common base
        raise ModelError(
            f"ONNX Runtime cannot run {graph.blamed(model, str(cause))}: {graph.first_line(cause)}"
        ) from cause
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


# ---------------------------------------------------------------------------------------------
# One layer in int8


def _alone(model: Any, fact: LayerFact, ranges: Mapping[str, Range]) -> Any:
    """Return the model with one layer's weights and activations rounded to 8 bits."""
    onnx, _ = graph.tools()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = changed.graph.node
    position, node = next((i, node) for i, node in enumerate(nodes) if node.name == fact.node)
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}
    readers = [(i, other) for i, other in enumerate(nodes) if node.output[0] in other.input]
    last, output = position, node.output[0]
    if len(readers) == 1 and readers[0][1].op_type in _CLAMPS:  # the clamp is part of the quantisation
        last, output = readers[0][0], readers[0][1].output[0]
    if not any(value.name == output for value in changed.graph.output):
        for other in nodes:
            _rename(other, output, f"{output}/rounded")
        _round(changed, output, f"{output}/rounded", ranges[output], last + 1)
    for index in (1, 0):
        source = node.input[index]
        if index == 1 and source in constants:
            _round_weights(constants[source], node, changed, position)
        elif source in ranges:
            node.input[index] = f"{source}/rounded{index}"
            _round(changed, source, f"{source}/rounded{index}", ranges[source], position)
    return changed


def _rename(node: Any, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def _round(model: Any, source: str, target: str, span: Range, index: int) -> None:
    """Insert a Q/DQ pair that rounds an activation to 8 bits."""
    onnx, _ = graph.tools()
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = np.float32(max((high - low) / 255.0, 1e-12))
    zero = np.uint8(np.clip(np.round(-low / scale), 0, 255))
    for name, value in ((f"{target}/scale", scale), (f"{target}/zero", zero)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    parameters = [f"{target}/scale", f"{target}/zero"]
    make = onnx.helper.make_node
    pair = [
        make("QuantizeLinear", [source, *parameters], [f"{target}/integers"], name=f"{target}/q"),
        make("DequantizeLinear", [f"{target}/integers", *parameters], [target], name=f"{target}/dq"),
    ]
    for offset, node in enumerate(pair):
        model.graph.node.insert(index + offset, node)


def _round_weights(tensor: Any, node: Any, model: Any, index: int) -> None:
    """Replace a layer's weights by int8 ones, symmetric, one scale per output channel."""
    onnx, _ = graph.tools()
    values = onnx.numpy_helper.to_array(tensor)
    if values.ndim < 2 or values.dtype != np.float32:
        return
    axis = _channel_axis(node, values.ndim)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.maximum(np.abs(values).max(axis=others) / 127.0, 1e-12).astype(np.float32)
    spread = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    integers = np.clip(np.round(values / spread), -127, 127).astype(np.int8)
    name = f"{tensor.name}/rounded"  # another layer may use the same weights
    parts = {"integers": integers, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
    for suffix, array in parts.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}/{suffix}"))
    inputs = [f"{name}/{suffix}" for suffix in parts]
    model.graph.node.insert(
        index, onnx.helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=axis)
    )
    node.input[1] = name


def _channel_axis(node: Any, axes: int) -> int:
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    if node.op_type == "Conv" or (node.op_type == "Gemm" and is_transposed):
        return 0
    return 1 if node.op_type == "ConvTranspose" else axes - 1


# ---------------------------------------------------------------------------------------------
# Similarity of outputs


def _row(
    name: str, fact: LayerFact, reference: list[Outputs], answers: list[Outputs], alike: Agreement
) -> LayerSensitivity:
    same = [float(np.nan_to_num(alike(*pair))) for pair in zip(reference, answers, strict=True)]
    return LayerSensitivity(
        layer=name,
        operator=fact.operator,
        sqnr_db=round(min(_sqnr_db(output, reference, answers) for output in reference[0]), 3),
        agreement=float(np.clip(np.mean(same), 0.0, 1.0)),
        multiply_adds=fact.multiply_adds,
    )


def _sqnr_db(name: str, reference: list[Outputs], answers: list[Outputs]) -> float:
    """Return the signal-to-noise ratio of the outputs over all samples, in decibels."""
    signal = noise = 0.0
    for expected, actual in zip(reference, answers, strict=True):
        real = np.asarray(expected[name], np.float64)
        signal += float(np.sum(real**2))
        noise += float(np.sum((real - actual[name]) ** 2))
    if not np.isfinite(noise):
        return -_MOST_DB
    if noise == 0.0:
        return _MOST_DB
    return float(np.clip(10.0 * np.log10(max(signal, 1e-300) / noise), -_MOST_DB, _MOST_DB))


def _is_classifier(outputs: Outputs) -> bool:
    """Return whether the only output is one row of at least two scores."""
    sizes = [values.shape for values in outputs.values()]
    return len(sizes) == 1 and len(sizes[0]) > 0 and sizes[0][-1] == np.prod(sizes[0]) > 1


def _same_class(expected: Outputs, actual: Outputs) -> float:
    (name,) = expected
    return float(np.argmax(expected[name]) == np.argmax(actual[name]))


def _cosine(expected: Outputs, actual: Outputs) -> float:
    """Return the lowest cosine between an output and its reference."""
    lowest = 1.0
    for name, values in expected.items():
        real, other = np.asarray(values, np.float64).ravel(), np.asarray(actual[name], np.float64).ravel()
        size = float(np.linalg.norm(real) * np.linalg.norm(other))
        same = float(real @ other) / size if size > 0.0 else float(np.array_equal(real, other))
        lowest = min(lowest, same)
    return lowest
