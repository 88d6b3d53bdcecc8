"""The face detector: MediaPipe's network with its inputs and outputs renamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgekit_optimize.graph.tflite import read_tflite
from edgekit_optimize.zoo.recordings import video_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_optimize.graph.network import Network
    from edgekit_optimize.zoo.build import Kit

_SIDE = 256
_FACES, _STREET = (10, 90), (60,)  # the frames that are golden samples


def labels(_kit: Kit) -> list[str]:
    """Return the one label."""
    return ["face"]


def network(kit: Kit) -> Network:
    """Return MediaPipe's network with the manifest's names for its inputs and outputs."""
    return read_tflite(kit.file("weights").read_bytes()).renamed(
        {"input": "image", "classificators": "classifiers"}
    )


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return two frames with a face and one of a street without."""
    frames = video_frames(kit.recording("carphone"), _FACES) + video_frames(kit.recording("bikes"), _STREET)
    return [{"image": _input(pixels)} for pixels in frames]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return frames of the first halves of both videos, none of them a golden sample."""
    faces = video_frames(kit.recording("carphone"), tuple(n for n in range(0, 60, 2) if n != _FACES[0]))
    streets = video_frames(kit.recording("bikes"), tuple(range(5, 125, 12)))
    return [{"image": _input(pixels)} for pixels in faces + streets]


def evaluation(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return frames of the second halves of both videos; faces also close up and mirrored."""
    found = video_frames(kit.recording("bikes"), tuple(range(125, 250, 5)))
    for pixels in video_frames(
        kit.recording("carphone"), tuple(n for n in range(64, 120, 2) if n != _FACES[1])
    ):
        close = pixels[:, 16:-16]
        found += [pixels, close[:, ::-1], pixels[12:, 40:-24]]
    return [{"image": _input(pixels)} for pixels in found]


def _input(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a frame to fit the input and pad it with black."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = (round(width * scale), round(height * scale))
    canvas = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    left, top = (_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_LINEAR
    )
    return canvas[np.newaxis]
