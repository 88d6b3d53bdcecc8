"""Recordings from pinned packages, for the demo and the zoo's golden samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import SourceError, UsageError
from edgekit.core.structure import decode_toml
from edgekit.pipeline.pre import vision
from edgekit_optimize.zoo.fetch import Package, fetch
from edgekit_optimize.zoo.recipe import models_folder
from edgekit_optimize.zoo.unpickle import read_object_npy


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One recording: its title, licence and source."""

    title: str
    license: str
    package: Package


@dataclass(frozen=True, eq=False)
class Motion:
    """One recording of seglearn: a person with a watch does 20 repetitions of one exercise.

    ``samples`` is (n, 6), float32: acceleration x y z in g, then rotation x y z in rad/s, at 50 Hz.
    """

    samples: NDArray[np.float32]
    exercise: str
    subject: int
    is_right: bool


def recordings(folder: Path | None = None) -> dict[str, Recording]:
    """Return every recording of the zoo by name."""
    path = (folder or models_folder()) / "_recordings.toml"
    return decode_toml(path.read_text(encoding="utf-8"), dict[str, Recording], path.name)


def recording(name: str, cache: Path | None = None) -> Path:
    """Return the file of a recording, fetched on first use.

    Raises:
        UsageError: There is no such recording.
        LinkError: It is not in the cache and cannot be fetched.
    """
    known = recordings()
    if name not in known:
        raise UsageError(f"there is no recording {name!r}", hint=f"there are {', '.join(known)}")
    return fetch(known[name].package, cache)


def motions(path: Path) -> list[Motion]:
    """Read the ``watch`` recording: 140 motions of 10 people and 7 exercises.

    Source: "Shoulder physiotherapy exercise recognition: machine learning the inertial signals
    from a smartwatch", Burns et al. 2018; the file is seglearn's.
    """
    data = read_object_npy(path).item()
    return [
        Motion(np.asarray(samples, np.float32), data["y_labels"][int(label)], int(subject), bool(side))
        for samples, label, subject, side in zip(
            data["X"], data["y"], data["subject"], data["side"], strict=True
        )
    ]


def video_frames(path: Path, numbers: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    """Return the frames with these numbers, each (height, width, 3), uint8, RGB.

    Raises:
        ConfigError: OpenCV is missing.
        SourceError: The file ends before the last of them.
    """
    cv2 = vision()
    capture = cv2.VideoCapture(str(path))
    frames: dict[int, NDArray[np.uint8]] = {}
    try:
        for number in range(max(numbers) + 1):
            is_read, pixels = capture.read()
            if not is_read:
                raise SourceError(f"{path.name} ends before frame {number}")
            if number in numbers:
                frames[number] = np.ascontiguousarray(pixels[:, :, ::-1])
    finally:
        capture.release()
    return [frames[number] for number in numbers]
