"""Data sets in memory, read from a listing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError
from edgekit_optimize.data.classes import Classes
from edgekit_optimize.data.listing import Listing, Sample
from edgekit_optimize.data.order import starts_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in memory.

    ``names`` are the samples' paths in the source, or their indices. ``inputs`` has an array (n, *shape
    without the batch) by logical input name: images uint8, NHWC, in the model's colour order; all others
    float32, before normalising. ``labels`` is the class of each sample. ``boxes`` are the objects in
    each, (k, 5), float32: class, left, top, right, bottom in pixels of the source picture. ``sizes`` are
    the widths and heights of the source pictures, empty if samples are not pictures. ``classes`` are the
    class names, if known. ``in_order``: the samples are recordings in order of time, so the model's
    state is passed from one to the next, and its errors accumulate as on a device; the state is reset
    at ``starts``, the first sample of each recording (empty: only at the first sample). ``states`` are
    the outputs that are states, which metrics ignore.
    """

    names: tuple[str, ...]
    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None = None
    boxes: tuple[NDArray[np.float32], ...] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    classes: tuple[str, ...] = ()
    in_order: bool = False
    starts: tuple[int, ...] = ()
    states: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Collected:
    """One set of the split; if ``chosen`` is set, only the samples with these indices count."""

    dataset: Dataset
    hashes: tuple[str, ...]
    dropped: int
    chosen: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """The number of samples that count."""
        return len(self.dataset) if self.chosen is None else len(self.chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all samples."""
        return self.dataset.names


def collect(
    listing: Listing, classes: Classes, order: Sequence[int], count: int, excluded: frozenset[str]
) -> Collected:
    """Return the first ``count`` samples in this order whose hash is not in ``excluded``."""
    collected: list[tuple[int, Sample, str]] = []
    dropped = 0
    for index in order:
        if len(collected) >= count:
            break
        sample = listing.read(index)
        digest = digest_of(sample)
        if digest in excluded:
            dropped += 1
        else:
            collected.append((index, sample, digest))
    dataset = Dataset(
        names=tuple(listing.names[index] for index, _, _ in collected),
        inputs=_stacked([sample for _, sample, _ in collected], listing.source),
        labels=None if classes.labels is None else classes.labels[[index for index, _, _ in collected]],
        boxes=_boxes([sample for _, sample, _ in collected], classes) if listing.has_boxes else None,
        sizes=tuple(sample.size for _, sample, _ in collected if sample.size is not None),
        classes=classes.names,
    )
    return Collected(dataset, tuple(digest for _, _, digest in collected), dropped)


def collect_in_order(
    listing: Listing, classes: Classes, indices: Sequence[int], recordings: Sequence[range]
) -> Collected:
    """Return samples for a model with state, in the given order."""
    collected = collect(listing, classes, indices, len(indices), frozenset())
    dataset = replace(collected.dataset, in_order=True, starts=starts_of(indices, recordings))
    return replace(collected, dataset=dataset)


def _stacked(samples: Sequence[Sample], source: str) -> dict[str, NDArray[Any]]:
    if not samples:
        return {}
    for name, first in samples[0].inputs.items():
        shapes = {sample.inputs[name].shape for sample in samples}
        if len(shapes) > 1:
            raise TensorError(
                f"{source}: samples of input {name!r} have different shapes: {sorted(shapes)[:3]}",
                hint=f"give all of them the same shape, such as {list(first.shape)}",
            )
    return {name: np.stack([sample.inputs[name] for sample in samples]) for name in samples[0].inputs}


def _boxes(samples: Sequence[Sample], classes: Classes) -> tuple[NDArray[np.float32], ...]:
    empty = np.zeros((0, 5), np.float32)
    return tuple(classes.of_boxes(empty if s.boxes is None else s.boxes) for s in samples)


def digest_of(sample: Sample) -> str:
    """Return a hash of the model's inputs, so that copies of a picture count as one sample."""
    digest = hashlib.sha256()
    for name in sorted(sample.inputs):
        array = sample.inputs[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
