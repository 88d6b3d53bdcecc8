"""Compare every form of a root with the model that it came from, output by output, on real inputs."""

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
"""How many samples a check looks at; more find nothing that these do not."""

Sample = dict[str, NDArray[Any]]


def check_root(root: Root, samples: Mapping[str, NDArray[np.float32]]) -> Root:
    """Check every conversion of a root against the model it came from, on real inputs.

    Args:
        root: What ``read_source`` returned.
        samples: For each canonical input an array (n, ...), as the model takes it; the first
            ``MAX_SAMPLES`` are looked at.

    Returns:
        The root with ``checks`` filled, one for each conversion that could be run. A form that does
        not run, or answers otherwise than the source, is no longer in it; ``missing`` says why.

    Raises:
        TensorError: ``samples`` do not fit the inputs.
        ModelError: The source does not run or gives no finite answer, or the conversion to the
            canonical form changed the model.
        BackendUnavailableError: A runtime that a check needs is not installed.
    """
    each = split_samples(root.inputs, samples)
    record = record_of(root)
    if not record.steps:
        return root
    source = _source_run(record)
    wanted = [_ordered(source.call(feeds_for(source, s, transposed=record.transposed)), root) for s in each]
    _require_finite(root.outputs, wanted)
    checks, missing = [], dict(root.missing)
    for step in record.steps:
        check, fault = _tried(step, root, each, wanted, record.limit)
        if fault is not None:
            if step.form == root.canonical:  # by which every tensor is called
                raise fault
            missing[step.form] = " ".join((fault.message, *fault.reasons))
        if check is not None:
            checks.append(check)
    kept: dict[str, Any] = dict.fromkeys(missing, "")
    return msgspec.structs.replace(root, checks=tuple(checks), missing=missing, **kept)


def _tried(
    step: Step, root: Root, each: Sequence[Sample], wanted: Sequence[Sequence[NDArray[Any]]], limit: float
) -> tuple[Check | None, ModelError | None]:
    """Return the check of one conversion, if it could be run, and what is wrong with it, if anything."""
    forms = {"onnx": root.onnx, "tflite": root.tflite, "openvino": root.openvino}
    try:
        run = open_run(step.form, Path(forms[step.form]))
        check, place = _checked(step, run, root, each, wanted, limit)
    except ModelError as fault:
        return None, fault
    return check, None if check.holds else _changed(check, place)


def _source_run(record: Record) -> Run:
    if record.kind == "torch":
        from edgekit_optimize.readers.torch_source import torch_run

        return torch_run(record)
    if record.kind == "keras":
        from edgekit_optimize.readers.keras_source import keras_run

        return keras_run(Path(record.path))
    return open_run(record.kind, Path(record.path), plain=True)


def split_samples(inputs: Sequence[TensorSpec], samples: Mapping[str, NDArray[Any]]) -> list[Sample]:
    """Return samples one by one, each input with its batch axis.

    Raises:
        TensorError: An input has no samples, or their shape or number is wrong.
    """
    missing = [spec.name for spec in inputs if spec.name not in samples]
    if missing:
        raise TensorError(f"no samples for input {missing[0]!r}; there are {', '.join(samples) or 'none'}")
    counts = {spec.name: len(samples[spec.name]) for spec in inputs}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise TensorError(f"every input wants the same number of samples, at least one; got {counts}")
    count = min(MAX_SAMPLES, *counts.values())
    return [{spec.name: _one(spec, samples[spec.name], number) for spec in inputs} for number in range(count)]


def _one(spec: TensorSpec, values: NDArray[Any], number: int) -> NDArray[Any]:
    value: NDArray[Any] = np.asarray(values[number])
    if value.shape == spec.shape:
        return value
    if spec.shape[:1] == (1,) and value.shape == spec.shape[1:]:
        return value[None]
    raise TensorError(
        f"samples of input {spec.name!r} have shape {values.shape}, wanted (n, {_inner(spec.shape)})"
    )


def _inner(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape[1:] if shape[:1] == (1,) else shape))


def _ordered(found: Tensors, root: Root) -> list[NDArray[Any]]:
    """Return outputs in the order of the canonical ones: by name, or by place where names differ."""
    names = [spec.name for spec in root.outputs]
    if len(found) != len(names):
        raise ModelError(f"the model has {len(names)} outputs, a conversion of it {len(found)}")
    return [found[name] for name in names] if set(names) == set(found) else list(found.values())


def _require_finite(outputs: Sequence[TensorSpec], wanted: Sequence[Sequence[NDArray[Any]]]) -> None:
    for number, values in enumerate(wanted):
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
    wanted: Sequence[Sequence[NDArray[Any]]],
    limit: float,
) -> tuple[Check, tuple[str, int]]:
    """Compare a form with the source; return the check, and the output and sample that are furthest off."""
    worst, scale, place = 0.0, 0.0, (root.outputs[0].name, 0)
    for number, (sample, expected) in enumerate(zip(each, wanted, strict=True)):
        found = _ordered(run.call(feeds_for(run, sample, transposed=step.transposed)), root)
        for spec, value, want in zip(root.outputs, found, expected, strict=True):
            scale = max(scale, _magnitude(want))
            difference = _difference(value, want)
            if not difference <= worst:
                worst, place = difference, (spec.name, number)
    check = Check(
        conversion=step.conversion,
        tool=step.tool,
        samples=len(each),
        max_abs=worst,
        scale=scale,
        limit=limit,
    )
    return check, place


def _changed(check: Check, place: tuple[str, int]) -> ModelError:
    return ModelError(
        f"{check.conversion} by {check.tool} changed the model: output {place[0]!r} is off by"
        f" {check.max_abs:.3g} for sample {place[1]}, allowed is {check.limit * check.scale:.3g}",
        hint="another version of that tool, or of the layer, may convert; compare layer by layer",
    )


def _magnitude(values: NDArray[Any]) -> float:
    finite = (
        np.abs(values[np.isfinite(values)].astype(np.float64))
        if values.dtype.kind == "f"
        else np.abs(values.astype(np.float64))
    )
    return float(finite.max()) if finite.size else 0.0


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest difference; images may lie either way round, the same infinity is no difference."""
    ways = [found]
    if found.ndim == 4:
        ways += [found.transpose(0, 3, 1, 2), found.transpose(0, 2, 3, 1)]
    fitting = [way for way in ways if way.shape == wanted.shape]
    if not fitting and found.size == wanted.size and found.ndim != wanted.ndim:
        fitting = [found.reshape(wanted.shape)]
    return min((_largest(way, wanted) for way in fitting), default=float("inf"))


def _largest(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    first, second = found.astype(np.float64), wanted.astype(np.float64)
    if not first.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.where(first == second, 0.0, np.abs(first - second))
    return float(apart.max()) if not np.isnan(apart).any() else float("inf")
