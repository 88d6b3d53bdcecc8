"""Rewrite a float ONNX model into canonical form: static shapes, constants folded, every node named.

ONNX Runtime's basic optimisation level, saved to a file, folds constants and removes identities,
dropouts and batch normalisations. It is installed wherever this kit is, and its output is standard
ONNX with the tensors' names kept (tried on the zoo, and on networks from both of torch's exporters);
simplifiers would each be one more dependency for the same result. ``MatMulAddFusion`` is disabled,
since it adds reshapes around three-axis products. A result with a non-standard operator is not used:
the model stays as it was, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edgekit.core.errors import ModelError
from edgekit_optimize.readers.memory import check_memory
from edgekit_optimize.readers.onnx_faults import STANDARD, check_operators, check_weights, culprit, every_node
from edgekit_optimize.readers.onnx_shapes import Shape, fix_shapes
from edgekit_optimize.readers.onnx_trial import prove_batch, rank_outputs
from edgekit_optimize.readers.onnx_types import widen
from edgekit_optimize.readers.tools import library, short

OPSET: Final = 13
"""The lowest opset of canonical models: the first with per-channel scales."""

_IR_VERSION: Final = 8
_LEFT_OUT: Final = ("MatMulAddFusion",)


def onnx_files(path: Path) -> tuple[Path, ...]:
    """Return an ONNX file and its external weights, which must be beside or below it.

    Raises:
        ModelError: The file is not ONNX, or an external file is missing or outside its folder.
    """
    files = {path: None}
    for tensor in _tensors(_parsed(path)):
        for entry in tensor.external_data:
            if entry.key == "location":
                files[_beside(path, entry.value)] = None
    return tuple(files)


def canonical_onnx(
    path: Path, target: Path, shapes: Mapping[str, Shape], fallback: Mapping[str, Shape], *, what: str = ""
) -> tuple[str, ...]:
    """Write the canonical form of an ONNX model.

    Args:
        path: The model; external weights are beside it.
        target: The file to write.
        shapes: Complete shapes of inputs with free dimensions, by name; "" for the only input.
        fallback: Shapes for inputs that are still free, by name.
        what: What to call the model in errors; the file's name by default.

    Returns:
        A sentence for each change.

    Raises:
        ModelError: The model cannot be used; the error names the node and operator, or the tensor.
        UsageError: ``shapes`` does not fit the model.
        ConfigError: There is too little memory.
        BackendUnavailableError: ONNX or ONNX Runtime is not installed.
    """
    what = what or path.name
    check_memory(what, sum(file.stat().st_size for file in onnx_files(path)))
    model = _loaded(path)
    check_operators(model, what)
    _drop_initialised_inputs(model, what)
    check_weights(model, what)
    widened = widen(model)
    model, raised = _raised(model, what)
    batches = fix_shapes(model, shapes, fallback, what)
    model = _inferred(model, what)
    name_nodes(model)
    model, folded = _folded(model, target, what)
    _drop_allowed_zeros(model)
    prove_batch(model, batches, what)
    rank_outputs(model, what)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return (*raised, *widened, *folded)


def name_nodes(model: Any) -> None:
    """Give every node a unique name, in place; an unnamed node gets its first output's name."""
    seen: set[str] = set()
    for node in every_node(model.graph):
        name = node.name or f"{node.op_type}:{next((o for o in node.output if o), '')}"
        base, number = name, 2
        while name in seen:
            name, number = f"{base}#{number}", number + 1
        seen.add(name)
        node.name = name


# ---------------------------------------------------------------------------------------------
# Reading


def _parsed(path: Path) -> Any:
    onnx = library("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as cause:
        raise ModelError(f"{path} does not exist") from cause
    except OSError as cause:
        raise ModelError(f"cannot read {path}: {cause.strerror}") from cause
    except Exception as cause:  # protobuf's DecodeError, whose class depends on its implementation
        raise ModelError(
            f"{path.name} is not ONNX, or is truncated: {cause}",
            hint="run git lfs pull: this is only the file's pointer"
            if _is_pointer(path)
            else "copy it again",
        ) from cause
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path.name} is not ONNX: it has no graph", hint="export the model again")
    if not model.graph.node:
        raise ModelError(f"{path.name} has a graph without any operator", hint="export the model again")
    return model


def _is_pointer(path: Path) -> bool:
    """Return whether a file is a Git LFS pointer."""
    with path.open("rb") as file:
        return file.read(64).startswith(b"version https://git-lfs")


def _loaded(path: Path) -> Any:
    onnx = library("onnx")
    model = _parsed(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except Exception as cause:
        raise ModelError(f"cannot read {path.name}: {cause}") from cause
    return model


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in every_node(model.graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            yield from attribute.g.initializer


def _beside(path: Path, location: str) -> Path:
    file = (path.parent / location).resolve()
    if not file.is_relative_to(path.parent.resolve()):
        raise ModelError(f"{path.name}: external weights {location!r} are outside the model's folder")
    if not file.is_file():
        raise ModelError(
            f"{path.name}: its external weights {location!r} are missing",
            hint=f"put {location} beside {path.name}, or export the model as one file",
        )
    return file


# ---------------------------------------------------------------------------------------------
# Rewriting


def _drop_initialised_inputs(model: Any, what: str) -> None:
    """Remove constants from the inputs, where older exporters list them too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    if not kept:
        raise ModelError(f"{what} takes no input: its output is constant", hint="export the model again")
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _IR_VERSION)


def _raised(model: Any, what: str) -> tuple[Any, tuple[str, ...]]:
    onnx = library("onnx")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset >= OPSET:
        return model, ()
    try:
        raised = library("onnx.version_converter").convert_version(model, OPSET)
        onnx.checker.check_model(raised)
    except Exception as cause:
        raise ModelError(
            f"{what} has ONNX opset {opset} and cannot be upgraded to {OPSET}: {short(cause)}",
            hint=f"export the model again with opset {OPSET} or newer",
        ) from cause
    return raised, (f"upgraded from ONNX opset {opset} to {OPSET}",)


def _inferred(model: Any, what: str) -> Any:
    onnx = library("onnx")
    try:
        onnx.checker.check_model(model_with_output_types(model))
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as cause:
        raise ModelError(
            f"{what} is not a valid ONNX model: {short(cause)}", hint="export the model again"
        ) from cause


def model_with_output_types(model: Any) -> Any:
    """Return a copy in which outputs without a shape have an empty one, as the checker requires."""
    copy = type(model)()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.Clear()
    return copy


def _folded(model: Any, target: Path, what: str) -> tuple[Any, tuple[str, ...]]:
    onnx, runtime = library("onnx"), library("onnxruntime")
    written = target.with_suffix(".folding")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(written)
    options.log_severity_level = 4
    try:
        runtime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_LEFT_OUT),
        )
        folded = onnx.load(written)
    except Exception as cause:
        raise _refused(model, what, cause) from cause
    finally:
        written.unlink(missing_ok=True)
    foreign = sorted({node.op_type for node in every_node(folded.graph) if node.domain not in STANDARD})
    if foreign:
        return model, (f"not folded: the result had {foreign[0]}, which is not standard ONNX",)
    _drop_unused_domains(folded)
    name_nodes(folded)
    folded = onnx.shape_inference.infer_shapes(folded, data_prop=True)
    before, after = len(model.graph.node), len(folded.graph.node)
    return folded, (f"constants folded and nodes merged: {before} became {after}",) if after != before else ()


def _drop_allowed_zeros(model: Any) -> None:
    """Remove ``allowzero`` from reshapes to shapes without zeros: older opsets do not have it."""
    onnx = library("onnx")
    sizes = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in every_node(model.graph):
        if node.op_type != "Reshape" or node.input[1] not in sizes:
            continue
        flags = [entry for entry in node.attribute if entry.name == "allowzero"]
        if flags and onnx.numpy_helper.to_array(sizes[node.input[1]]).all():
            node.attribute.remove(flags[0])


def _drop_unused_domains(model: Any) -> None:
    used = {"ai.onnx" if node.domain == "" else node.domain for node in every_node(model.graph)}
    kept = [entry for entry in model.opset_import if (entry.domain or "ai.onnx") in used | {"ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _refused(model: Any, what: str, cause: Exception) -> ModelError:
    """Return an error that names the node that ONNX Runtime rejects, if its message does."""
    hint = "replace that layer, or export the model with another opset or input shape"
    if "NOT_IMPLEMENTED" in str(cause) and _has_doubles(model):
        hint = (
            "the model computes in float64, which no device supports: export it in float32 (module.float())"
        )
    return ModelError(f"{what}: ONNX Runtime rejects {culprit(model, cause)}: {short(cause)}", hint=hint)


def _has_doubles(model: Any) -> bool:
    double = library("onnx").TensorProto.DOUBLE
    inputs = any(value.type.tensor_type.elem_type == double for value in model.graph.input)
    return inputs or any(tensor.data_type == double for tensor in model.graph.initializer)
