"""What several families of detectors conclude alike: cells, labels, and the units of boxes by the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.label_sets import assumed_labels
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.literals import names_of
from edgekit.importer.trial import image_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LARGEST_SHARE = 4.0
"""A box's share of the input is at most a little over 1; a box in pixels of 4 at most would be no object."""


def units_of(boxes: Sequence[NDArray[np.float32]], assumed: str, why: str) -> Finding:
    """Return whether boxes are pixels of the input or shares of its sides, by the largest value.

    Args:
        boxes: The four numbers of every box, for each picture tried; empty if nothing was tried.
        assumed: "pixels" or "shares", what the family writes, where nothing was tried.
        why: Whose convention that is.
    """
    finite = [array[np.isfinite(array)] for array in boxes]
    largest = max((float(array.max()) for array in finite if array.size), default=None)
    if largest is None:
        return Finding("units", assumed, "assumed", why)
    units = "pixels" if largest > _LARGEST_SHARE else "shares"
    return Finding("units", units, "tried", f"the largest number of a box is {largest:.4g}")


def cells_of(file: ModelFile, strides: Sequence[int]) -> list[int]:
    """Return how many cells each stride makes over the file's picture; the last ones may reach beyond it."""
    (height, width), _ = image_size(file)
    return [-(-height // stride) * -(-width // stride) for stride in strides]


def labels_of(file: ModelFile, classes: int) -> tuple[tuple[Finding, ...], dict[str, str]]:
    """Return the finding of the labels, or what to ask: the file's own, else a known list of that length.

    Raises:
        BundleError: The file or the label file beside it names another number of classes, the user none.
    """
    names = names_of(file.metadata.get("names")) or file.labels
    if names and (len(names) == classes or "labels" not in file.flags):
        if len(names) != classes:
            carrier = file.labels_from or file.metadata_from
            raise BundleError(
                f"{file.path}: {carrier} names {len(names)} classes, its outputs have {classes}",
                hint="they are of different models: export the file again, or state its own with --labels",
            )
        return (Finding("labels", names, "metadata", file.labels_from or file.metadata_from),), {}
    name, assumed = assumed_labels(classes)
    if assumed:
        return (Finding("labels", assumed, "assumed", f"{classes} classes: {name}"),), {}
    return (), {"labels": f"{classes} classes, and the file has no names"}


def convention(why: str, **values: Any) -> tuple[Finding, ...]:
    """Return findings that a family's convention alone says."""
    return tuple(Finding(key, value, "assumed", why) for key, value in values.items())


def largest(file: ModelFile, output: FileTensor, columns: slice) -> float | None:
    """Return the largest finite number of these columns of the last axis, over every answer, or None."""
    parts = [array[..., columns] for array in file.tried.get(output.name, ())]
    finite = [part[np.isfinite(part)] for part in parts]
    return max((float(part.max()) for part in finite if part.size), default=None)
