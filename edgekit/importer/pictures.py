"""The pictures that a file is tried on: made ones always, and the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError, UsageError
from edgekit.importer.labelled import Truth, read_truth
from edgekit.pipeline.picture_files import SUFFIXES, list_pictures, read_picture
from edgekit.pipeline.pre import vision

MOST, MOST_LABELLED = 64, 256
"""Pictures of a folder that are tried: more prove nothing that these do not, but where labels judge."""


def made_picture(seed: int, height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    """Return a picture with the statistics of photographs: detail at every scale, coloured shapes with edges.

    White noise would not do: it drives an int8 model out of the ranges that it was calibrated for.

    Returns:
        Shape (height, width, 3), uint8, BGR; the same for the same seed.
    """
    cv2, random = vision(), np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(7):
        cells = 2 ** (octave + 1)
        grid = random.normal(size=(cells, cells, 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / cells
    total = 128 + 90 * total / np.abs(total).max()
    for _ in range(6):
        left, top = int(random.integers(0, width - 60)), int(random.integers(0, height - 60))
        right, bottom = (
            left + int(random.integers(40, width // 2)),
            top + int(random.integers(40, height // 2)),
        )
        shade = random.integers(0, 256, 3).astype(np.float32)
        patch = total[top:bottom, left:right]
        patch += 0.7 * (shade - patch)
    return np.asarray(np.clip(np.rint(total), 0, 255), np.uint8)


@dataclass(frozen=True)
class Pictures:
    """Pictures of the user, each (height, width, 3), uint8, BGR, and the boxes labelled on each of them."""

    pixels: Sequence[NDArray[np.uint8]] = ()
    truth: Sequence[Truth] = ()


def read_pictures(path: Path | None, *, labels: bool = False) -> Pictures:
    """Return the pictures of a folder or of one file, in order of name; with ``labels`` the boxes on them.

    Raises:
        UsageError: There is none, one cannot be read, or a line of its labels is none.
    """
    if path is None:
        return Pictures()
    if not path.exists():
        raise UsageError(f"--try {path}: there is no such folder or picture")
    files = [path] if path.is_file() else [path / name for name in list_pictures(path)]
    pictures, truth, unread = list[NDArray[np.uint8]](), list[Truth](), list[str]()
    for file in files[:MOST_LABELLED]:
        if len(pictures) >= MOST and not any(truth):
            break
        try:
            pictures.append(read_picture(file))
            if labels:
                truth.append(read_truth(file, *pictures[-1].shape[:2]))
        except TensorError as error:
            unread.append(error.message)
    if unread or not pictures:
        raise UsageError(
            f"--try {path}: {'; '.join(unread[:3]) if unread else 'has no picture'}",
            hint=f"give pictures ({', '.join(sorted(SUFFIXES))}) like those that the model will see",
        )
    return Pictures(pictures, truth)
