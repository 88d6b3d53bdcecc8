"""Maps the labels in the data to the model's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError
from edgekit_optimize.data.listing import Listing

MAX_CLASSES = 1_000_000
_DIGITS = 15


@dataclass(frozen=True, eq=False)
class Classes:
    """The model's class names, and a listing's labels as the model's class indices.

    ``labels`` has one per sample. ``boxes`` maps the data's box classes to the model's, or to -1 if the
    model does not have the class; empty if they are already the model's.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    boxes: dict[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def of_boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes (k, 5) with the model's class indices, without classes unknown to the model."""
        if not self.boxes:
            return boxes
        kinds = np.array([self.boxes.get(int(kind), -1) for kind in boxes[:, 0]], np.float32)
        moved = np.concatenate([kinds[:, None], boxes[:, 1:]], axis=1).astype(np.float32)
        return moved[kinds >= 0]


def match_classes(listing: Listing, labels: Sequence[str]) -> Classes:
    """Return a listing's labels or boxes as indices into the model's labels.

    Names match exactly or else case-insensitively. Numbers are class indices. Without a labels file,
    names are numbered in sorted order.

    Raises:
        ConfigError: A name is not among the model's labels, or an index is out of range; of the classes
            of boxes, at least one must be among them.
    """
    if listing.labels is not None:
        if all(isinstance(label, int) for label in listing.labels):
            return _numbers(listing, labels)
        return _names(listing, labels)
    if listing.has_boxes and listing.classes and labels:
        return _of_boxes(listing, labels)
    return Classes(tuple(labels) or listing.classes)


def _numbers(listing: Listing, labels: Sequence[str]) -> Classes:
    indices = [int(label) for label in listing.labels or ()]
    low, high = min(indices), max(indices)
    if low < 0 or high >= (len(labels) or MAX_CLASSES):
        allowed = f"the model's labels file has {len(labels)} classes, counted from 0" if labels else ""
        raise ConfigError(
            f"{listing.source}: has class index {low if low < 0 else high},"
            f" {allowed or f'want 0 to {MAX_CLASSES - 1}'}",
            hint=_from_one(low, high, len(labels))
            or "class indices count from 0, in the order of the model's labels file",
        )
    return Classes(tuple(labels), np.array(indices, np.int64))


def _from_one(low: int, high: int, count: int) -> str:
    """Return a hint if labels seem to count from 1, else an empty string."""
    if low < 1 or high != count:
        return ""
    return f"they run from {low} to {high}: if they count from 1, subtract 1 from each"


def _names(listing: Listing, labels: Sequence[str]) -> Classes:
    given_names = [str(label) for label in listing.labels or ()]
    is_numeric = all(name.isdecimal() and name.isascii() and len(name) <= _DIGITS for name in given_names)
    if is_numeric and not set(given_names) & set(labels):
        return _numbers(replace(listing, labels=tuple(int(name) for name in given_names)), labels)
    known_names = tuple(labels) or tuple(sorted(set(given_names)))
    lookup = _lookup(known_names)
    numbers = {name: _find(lookup, name) for name in sorted(set(given_names))}
    if unmatched := [name for name, number in numbers.items() if number < 0]:
        shown = _some([repr(name) for name in unmatched])
        raise ConfigError(
            f"{listing.source}: {len(unmatched)} of its {len(numbers)} classes are not among the model's"
            f" labels: {shown}",
            hint="name them as in the model's labels file, or by index; to use the data without labels,"
            " put all pictures into one folder",
        )
    warning = f"the model has no labels file: assuming the data's classes in order ({_some(known_names)})"
    indices = np.array([numbers[name] for name in given_names], np.int64)
    return Classes(known_names, indices, warnings=() if labels else (warning,))


def _of_boxes(listing: Listing, labels: Sequence[str]) -> Classes:
    lookup = _lookup(labels)
    numbers = {index: _find(lookup, name) for index, name in enumerate(listing.classes)}
    unknown = [name for index, name in enumerate(listing.classes) if numbers[index] < 0]
    if len(unknown) == len(listing.classes):
        raise ConfigError(
            f"{listing.source}: none of its {len(unknown)} classes is among the model's labels,"
            f" such as {unknown[0]!r}",
            hint="name them in classes.txt as in the model's labels file",
        )
    warning = (
        f"{len(unknown)} of the data's {len(listing.classes)} classes are not among the model's labels,"
        f" their boxes were left out: {_some(unknown)}"
    )
    return Classes(tuple(labels), boxes=numbers, warnings=(warning,) if unknown else ())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _lookup(labels: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    exact: dict[str, int] = {}
    folded: dict[str, int] = {}
    for index, label in enumerate(labels):
        exact.setdefault(label.strip(), index)
        folded.setdefault(label.strip().casefold(), index)
    return exact, folded


def _find(lookup: tuple[dict[str, int], dict[str, int]], name: str) -> int:
    exact, folded = lookup
    return exact.get(name.strip(), folded.get(name.strip().casefold(), -1))
