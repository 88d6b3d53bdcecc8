"""Compare every form of a root with its source model, output by output, on real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.plan import Check, Root
from edgekit_optimize.readers.record import Record, Step, record_of
from edgekit_optimize.readers.runs import Run, Tensors, feeds_for, open_run

MAX_SAMPLES: Final = 8
"""Samples per check; more have not found anything that these missed."""

Sample = dict[str, NDArray[Any]]


def check_root(root: Root, samples: Mapping[str, NDArray[np.float32]]) -> Root:
    """Compare every conversion of a root with its source model on real inputs; drop those that differ.

    Args:
        root: As ``read_source`` returned it.
        samples: For each canonical input an array (n, ...), as the model takes it; the first
            ``MAX_SAMPLES`` are used.

    Returns:
        The root with one entry in ``checks`` for each conversion that could be run. Forms that do not
        run, or whose outputs differ from the source's, are removed; ``missing`` says why.

    Raises:
        TensorError: ``samples`` do not match the inputs.
        ModelError: The source does not run or returns NaN, or the canonical form's outputs differ
            from its.
        BackendUnavailableError: A runtime that a check needs is not installed.
    """
    each = split_samples(root.inputs, samples)
    record = record_of(root)
    if not record.steps:
        return root
    source = _source_run(record)
    expected = [_ordered(source.call(feeds_for(source, s, transposed=record.transposed)), root) for s in each]
    _require_finite(root.outputs, expected)
    checks, missing = [], dict(root.missing)
    for step in record.steps:
        check, fault = _tried(step, root, each, expected, record.limit)
        if fault is not None:
            if step.form == root.canonical:  # its tensor names are used everywhere
                raise fault
            missing[step.form] = fault.one_line()
        if check is not None:
            checks.append(check)
    kept: dict[str, Any] = dict.fromkeys(missing, "")
    return msgspec.structs.replace(root, checks=tuple(checks), missing=missing, **kept)


def _tried(
    step: Step, root: Root, each: Sequence[Sample], expected: Sequence[Sequence[NDArray[Any]]], limit: float
) -> tuple[Check | None, ModelError | None]:
    """Return the check of one conversion (None if it could not be run) and its fault, if any."""
    forms = {"onnx": root.onnx, "tflite": root.tflite, "openvino": root.openvino}
    try:
        run = open_run(step.form, Path(forms[step.form]))
        check, worst_at = _checked(step, run, root, each, expected, limit)
    except ModelError as fault:
        return None, fault
    return check, None if check.holds else _changed(check, worst_at)


def _source_run(record: Record) -> Run:
    if record.kind == "torch":
        from edgekit_optimize.readers.torch_source import torch_run

        return torch_run(record)
    if record.kind == "keras":
        from edgekit_optimize.readers.keras_source import keras_run

        return keras_run(Path(record.path))
    return open_run(record.kind, Path(record.path), plain=True)


def split_samples(inputs: Sequence[TensorSpec], samples: Mapping[str, NDArray[Any]]) -> list[Sample]:
    """Return up to ``MAX_SAMPLES`` single samples, each input with its batch axis.

    Raises:
        TensorError: An input has no samples, or their shape or number is wrong.
    """
    missing = [spec.name for spec in inputs if spec.name not in samples]
    if missing:
        raise TensorError(f"no samples for input {missing[0]!r}; there are {', '.join(samples) or 'none'}")
    counts = {spec.name: len(samples[spec.name]) for spec in inputs}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise TensorError(f"every input needs the same number of samples, at least one; got {counts}")
    count = min(MAX_SAMPLES, *counts.values())
    return [{spec.name: _one(spec, samples[spec.name], number) for spec in inputs} for number in range(count)]


def _one(spec: TensorSpec, values: NDArray[Any], number: int) -> NDArray[Any]:
    value: NDArray[Any] = np.asarray(values[number])
    if value.shape == spec.shape:
        return value
    if spec.shape[:1] == (1,) and value.shape == spec.shape[1:]:
        return value[None]
    raise TensorError(
        f"samples of input {spec.name!r} have shape {values.shape}, want (n, {_inner(spec.shape)})"
    )


def _inner(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape[1:] if shape[:1] == (1,) else shape))


def _ordered(outputs: Tensors, root: Root) -> list[NDArray[Any]]:
    """Return outputs in the canonical order: by name, or by position if the names differ."""
    names = [spec.name for spec in root.outputs]
    if len(outputs) != len(names):
        raise ModelError(f"the model has {len(names)} outputs, a conversion of it {len(outputs)}")
    return [outputs[name] for name in names] if set(names) == set(outputs) else list(outputs.values())


def _require_finite(outputs: Sequence[TensorSpec], answers: Sequence[Sequence[NDArray[Any]]]) -> None:
    for number, values in enumerate(answers):
        for spec, value in zip(outputs, values, strict=True):
            if value.dtype.kind == "f" and np.isnan(value).any():
                raise ModelError(
                    f"the source model's output {spec.name!r} is NaN for sample {number}",
                    hint="check the model's weights, and that the data is normalised as in training",
                )


def _checked(
    step: Step,
    run: Run,
    root: Root,
    each: Sequence[Sample],
    expected: Sequence[Sequence[NDArray[Any]]],
    limit: float,
) -> tuple[Check, tuple[str, int]]:
    """Compare a form with the source; return the check, and the output and sample that differ most."""
    worst, scale, worst_at = 0.0, 0.0, (root.outputs[0].name, 0)
    for number, (sample, reference) in enumerate(zip(each, expected, strict=True)):
        outputs = _ordered(run.call(feeds_for(run, sample, transposed=step.transposed)), root)
        for spec, value, right in zip(root.outputs, outputs, reference, strict=True):
            scale = max(scale, _magnitude(right))
            difference = _difference(value, right)
            if not difference <= worst:
                worst, worst_at = difference, (spec.name, number)
    check = Check(
        conversion=step.conversion,
        tool=step.tool,
        samples=len(each),
        max_abs=worst,
        scale=scale,
        limit=limit,
    )
    return check, worst_at


def _changed(check: Check, worst_at: tuple[str, int]) -> ModelError:
    return ModelError(
        f"{check.conversion} by {check.tool} changed the model: output {worst_at[0]!r} differs by"
        f" {check.max_abs:.3g} for sample {worst_at[1]}, allowed is {check.limit * check.scale:.3g}",
        hint="try another version of that tool, or replace the layer; compare layer by layer to find it",
    )


def _magnitude(values: NDArray[Any]) -> float:
    finite = (
        np.abs(values[np.isfinite(values)].astype(np.float64))
        if values.dtype.kind == "f"
        else np.abs(values.astype(np.float64))
    )
    return float(finite.max()) if finite.size else 0.0


def _difference(values: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the largest difference; either image layout is accepted, equal infinities do not differ."""
    ways = [values]
    if values.ndim == 4:
        ways += [values.transpose(0, 3, 1, 2), values.transpose(0, 2, 3, 1)]
    fitting = [way for way in ways if way.shape == reference.shape]
    if not fitting and values.size == reference.size and values.ndim != reference.ndim:
        fitting = [values.reshape(reference.shape)]
    return min((_largest(way, reference) for way in fitting), default=float("inf"))


def _largest(values: NDArray[Any], reference: NDArray[Any]) -> float:
    first, second = values.astype(np.float64), reference.astype(np.float64)
    if not first.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.where(first == second, 0.0, np.abs(first - second))
    return float(apart.max()) if not np.isnan(apart).any() else float("inf")
