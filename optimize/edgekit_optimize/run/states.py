"""A model's state: the pairs of output and input that carry it, and its values for the user's data.

The samples of a zoo model include its states. For a user's data, the states are computed by running
the float model through the samples in order.
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
from edgekit_optimize.run.child_job import run_child_job

Specs = Sequence[TensorSpec]
_RUNTIMES = ("ai-edge-litert", "numpy", "onnxruntime", "openvino")


def state_pairs(
    texts: Sequence[str], described: Sequence[State], inputs: Specs, outputs: Specs
) -> tuple[State, ...]:
    """Return the pairs that the user gave, checked against the model's tensors.

    Args:
        texts: Each ``OUTPUT:INPUT``; the names may contain colons.
        described: Pairs from a description.
        inputs: The model's inputs.
        outputs: The model's outputs.

    Raises:
        UsageError: A pair does not name an output and an input, two pairs share one, shapes differ, or
            no input is left for the data.
    """
    pairs = (*described, *(_pair(text, inputs, outputs) for text in texts))
    takes, gives = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    for pair in pairs:
        if pair.input not in takes or pair.output not in gives:
            raise _unknown(f"{pair.output}:{pair.input}", inputs, outputs)
        gives_shape, takes_shape = gives[pair.output].shape, takes[pair.input].shape
        if -1 not in gives_shape and [n for n in gives_shape if n != 1] != [n for n in takes_shape if n != 1]:
            raise UsageError(
                f"--state {pair.output}:{pair.input}: the output has shape {list(gives_shape)}, the input"
                f" {list(takes_shape)}",
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
    pairs = [State(output=a, input=b) for a, b in cuts if a in gives and b in takes]
    if len(pairs) != 1:
        raise _unknown(text, inputs, outputs)
    return pairs[0]


def _unknown(text: str, inputs: Specs, outputs: Specs) -> UsageError:
    return UsageError(
        f"--state {text}: want OUTPUT:INPUT, an output of the model and the input that it goes to",
        reasons=(f"outputs: {_listed(outputs)}", f"inputs: {_listed(inputs)}"),
        hint=guess_hint(inputs, outputs) or "use the names of the model file",
    )


def _listed(specs: Specs) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs)


def guess_hint(inputs: Specs, outputs: Specs) -> str:
    """Return a hint with the likely ``--state`` flags, guessed by shape and name; empty if there are none.

    Guesses are only suggested, since an input that looks like a state may be an option or data.
    """
    left = list(outputs)
    pairs: list[str] = []
    for spec in reversed(inputs):  # the data inputs usually come first
        alike = [other for other in left if other.shape == spec.shape and other.datatype == spec.datatype]
        if not alike or len(pairs) == len(inputs) - 1:
            continue
        best = max(alike, key=lambda other: SequenceMatcher(None, other.name, spec.name).ratio())
        left.remove(best)
        pairs.append(f"--state {best.name}:{spec.name}")
    if not pairs:
        return ""
    return f"if the model keeps state between calls, add: {' '.join(reversed(pairs))}"


# ---------------------------------------------------------------------------------------------
# Data


def with_states(split: Split, root: Root, manifest: Manifest, cache: Cache) -> Split:
    """Return a split whose samples include the float model's state before each.

    Samples that include states keep them. Afterwards the calibration set is cut to the samples that
    calibrate; the others were only needed to compute the state.

    Raises:
        ModelError: The model does not run, or a state is not finite.
        TensorError: The samples do not match the inputs.
    """
    if not manifest.state:
        return split
    calibration = _with_warm_states(_contexts(split.calibration, manifest), root, manifest, cache)
    evaluation = _with_warm_states(_contexts(split.evaluation, manifest), root, manifest, cache)
    if split.chosen is not None:
        calibration = _chosen(calibration, split.chosen)
    return replace(split, calibration=calibration, evaluation=evaluation, chosen=None)


def _contexts(data: Dataset, manifest: Manifest) -> Dataset:
    """Prepend the end of the previous window to each window, if the model needs that context."""
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


def _with_warm_states(data: Dataset, root: Root, manifest: Manifest, cache: Cache) -> Dataset:
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
    states_before = _run(root, arrays, pairs, data.starts, cache)
    return replace(
        data,
        inputs=data.inputs | {name: states_before[canonical_name] for name, canonical_name in named.items()},
    )


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
        result = run_child_job("warm-states", task, folder)
        samples.unlink()
        return result

    folder, _, _ = cache.make("warm-states", key, fill)
    with np.load(folder / "states.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _chosen(data: Dataset, numbers: Sequence[int]) -> Dataset:
    """Return some samples of a data set, no longer as a recording but with their states."""
    kept = list(numbers)
    return replace(
        data,
        names=tuple(data.names[number] for number in kept),
        inputs={name: values[kept] for name, values in data.inputs.items()},
        labels=None if data.labels is None else data.labels[kept],
        boxes=None if data.boxes is None else tuple(data.boxes[number] for number in kept),
        sizes=tuple(data.sizes[number] for number in kept) if data.sizes else (),
        in_order=False,
        starts=(),
    )
