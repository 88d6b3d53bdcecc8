"""The object detector: label map and network from MediaPipe's packed assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgekit_optimize.graph.tflite import read_tflite
from edgekit_optimize.zoo.recordings import video_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgekit_optimize.graph.network import Network
    from edgekit_optimize.zoo.build import Kit

_LABEL_BYTES = 184  # the assets are the label map, then the model
_SIDE = 300
_GOLDEN = (20, 120, 220)
_TUNED = {"bikes": range(5, 250, 20), "carphone": range(3, 120, 40)}


def labels(kit: Kit) -> list[str]:
    """Return the label of each class; the first is the background."""
    text = kit.file("assets").read_bytes()[:_LABEL_BYTES].decode()
    return text.rstrip("\n").split("\n")


def network(kit: Kit) -> Network:
    """Return MediaPipe's network with the manifest's names for its inputs and outputs."""
    return read_tflite(kit.file("assets").read_bytes()[_LABEL_BYTES:]).renamed(
        {
            "normalized_input_image_tensor": "image",
            "raw_outputs/box_encodings": "boxes",
            "raw_outputs/class_predictions": "scores",
        }
    )


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return three frames of the street video."""
    return [{"image": _input(pixels)} for pixels in video_frames(kit.recording("bikes"), _GOLDEN)]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return frames and halves of frames of both videos, none of them a golden sample."""
    return [feeds for name, numbers in _TUNED.items() for feeds in _parts(kit, name, numbers)]


def evaluation(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return frames and halves of frames at other moments of both videos."""
    found = []
    for name, numbers in (("bikes", range(10, 250, 5)), ("carphone", range(13, 120, 10))):
        found += _parts(kit, name, [n for n in numbers if n not in _TUNED[name] and n not in _GOLDEN])
    return found


def _parts(kit: Kit, name: str, numbers: Sequence[int]) -> list[dict[str, NDArray[Any]]]:
    """Return each of a video's frames whole, and its left and right half."""
    found = []
    for pixels in video_frames(kit.recording(name), tuple(numbers)):
        width = pixels.shape[1] // 2
        found += [pixels, pixels[:, :width], pixels[:, width:]]
    return [{"image": _input(pixels)} for pixels in found]


def _input(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    resized = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)[np.newaxis]
