"""Which class of the model a label in the data means."""

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
    """A listing's classes in the model's numbers.

    ``labels`` has one for each sample. ``boxes`` maps the numbers of boxes: the model's, or -1 for a
    class that the model does not know; empty where they are the model's own.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    boxes: dict[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def of_boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return boxes (k, 5) with the model's classes, without those it does not know."""
        if not self.boxes:
            return boxes
        kinds = np.array([self.boxes.get(int(kind), -1) for kind in boxes[:, 0]], np.float32)
        moved = np.concatenate([kinds[:, None], boxes[:, 1:]], axis=1).astype(np.float32)
        return moved[kinds >= 0]


def match_classes(listing: Listing, labels: Sequence[str]) -> Classes:
    """Match a listing's labels or boxes to the model's labels file.

    Names match exactly, else without regard to case. Numbers are taken as class indices. Without a
    labels file, names count in sorted order.

    Raises:
        ConfigError: A name is no label of the model, or an index beyond its labels; boxes may have
            classes that the model does not know, as long as it knows one.
    """
    if listing.labels is not None:
        if all(isinstance(label, int) for label in listing.labels):
            return _numbers(listing, labels)
        return _names(listing, labels)
    if listing.has_boxes and listing.classes and labels:
        return _of_boxes(listing, labels)
    return Classes(tuple(labels) or listing.classes)


def _numbers(listing: Listing, labels: Sequence[str]) -> Classes:
    given = [int(label) for label in listing.labels or ()]
    low, high = min(given), max(given)
    if low < 0 or high >= (len(labels) or MAX_CLASSES):
        there = f"the model's labels file has {len(labels)} classes, from 0" if labels else ""
        raise ConfigError(
            f"{listing.source}: has class index {low if low < 0 else high},"
            f" {there or f'want 0 to {MAX_CLASSES - 1}'}",
            hint=_from_one(low, high, len(labels))
            or "class indices count from 0, in the order of the model's labels file",
        )
    return Classes(tuple(labels), np.array(given, np.int64))


def _from_one(low: int, high: int, count: int) -> str:
    """Return what to do where labels seem to count from 1."""
    if low < 1 or high != count:
        return ""
    return f"they run from {low} to {high}: if they count from 1, subtract 1 from each"


def _names(listing: Listing, labels: Sequence[str]) -> Classes:
    given = [str(label) for label in listing.labels or ()]
    is_numeric = all(name.isdecimal() and name.isascii() and len(name) <= _DIGITS for name in given)
    if is_numeric and not set(given) & set(labels):
        return _numbers(replace(listing, labels=tuple(int(name) for name in given)), labels)
    known = tuple(labels) or tuple(sorted(set(given)))
    places = _places(known)
    numbers = {name: _find(places, name) for name in sorted(set(given))}
    if unmatched := [name for name, number in numbers.items() if number < 0]:
        shown = _some([repr(name) for name in unmatched])
        raise ConfigError(
            f"{listing.source}: {len(unmatched)} of its {len(numbers)} classes are no label of the model:"
            f" {shown}",
            hint="name them as in the model's labels file, or by their index;"
            " for use without labels put all pictures into one folder",
        )
    told = f"the model has no labels file: its classes are taken to be the data's in order ({_some(known)})"
    places_of = np.array([numbers[name] for name in given], np.int64)
    return Classes(known, places_of, warnings=() if labels else (told,))


def _of_boxes(listing: Listing, labels: Sequence[str]) -> Classes:
    places = _places(labels)
    numbers = {at: _find(places, name) for at, name in enumerate(listing.classes)}
    unknown = [name for at, name in enumerate(listing.classes) if numbers[at] < 0]
    if len(unknown) == len(listing.classes):
        raise ConfigError(
            f"{listing.source}: none of its {len(unknown)} classes is a label of the model,"
            f" such as {unknown[0]!r}",
            hint="name them in classes.txt as in the model's labels file",
        )
    told = (
        f"{len(unknown)} of the data's {len(listing.classes)} classes are no label of the model,"
        f" their boxes were left out: {_some(unknown)}"
    )
    return Classes(tuple(labels), boxes=numbers, warnings=(told,) if unknown else ())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _places(labels: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    exact: dict[str, int] = {}
    folded: dict[str, int] = {}
    for place, label in enumerate(labels):
        exact.setdefault(label.strip(), place)
        folded.setdefault(label.strip().casefold(), place)
    return exact, folded


def _find(places: tuple[dict[str, int], dict[str, int]], name: str) -> int:
    exact, folded = places
    return exact.get(name.strip(), folded.get(name.strip().casefold(), -1))
