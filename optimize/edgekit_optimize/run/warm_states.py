"""Compute a model's state before each sample by running the float model in order, as a device does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.plan import Root
from edgekit_optimize.readers.runs import Tensors, open_run


def warm_states(
    root: Root, data: Mapping[str, NDArray[np.float32]], pairs: Mapping[str, str], starts: Sequence[int]
) -> dict[str, NDArray[np.float32]]:
    """Return the state before each sample: zeros at a start, else the previous call's output.

    Args:
        root: The float model.
        data: Samples in order, (n, *shape without the batch), for each canonical input that is data.
        pairs: The canonical output of each canonical input that is a state.
        starts: Where recordings begin; sample 0 always counts.

    Returns:
        For each input in ``pairs``, an array (n, *shape without a batch of 1), float32.

    Raises:
        ModelError: A state is not finite, or the model does not run.
    """
    specs = {spec.name: spec for spec in root.inputs}
    run = open_run(root.canonical, Path(getattr(root, root.canonical)))
    dtypes = dict(zip(run.names, run.dtypes, strict=True))
    count = len(next(iter(data.values())))
    kept = {name: np.zeros((count, *_single(specs[name])), np.float32) for name in pairs}
    begins = {0, *starts}
    state: Tensors = {}
    for n in range(count):
        if n in begins:
            state = {name: np.zeros(specs[name].shape, np.float32) for name in pairs}
        for name, values in state.items():
            kept[name][n] = values.reshape(kept[name].shape[1:])
        feeds = {name: values[n].reshape(_shape(specs[name], values[n])) for name, values in data.items()}
        feeds |= state
        outputs = run.call({name: np.ascontiguousarray(feeds[name], dtypes[name]) for name in run.names})
        state = {name: _state(outputs, pairs[name], specs[name], n) for name in pairs}
    return kept


def _single(spec: TensorSpec) -> tuple[int, ...]:
    """Return a sample's shape without its batch axis, if it has one."""
    return spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape


def _shape(spec: TensorSpec, sample: NDArray[Any]) -> tuple[int, ...]:
    return spec.shape if -1 not in spec.shape else (1, *sample.shape)


def _state(outputs: Tensors, output: str, spec: TensorSpec, n: int) -> NDArray[np.float32]:
    values = np.asarray(outputs[output], np.float32).reshape(spec.shape)
    if not np.isfinite(values).all():
        raise ModelError(
            f"output {output!r}, the state fed to {spec.name!r}, is not finite after sample {n}",
            hint="check the pairs of --state, and that data are normalised as in training",
        )
    return values
