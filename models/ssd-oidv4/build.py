"""The object detector: label map and network out of MediaPipe's packed assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgekit.optimize.recordings import video_frames
from edgekit.optimize.tflite import read_tflite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.optimize.network import Network
    from edgekit.optimize.zoo import Kit

_LABEL_BYTES = 184  # the assets are the label map, then the model
_SIDE = 300


def labels(kit: Kit) -> list[str]:
    """Return the label of each class; the first is the background."""
    text = kit.file("assets").read_bytes()[:_LABEL_BYTES].decode()
    return text.rstrip("\n").split("\n")


def network(kit: Kit) -> Network:
    """Return MediaPipe's network with the manifest's names at its ends."""
    return read_tflite(kit.file("assets").read_bytes()[_LABEL_BYTES:]).renamed(
        {
            "normalized_input_image_tensor": "image",
            "raw_outputs/box_encodings": "boxes",
            "raw_outputs/class_predictions": "scores",
        }
    )


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return three frames of the street video."""
    return [{"image": _input(pixels)} for pixels in video_frames(kit.recording("bikes"), (20, 120, 220))]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return frames and halves of frames of both videos, none of them a golden sample."""
    found = []
    for name, numbers in (("bikes", range(5, 250, 20)), ("carphone", range(3, 120, 40))):
        for pixels in video_frames(kit.recording(name), tuple(numbers)):
            width = pixels.shape[1] // 2
            found += [pixels, pixels[:, :width], pixels[:, width:]]
    return [{"image": _input(pixels)} for pixels in found]


def _input(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    resized = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)[np.newaxis]
