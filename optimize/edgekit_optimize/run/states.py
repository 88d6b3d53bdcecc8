"""A model's state: which output goes to which input, as the user says it, and the data that lack it.

A zoo model's recipe brings the states with its samples, a user's data do not: they are what the float
model gives, run through the samples in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import UsageError
from edgekit.core.spec import Manifest, State, TensorSpec
from edgekit_optimize.cache import Cache, code_digest, digest_of, digest_of_files, versions_of
from edgekit_optimize.data.dataset import Dataset, Split, canonical
from edgekit_optimize.data.order import with_context
from edgekit_optimize.plan import Root
from edgekit_optimize.run.child_job import run_step

Specs = Sequence[TensorSpec]
_RUNTIMES = ("ai-edge-litert", "numpy", "onnxruntime", "openvino")


def state_pairs(
    texts: Sequence[str], told: Sequence[State], inputs: Specs, outputs: Specs
) -> tuple[State, ...]:
    """Return the pairs that the user names, checked against the model's tensors.

    Args:
        texts: Each ``OUTPUT:INPUT``; names may have colons of their own.
        told: Pairs of a description.
        inputs: The model's inputs.
        outputs: The model's outputs.

    Raises:
        UsageError: A pair names no output and input, two pairs name one, shapes differ, or no input
            is left for the data.
    """
    pairs = (*told, *(_pair(text, inputs, outputs) for text in texts))
    takes, gives = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    for pair in pairs:
        if pair.input not in takes or pair.output not in gives:
            raise _unknown(f"{pair.output}:{pair.input}", inputs, outputs)
        given, wanted = gives[pair.output].shape, takes[pair.input].shape
        if -1 not in given and [n for n in given if n != 1] != [n for n in wanted if n != 1]:
            raise UsageError(
                f"--state {pair.output}:{pair.input}: the output has shape {list(given)}, the input"
                f" {list(wanted)}",
                hint=guess_hint(inputs, outputs) or "a state is fed back as it comes out",
            )
    for side in ("input", "output"):
        names = [getattr(pair, side) for pair in pairs]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise UsageError(
                f"--state names {side} {twice!r} twice", hint="give each state one output and input"
            )
    if pairs and len(pairs) == len(inputs):
        raise UsageError("--state names every input of the model, so none is left for the data")
    return pairs


def _pair(text: str, inputs: Specs, outputs: Specs) -> State:
    takes, gives = {spec.name for spec in inputs}, {spec.name for spec in outputs}
    cuts = [(text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == ":"]
    found = [State(output=a, input=b) for a, b in cuts if a in gives and b in takes]
    if len(found) != 1:
        raise _unknown(text, inputs, outputs)
    return found[0]


def _unknown(text: str, inputs: Specs, outputs: Specs) -> UsageError:
    return UsageError(
        f"--state {text}: want OUTPUT:INPUT, an output of the model and the input that it goes to",
        reasons=(f"outputs: {_listed(outputs)}", f"inputs: {_listed(inputs)}"),
        hint=guess_hint(inputs, outputs) or "use the names of the model file",
    )


def _listed(specs: Specs) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs)


def guess_hint(inputs: Specs, outputs: Specs) -> str:
    """Return the flags that would say which outputs are states, by shape and name; empty where none are.

    A guess is told and never taken: an input that looks like a state may be an option, or data.
    """
    left = list(outputs)
    pairs: list[str] = []
    for spec in reversed(inputs):  # data come first, as a rule
        alike = [other for other in left if other.shape == spec.shape and other.datatype == spec.datatype]
        if not alike or len(pairs) == len(inputs) - 1:
            continue
        best = max(alike, key=lambda other: SequenceMatcher(None, other.name, spec.name).ratio())
        left.remove(best)
        pairs.append(f"--state {best.name}:{spec.name}")
    if not pairs:
        return ""
    return f"if the model's state goes from call to call, say so: {' '.join(reversed(pairs))}"


# ---------------------------------------------------------------------------------------------
# Data


def with_states(split: Split, root: Root, manifest: Manifest, cache: Cache) -> Split:
    """Return a split whose samples have the state that the float model has before each.

    Samples that bring their states keep them. The calibration set is then cut to those samples that
    calibrate: the others were there for the state to go through them.

    Raises:
        ModelError: The model does not run, or a state is not finite.
        TensorError: Samples do not fit the inputs.
    """
    if not manifest.state:
        return split
    calibration = _carried(_contexts(split.calibration, manifest), root, manifest, cache)
    evaluation = _carried(_contexts(split.evaluation, manifest), root, manifest, cache)
    if split.chosen is not None:
        calibration = _chosen(calibration, split.chosen)
    return replace(split, calibration=calibration, evaluation=evaluation, chosen=None)


def _contexts(data: Dataset, manifest: Manifest) -> Dataset:
    """Put the end of the window before in front of each, where the model wants that."""
    pre = manifest.pre
    states = {state.input for state in manifest.state}
    names = [name for name in data.inputs if name not in states]
    if manifest.task == "raw" or not (pre.window and pre.context and data.in_order and len(data)):
        return data
    inputs = dict(data.inputs)
    for name in names:
        spec = next(spec for spec in manifest.inputs if spec.name == name)
        size = inputs[name][0].size
        if pre.window in spec.shape and size % pre.window == 0:
            inputs[name] = with_context(inputs[name], data.starts, pre.window, pre.context)
    return replace(data, inputs=inputs)


def _carried(data: Dataset, root: Root, manifest: Manifest, cache: Cache) -> Dataset:
    states = tuple(state.output for state in manifest.state)
    data = replace(data, states=states)
    if not len(data) or all(state.input in data.inputs for state in manifest.state):
        return data
    named = {state.input: root.names.get(state.input, state.input) for state in manifest.state}
    pairs = {named[state.input]: root.names.get(state.output, state.output) for state in manifest.state}
    plain = msgspec.structs.replace(
        root, inputs=tuple(spec for spec in root.inputs if spec.name not in pairs), calibration="", checks=()
    )
    arrays = canonical(data, plain)
    found = _run(root, arrays, pairs, data.starts, cache)
    return replace(data, inputs=data.inputs | {name: found[there] for name, there in named.items()})


def _run(
    root: Root,
    arrays: Mapping[str, NDArray[Any]],
    pairs: Mapping[str, str],
    starts: Sequence[int],
    cache: Cache,
) -> dict[str, NDArray[np.float32]]:
    model = Path(getattr(root, root.canonical))
    weights = [path for path in (model.with_suffix(".bin"),) if model.suffix == ".xml" and path.is_file()]
    content = {name: [array.shape, hashlib.sha256(array.data).hexdigest()] for name, array in arrays.items()}
    file = digest_of_files(model, *weights)
    key = digest_of(file, content, pairs, starts, code_digest(), versions_of(*_RUNTIMES))

    def fill(folder: Path) -> dict[str, Any]:
        samples = folder / "samples.npz"
        np.savez(samples, allow_pickle=False, **arrays)
        task = {
            "root": msgspec.to_builtins(root),
            "samples": str(samples),
            "pairs": pairs,
            "starts": list(starts),
        }
        result = run_step("carry", task, folder)
        samples.unlink()
        return result

    folder, _, _ = cache.make("carry", key, fill)
    with np.load(folder / "states.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _chosen(data: Dataset, places: Sequence[int]) -> Dataset:
    """Return some of a data set's samples, which are no recording any more but know their states."""
    kept = list(places)
    return replace(
        data,
        names=tuple(data.names[place] for place in kept),
        inputs={name: values[kept] for name, values in data.inputs.items()},
        labels=None if data.labels is None else data.labels[kept],
        boxes=None if data.boxes is None else tuple(data.boxes[place] for place in kept),
        sizes=tuple(data.sizes[place] for place in kept) if data.sizes else (),
        in_order=False,
        starts=(),
    )
