"""An ensemble's file: several models in a row, or side by side, that are served as one. Without a runtime.

    model = "keyword"
    version = "1.0.0"
    outputs = ["scores"]

    [[step]]
    model = "features.ekb"              # relative to this file
    outputs = { y = "features" }        # the model's name = the tensor's, where they differ

    [[step]]
    model = "classify.ekb"
    inputs = { x = "features" }

A tensor that no step makes is an input of the whole. Steps that do not wait for each other run side by side.

Source: Triton's ensemble_scheduling, whose input_map and output_map these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgekit.core.errors import BundleError, ConfigError
from edgekit.core.spec import NAME, VERSION, TensorSpec
from edgekit.core.structure import decode_toml
from edgekit.model.bundle import open_bundle

_MOST_BYTES = 64 << 10


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of an ensemble, and the tensors that its inputs and outputs are; by default the same names."""

    model: str
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class Ensemble(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as written."""

    model: str
    version: str
    outputs: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)]
    step: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=16)]


def is_ensemble(path: Path | str) -> bool:
    """Return whether a path is an ensemble's file, by its name."""
    return Path(path).suffix == ".toml"


def read_ensemble(path: Path) -> Ensemble:
    """Return a checked file, with the models' paths as the process can open them.

    Raises:
        BundleError: It cannot be read, or is not valid.
    """
    try:
        with path.open(encoding="utf-8") as file:
            ensemble = decode_toml(file.read(_MOST_BYTES), Ensemble, str(path))
    except (OSError, UnicodeDecodeError) as cause:
        raise BundleError(f"{path}: cannot be read: {cause}") from cause
    except ConfigError as error:
        raise BundleError(error.message, reasons=error.reasons) from error
    if not NAME.fullmatch(ensemble.model) or not VERSION.fullmatch(ensemble.version):
        raise BundleError(f"{path}: want a model's name and a version such as 1.0.0")
    steps = [msgspec.structs.replace(step, model=str(path.parent / step.model)) for step in ensemble.step]
    if nested := [step.model for step in steps if is_ensemble(step.model)]:
        raise BundleError(f"{path}: a step is a model, not another ensemble: {nested[0]}")
    return msgspec.structs.replace(ensemble, step=tuple(steps))


def served_name(path: str) -> tuple[str, str]:
    """Return the model and version that a bundle, model file or ensemble's file is served as.

    Raises:
        BundleError: It is none.
    """
    if is_ensemble(path):
        ensemble = read_ensemble(Path(path))
        return ensemble.model, ensemble.version
    manifest = open_bundle(path).manifest
    return manifest.model, manifest.version


class Tensors(msgspec.Struct, frozen=True):
    """What a step's model takes and gives; ``optional`` are inputs that it can do without."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: frozenset[str] = frozenset()


class Wiring(msgspec.Struct, frozen=True):
    """How an ensemble runs: its own tensors, which steps run at once, and each step's tensors by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rounds: tuple[tuple[int, ...], ...]
    takes: tuple[dict[str, str], ...]
    gives: tuple[dict[str, str], ...]


def wire(ensemble: Ensemble, models: Sequence[Tensors]) -> Wiring:
    """Return how an ensemble runs, given the tensors of its models.

    Raises:
        BundleError: A name is not a model's tensor, two steps make one tensor, a tensor does not fit who
            takes it, an output is made by none, or steps wait for each other.
    """
    takes, gives = [], []
    made: dict[str, tuple[int, TensorSpec]] = {}
    for number, (step, model) in enumerate(zip(ensemble.step, models, strict=True)):
        named = {spec.name for spec in model.inputs if spec.name not in model.optional} | step.inputs.keys()
        takes.append(_named(ensemble, step, step.inputs, model.inputs, named))
        gives.append(_named(ensemble, step, step.outputs, model.outputs, {s.name for s in model.outputs}))
        for spec in model.outputs:
            tensor = gives[-1][spec.name]
            if tensor in made:
                raise _wrong(ensemble, f"two steps make the tensor {tensor!r}: give one another name")
            made[tensor] = (number, spec)
    inputs: dict[str, TensorSpec] = {}
    for step, model, taken in zip(ensemble.step, models, takes, strict=True):
        specs = {spec.name: spec for spec in model.inputs}
        for name, tensor in taken.items():
            known = made[tensor][1] if tensor in made else inputs.setdefault(tensor, specs[name])
            if not _fits(known, specs[name]):
                wanted = f"{step.model} wants {name!r} as {_shown(specs[name])}"
                raise _wrong(ensemble, f"{wanted}, but {tensor!r} is {_shown(known)}")
    if missing := [name for name in ensemble.outputs if name not in made]:
        raise _wrong(ensemble, f"no step makes the output {missing[0]!r}: they make {', '.join(made)}")
    return Wiring(
        tuple(_as(spec, name) for name, spec in inputs.items()),
        tuple(_as(made[name][1], name) for name in ensemble.outputs),
        tuple(_rounds(ensemble, takes, {name: number for name, (number, _) in made.items()})),
        tuple(takes),
        tuple(gives),
    )


def _named(
    ensemble: Ensemble, step: Step, given: Mapping[str, str], specs: Sequence[TensorSpec], names: set[str]
) -> dict[str, str]:
    """Return the tensor of each of a model's names."""
    known = [spec.name for spec in specs]
    if unknown := [name for name in given if name not in known]:
        raise _wrong(ensemble, f"{step.model} has no tensor {unknown[0]!r}: it has {', '.join(known)}")
    return {name: given.get(name, name) for name in known if name in names}


def _rounds(
    ensemble: Ensemble, takes: Sequence[Mapping[str, str]], makers: Mapping[str, int]
) -> Iterator[tuple[int, ...]]:
    """Yield the steps that can run at once, in turn."""
    waits = [{makers[tensor] for tensor in taken.values() if tensor in makers} for taken in takes]
    done: set[int] = set()
    while len(done) < len(waits):
        ready = tuple(number for number, on in enumerate(waits) if number not in done and on <= done)
        if not ready:
            names = ", ".join(ensemble.step[n].model for n in range(len(waits)) if n not in done)
            raise _wrong(ensemble, f"steps wait for each other: {names}")
        yield ready
        done.update(ready)


def _fits(given: TensorSpec, wanted: TensorSpec) -> bool:
    """Return whether a tensor may be what a model takes; a free dimension may turn out to be any."""
    is_as_long = len(given.shape) == len(wanted.shape)
    pairs = zip(given.shape, wanted.shape, strict=False)
    return given.datatype == wanted.datatype and is_as_long and all(a == b or -1 in (a, b) for a, b in pairs)


def _as(spec: TensorSpec, name: str) -> TensorSpec:
    return msgspec.structs.replace(spec, name=name)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _wrong(ensemble: Ensemble, problem: str) -> BundleError:
    return BundleError(f"ensemble {ensemble.model} {ensemble.version}: {problem}")


def scheduling(names: Sequence[tuple[str, str]], wiring: Wiring) -> list[dict[str, Any]]:
    """Return the steps as Triton's model configuration has them; ``names``: each model's name and version."""
    return [
        {"model_name": model, "model_version": version, "input_map": takes, "output_map": gives}
        for (model, version), takes, gives in zip(names, wiring.takes, wiring.gives, strict=True)
    ]
