"""Export a torch module or exported program to ONNX, and run it for numerical checks.

``torch.onnx.export(dynamo=True)`` comes first: it supports more than the older tracer (attention, FFT,
adaptive pooling of any size; tried with torch 2.13) and refuses data-dependent control flow, of which
the tracer silently exports one branch. The tracer is the fallback, with its warnings about the user's
code turned into errors. Needs ``onnxscript``.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, ModelError, UsageError
from edgekit_optimize.readers.onnx_faults import every_node
from edgekit_optimize.readers.onnx_shapes import Shape
from edgekit_optimize.readers.record import Record
from edgekit_optimize.readers.runs import Run, Tensors
from edgekit_optimize.readers.tools import library, short
from edgekit_optimize.readers.torch_program import is_program, load_program

logger = logging.getLogger(__name__)

_OPSET: Final = 18
_TRACER_OPSET: Final = 17
_SCOPES: Final = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class TorchModel:
    """A module in evaluation mode, the names of its inputs, and an example of each."""

    module: Any
    names: tuple[str, ...]
    example: tuple[Any, ...]
    program: Any = None

    def call(self) -> dict[str, Any]:
        """Return the outputs for the example, by name."""
        torch = library("torch", "torch")
        try:
            with torch.no_grad():
                outputs = self.module(*self.example)
        except Exception as cause:
            shapes = [list(value.shape) for value in self.example]
            raise ModelError(
                f"the module does not run on inputs of shape {shapes}: {short(cause)}",
                hint="return (module, example_inputs) from the function, or give --shape NAME=1,3,224,224",
            ) from cause
        return flatten(outputs)


def load_torch(
    reference: str, shapes: Mapping[str, Shape], sample: Mapping[str, NDArray[Any]], state: str = ""
) -> TorchModel:
    """Build or load a torch model.

    Args:
        reference: ``module:function``, or a ``.pt2`` file.
        shapes: Complete input shapes by name ("" for the only one); they override the example's.
        sample: Arrays by input name, with their batch axis; their shapes are the last resort.
        state: A file with the weights to load; empty to keep those that the function set.

    Raises:
        ModelError: The function, the file or the module is at fault.
        UsageError: ``reference`` or an input in ``shapes`` does not exist.
        BackendUnavailableError: torch is not installed.
    """
    torch = library("torch", "torch")
    if is_program(reference):
        return TorchModel(*load_program(torch, Path(reference)))
    module, example = _built(torch, reference)
    if state:
        module.load_state_dict(torch.load(state, weights_only=True))
    module.eval()
    names = _input_names(module, reference)
    return TorchModel(module, *_examples(torch, reference, names, example, dict(shapes), sample))


def export_onnx(model: TorchModel, target: Path, what: str) -> tuple[str, ...]:
    """Write a torch model as ONNX, with layers named after the modules they come from.

    Returns:
        A sentence for each thing that was unusual.

    Raises:
        ModelError: Both exporters fail; the error has both reasons.
        BackendUnavailableError: torch or onnxscript is not installed.
    """
    library("onnxscript", "torch")
    outputs = tuple(model.call())
    try:
        _export_dynamo(model, target, outputs)
    except Exception as cause:
        first = _export_fault(cause)
        if model.program is not None:
            raise ModelError(
                f"{what} cannot be exported to ONNX: {first}",
                hint="replace the operation named above, or export to ONNX yourself and give the file",
            ) from cause
    else:
        _name_by_module(target)
        return ()
    try:
        assumed = _export_traced(model, target, outputs)
    except Exception as cause:
        raise ModelError(
            f"{what} cannot be exported to ONNX",
            reasons=(f"torch.onnx.export(dynamo=True): {first}", f"dynamo=False: {_export_fault(cause)}"),
            hint="replace the operation named above, or export to ONNX yourself and give the file",
        ) from cause
    if assumed:
        raise ModelError(
            f"{what}: its computation depends on its input's values, which one exported graph cannot express",
            reasons=(*assumed[:5], f"torch.onnx.export(dynamo=True): {first}"),
            hint="write the branch with torch.where or torch.cond",
        )
    note = f"exported by torch's older tracer, since dynamo=True failed: {first}"
    logger.warning("%s: %s", what, note)
    return (note,)


def keep_state(model: TorchModel, target: Path) -> str:
    """Save a module's weights, so that checks run what was exported; return the path."""
    library("torch", "torch").save(model.module.state_dict(), target)
    return str(target)


def torch_run(record: Record) -> Run:
    """Open the torch model of a record, with the weights it had when it was read."""
    torch = library("torch", "torch")
    shapes = {name: tuple(shape) for name, shape in record.shapes.items()}
    model = load_torch(record.path, shapes, {}, record.state)

    def call(feeds: Tensors) -> Tensors:
        inputs = tuple(torch.from_numpy(feeds[name]) for name in model.names)
        outputs = TorchModel(model.module, model.names, inputs).call()
        return {name: value.detach().numpy() for name, value in outputs.items()}

    return Run(
        model.names,
        tuple(tuple(value.shape) for value in model.example),
        tuple(np.dtype(str(value.dtype).removeprefix("torch.")) for value in model.example),
        call,
    )


def flatten(result: Any, name: str = "output") -> dict[str, Any]:
    """Return the tensors of a module's result by name: a mapping's keys, or numbered.

    Raises:
        ModelError: The result holds something that is not a tensor.
    """
    if hasattr(result, "detach"):
        return {name: result}
    if isinstance(result, Mapping):
        entries = [(str(key), value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        entries = [(f"{name}_{number}", value) for number, value in enumerate(result)]
    else:
        raise ModelError(
            f"the module returns {_a(result)}",
            hint="return a tensor, or a tuple or mapping of tensors",
        )
    flat: dict[str, Any] = {}
    for key, value in entries:
        if value is not None:
            flat.update(flatten(value, key))
    return flat


# ---------------------------------------------------------------------------------------------
# Building


def _built(torch: Any, reference: str) -> tuple[Any, Any]:
    name, _, function = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path[:1]:
        sys.path.insert(0, here)
    try:
        build = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError) as cause:
        raise UsageError(
            f"{reference!r} is not a function: {short(cause)}",
            hint="the module is searched in the current folder, then on Python's path",
        ) from cause
    try:
        result = build()
    except Exception as cause:
        raise ModelError(f"{reference}() failed: {type(cause).__name__}: {short(cause)}") from cause
    module, example = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"{reference}() returns {_a(module)}",
            hint="return a torch.nn.Module, or (module, example_inputs)",
        )
    return module, example


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def _input_names(module: Any, reference: str) -> tuple[str, ...]:
    """Return the required inputs of ``forward``; its first input if none is required."""
    schema = getattr(module.forward, "schema", None)
    if schema is not None:  # TorchScript, which has no signature
        return tuple(argument.name for argument in schema.arguments[1:] if not argument.has_default_value())
    parameters = inspect.signature(module.forward).parameters.values()
    usual = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in usual and p.default is inspect.Parameter.empty)
    names = names or tuple(p.name for p in parameters if p.kind in usual)[:1]
    if not names and not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise ModelError(
            f"{reference}() returns a module whose forward takes no input",
            hint="return a module whose forward takes tensors",
        )
    return names or ("input",)


def _examples(
    torch: Any,
    reference: str,
    names: tuple[str, ...],
    example: Any,
    shapes: dict[str, Shape],
    sample: Mapping[str, NDArray[Any]],
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    defaults = _given(torch, names, example)
    if defaults is not None:
        names = (*names, *(f"input_{i}" for i in range(len(names), len(defaults))))[: len(defaults)]
    if "" in shapes and len(names) == 1:
        shapes[names[0]] = shapes.pop("")
    unknown = sorted(shapes.keys() - set(names))
    if unknown:
        raise UsageError(f"{reference} has no input {unknown[0]!r}; its inputs are {', '.join(names)}")
    examples = []
    for position, name in enumerate(names):
        default = defaults[position] if defaults is not None else None
        dtype = default.dtype if default is not None else torch.float32
        if name in shapes:
            examples.append(torch.zeros(shapes[name], dtype=dtype))
        elif default is not None:
            examples.append(default)
        elif name in sample or (len(names) == 1 and len(sample) == 1):
            values = sample[name] if name in sample else next(iter(sample.values()))
            examples.append(torch.from_numpy(np.ascontiguousarray(values)))
        else:
            raise ConfigError(
                f"{reference}: the shape of input {name!r} is not known",
                hint=f"--shape {name}=1,3,224,224, or return (module, example_inputs) from the function",
            )
    return names, _single(examples)


def _given(torch: Any, names: tuple[str, ...], example: Any) -> tuple[Any, ...] | None:
    if example is None:
        return None
    if isinstance(example, Mapping):
        missing = [name for name in names if name not in example]
        if missing:
            raise ModelError(f"the example inputs lack {missing[0]!r}")
        example = tuple(example[name] for name in names)
    values = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise ModelError("example inputs are not all tensors", hint="return (module, (tensor, ...))")
    return values


def _single(values: list[Any]) -> tuple[Any, ...]:
    """Cut a batch of examples to one, if all inputs have the same first dimension."""
    firsts = {int(value.shape[0]) if value.ndim else 1 for value in values}
    if len(firsts) == 1 and firsts != {1}:
        return tuple(value[:1].clone() for value in values)
    return tuple(values)


# ---------------------------------------------------------------------------------------------
# Exporting


@contextlib.contextmanager
def _quietly() -> Iterator[list[warnings.WarningMessage]]:
    """Suppress torch's progress output; yield the list that collects its warnings."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("always")
            yield caught
    finally:
        noisy.setLevel(level)


def _export_fault(cause: BaseException) -> str:
    """Return the innermost cause: torch wraps it in advice for its own developers."""
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return short(cause)


def _export_dynamo(model: TorchModel, target: Path, outputs: tuple[str, ...]) -> None:
    torch = library("torch", "torch")
    with _quietly():
        torch.onnx.export(
            model.program if model.program is not None else model.module,
            model.example if model.program is None else (),
            str(target),
            dynamo=True,
            opset_version=_OPSET,
            external_data=False,
            input_names=list(model.names),
            output_names=list(outputs),
            verbose=False,
        )


def _export_traced(model: TorchModel, target: Path, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Export by tracing; return a line for each assumption made about code outside torch."""
    torch = library("torch", "torch")
    own = str(Path(torch.__file__).parent)
    with _quietly() as caught:
        torch.onnx.export(
            model.module,
            model.example,
            str(target),
            dynamo=False,
            opset_version=_TRACER_OPSET,
            input_names=list(model.names),
            output_names=list(outputs),
        )
    return tuple(
        f"{Path(entry.filename).name}:{entry.lineno}: {short(entry.message, 120)}"
        for entry in caught
        if issubclass(entry.category, torch.jit.TracerWarning)
        and isinstance(entry.message, Warning)
        and not entry.filename.startswith(own)
    )


def _name_by_module(target: Path) -> None:
    """Name inner tensors and nodes after the module that computes them: ``features.3/relu``."""
    onnx = library("onnx")
    model = onnx.load(target)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    taken = set(kept) | {tensor.name for tensor in model.graph.initializer}
    new: dict[str, str] = {}
    for node in model.graph.node:
        scope = _scope(node)
        for number, name in enumerate(node.output):
            if name and name not in kept:
                base = f"{scope}/{node.op_type.lower()}" + (f".{number}" if number else "")
                new[name] = _unused(base, taken)
    for node in every_node(model.graph):
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
        del node.metadata_props[:]
        node.name = f"{node.op_type}:{next(name for name in node.output if name)}"
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    target.write_bytes(model.SerializeToString(deterministic=True))


def _scope(node: Any) -> str:
    """Return the path of the module that a node comes from, as the exporter recorded it."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    try:
        scopes = [str(scope) for scope in ast.literal_eval(noted)]
    except (ValueError, SyntaxError):
        scopes = []
    return next((scope for scope in reversed(scopes[:-1]) if scope), "model")


def _unused(base: str, taken: set[str]) -> str:
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name
