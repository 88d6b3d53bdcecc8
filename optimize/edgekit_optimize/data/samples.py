"""Samples in memory, read one by one from a listing."""

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

    ``names`` has one for each sample: its path below the source, or its place. ``inputs`` has an
    array (n, *shape without the batch) by logical input name: images uint8, NHWC, in the model's
    colours; everything else float32, before normalising. ``labels`` is the class of each sample.
    ``boxes`` is what there is to detect in each: (k, 5), float32: class, left, top, right, bottom in
    pixels of the source picture. ``sizes`` are the source pictures' widths and heights, empty where
    samples are no pictures. ``classes`` are the names of the classes, where the model or the data
    have them. ``in_order``: the samples are recordings in order of time, so a model's state goes from
    each to the next, and what it gets wrong adds up as on a device; it is reset at ``starts``, the
    places where a recording begins (empty: at the first alone). ``states`` are the outputs that are
    a state: they are carried, and are no answer that a metric would count.
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
    """One side of the split while it is made; ``chosen``: only these of its samples count."""

    dataset: Dataset
    hashes: tuple[str, ...]
    dropped: int
    chosen: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """How many samples count."""
        return len(self.dataset) if self.chosen is None else len(self.chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """What each sample is called."""
        return self.dataset.names


def collect(
    listing: Listing, classes: Classes, order: Sequence[int], count: int, seen: frozenset[str]
) -> Collected:
    """Read samples in an order until there are enough, without those whose content was seen."""
    kept: list[tuple[int, Sample, str]] = []
    dropped = 0
    for place in order:
        if len(kept) >= count:
            break
        sample = listing.read(place)
        digest = digest_of(sample)
        if digest in seen:
            dropped += 1
        else:
            kept.append((place, sample, digest))
    dataset = Dataset(
        names=tuple(listing.names[place] for place, _, _ in kept),
        inputs=_stacked([sample for _, sample, _ in kept], listing.source),
        labels=None if classes.labels is None else classes.labels[[place for place, _, _ in kept]],
        boxes=_boxes([sample for _, sample, _ in kept], classes) if listing.has_boxes else None,
        sizes=tuple(sample.size for _, sample, _ in kept if sample.size is not None),
        classes=classes.names,
    )
    return Collected(dataset, tuple(digest for _, _, digest in kept), dropped)


def collect_in_order(
    listing: Listing, classes: Classes, places: Sequence[int], recordings: Sequence[range]
) -> Collected:
    """Read samples in an order in which a model's state goes through them."""
    found = collect(listing, classes, places, len(places), frozenset())
    dataset = replace(found.dataset, in_order=True, starts=starts_of(places, recordings))
    return replace(found, dataset=dataset)


def _stacked(samples: Sequence[Sample], source: str) -> dict[str, NDArray[Any]]:
    if not samples:
        return {}
    for name, first in samples[0].inputs.items():
        shapes = {sample.inputs[name].shape for sample in samples}
        if len(shapes) > 1:
            raise TensorError(
                f"{source}: samples of input {name!r} have different shapes: {sorted(shapes)[:3]}",
                hint=f"give all of them one shape, such as {list(first.shape)}",
            )
    return {name: np.stack([sample.inputs[name] for sample in samples]) for name in samples[0].inputs}


def _boxes(samples: Sequence[Sample], classes: Classes) -> tuple[NDArray[np.float32], ...]:
    empty = np.zeros((0, 5), np.float32)
    return tuple(classes.of_boxes(empty if s.boxes is None else s.boxes) for s in samples)


def digest_of(sample: Sample) -> str:
    """Return a hash of what the model would see: the same picture in two files is one sample."""
    digest = hashlib.sha256()
    for name in sorted(sample.inputs):
        array = sample.inputs[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
