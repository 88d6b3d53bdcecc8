"""Fix the free dimensions of an ONNX model's inputs: the batch to 1, the others as given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.core.errors import ModelError, UsageError

Shape = tuple[int, ...]


def fix_shapes(
    model: Any, shapes: Mapping[str, Shape], fallback: Mapping[str, Shape], what: str
) -> dict[str, int]:
    """Make every input's shape static, in place; inner and output shapes are removed.

    A free first dimension is the batch and becomes 1; a dimension's symbol has one value throughout.

    Args:
        model: An ONNX model whose initializers are not listed as inputs.
        shapes: Complete shapes by input name; "" stands for the only input.
        fallback: Shapes of real samples by name, for inputs that ``shapes`` leaves free.
        what: What to call the model in errors.

    Returns:
        The former batch size of each input that had a fixed batch other than 1.

    Raises:
        UsageError: ``shapes`` names no input of this model, or a shape that its input cannot have.
        ModelError: A dimension stays free; the error names the input and how to fix it.
    """
    inputs = {value.name: value for value in model.graph.input}
    batches = {
        name: dims[0].dim_value for name, v in inputs.items() if (dims := _dims(v)) and dims[0].dim_value > 1
    }
    requested = _by_name(shapes, tuple(inputs), what)
    symbols: dict[str, int] = {}
    for name, value in inputs.items():
        if name in fallback and name not in requested and _is_free(value):
            requested[name] = fallback[name]
    for name, shape in requested.items():
        _apply(inputs[name], shape, symbols, what)
    for value in inputs.values():
        if value.name not in requested:
            _default(value, symbols)
    for value in inputs.values():
        _settle(value, symbols, what)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return {name: size for name, size in batches.items() if _dims(inputs[name])[0].dim_value == 1}


def _by_name(shapes: Mapping[str, Shape], names: tuple[str, ...], what: str) -> dict[str, Shape]:
    named = dict(shapes)
    if "" in named:
        if len(names) != 1:
            raise UsageError(
                f"{what} has {len(names)} inputs, so a shape must name its input: {', '.join(names)}",
                hint=f"--shape {names[0] if names else 'NAME'}=1,3,224,224",
            )
        named[names[0]] = named.pop("")
    unknown = sorted(named.keys() - set(names))
    if unknown:
        raise UsageError(
            f"{what} has no input {unknown[0]!r}; its inputs are {', '.join(names)}",
        )
    return named


def _dims(value: Any) -> list[Any]:
    return list(value.type.tensor_type.shape.dim)


def _is_free(value: Any) -> bool:
    return any(not dim.HasField("dim_value") for dim in _dims(value)[1:])


def shown(value: Any) -> str:
    """Return an input's shape for a message: numbers, symbols, or ``?`` for neither."""
    dims = _dims(value)
    sizes = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims]
    return f"[{', '.join(sizes)}]"


def _apply(value: Any, shape: Shape, symbols: dict[str, int], what: str) -> None:
    if not value.type.tensor_type.HasField("shape"):
        for size in shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
        return
    dims = _dims(value)
    fits = len(dims) == len(shape) and all(
        # A fixed batch may be changed; ``prove_batch`` then runs the model to see whether it still works.
        size > 0 and (axis == 0 or not dim.HasField("dim_value") or dim.dim_value == size)
        for axis, (dim, size) in enumerate(zip(dims, shape, strict=True))
    )
    if not fits:
        raise UsageError(f"{what}: input {value.name!r} is {shown(value)} and cannot become {list(shape)}")
    for dim, size in zip(dims, shape, strict=True):
        if dim.dim_param:
            symbols[dim.dim_param] = size
        dim.dim_value = size


def _default(value: Any, symbols: dict[str, int]) -> None:
    dims = _dims(value)
    if not dims:
        return
    batch = dims[0]
    if not batch.HasField("dim_value") or batch.dim_value <= 0 or (len(dims) == 4 and batch.dim_value > 1):
        if batch.dim_param:
            symbols.setdefault(batch.dim_param, 1)
        batch.dim_value = symbols.get(batch.dim_param, 1) if batch.dim_param else 1


def _settle(value: Any, symbols: Mapping[str, int], what: str) -> None:
    if not value.type.tensor_type.HasField("shape"):
        raise _free(value, what)
    for dim in _dims(value):
        if dim.dim_param in symbols and not dim.HasField("dim_value"):
            dim.dim_value = symbols[dim.dim_param]
        if not dim.HasField("dim_value") or dim.dim_value <= 0:
            raise _free(value, what)


def _free(value: Any, what: str) -> ModelError:
    sizes = [str(d.dim_value) if d.dim_value > 0 else "N" for d in _dims(value)] or ["1", "3", "224", "224"]
    return ModelError(
        f"{what}: input {value.name!r} is {shown(value)}: its free dimensions must be fixed, "
        "a model for a device has static shapes",
        hint=f"--shape {value.name}={','.join(sizes)} with a number for each N",
    )
