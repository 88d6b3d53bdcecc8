"""EfficientNet-Lite0: the network in code, with weights from a PyTorch checkpoint.

Source: tensorflow/tpu, models/official/efficientnet/lite: EfficientNet-B0 without squeeze and
excitation, ReLU6 for swish, the first and last layers not scaled.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.zoo.recordings import video_frames
from edgekit_optimize.zoo.unpickle import read_pth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_optimize.zoo.build import Kit

_SIDE = 224
_KEEP = 0.875  # as pre.crop_ratio says
_EPSILON = 1e-3  # of the batch normalisation
# (blocks, stride of the first); the weights have the kernels and widths.
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))


def labels(kit: Kit) -> list[str]:
    """Return the name of each of the 1,000 classes."""
    names = json.loads(kit.file("labels").read_text(encoding="utf-8"))
    return [str(name) for name in names]


def network(kit: Kit) -> Network:
    """Return the network, batch normalisation folded into the convolutions; it ends in logits."""
    weights = _Weights(read_pth(kit.file("weights")))
    layers = [weights.conv("image", "stem", "_conv_stem", "_bn0", (2, 2), "relu6")]
    number = 0
    for blocks, stride in _STAGES:
        for block in range(blocks):
            layers += _block(weights, layers[-1].output, number, stride if block == 0 else 1)
            number += 1
    layers.append(weights.conv(layers[-1].output, "head", "_conv_head", "_bn1", (1, 1), "relu6"))
    layers.append(Layer("mean", ("head",), "features"))
    layers.append(
        Layer("dense", ("features",), "scores", weights=weights["_fc.weight"], bias=weights["_fc.bias"])
    )
    return Network({"image": (1, _SIDE, _SIDE, 3)}, tuple(layers), ("scores",))


def _block(weights: _Weights, source: str, number: int, stride: int) -> list[Layer]:
    """Return one inverted residual block, with a skip connection if the shape stays the same."""
    name, prefix = f"block{number}", f"_blocks.{number}."
    layers: list[Layer] = []
    if f"{prefix}_expand_conv.weight" in weights:
        wide = weights.conv(
            source, f"{name}/expand", f"{prefix}_expand_conv", f"{prefix}_bn0", (1, 1), "relu6"
        )
        layers.append(wide)
    inner = layers[-1].output if layers else source
    layers.append(
        weights.conv(
            inner, f"{name}/depthwise", f"{prefix}_depthwise_conv", f"{prefix}_bn1", (stride, stride), "relu6"
        )
    )
    narrow = weights.conv(
        layers[-1].output, f"{name}/project", f"{prefix}_project_conv", f"{prefix}_bn2", (1, 1), "none"
    )
    layers.append(narrow)
    assert narrow.weights is not None
    if stride == 1 and narrow.weights.shape[0] == weights.channels_into(prefix):
        layers.append(Layer("add", (narrow.output, source), f"{name}/add"))
    return layers


class _Weights(dict[str, Any]):
    def channels_into(self, prefix: str) -> int:
        """Return the number of channels of a block's input."""
        expand = self.get(f"{prefix}_expand_conv.weight")
        first = self[f"{prefix}_depthwise_conv.weight"] if expand is None else expand
        return int(first.shape[0] if expand is None else first.shape[1])

    def conv(
        self, source: str, output: str, conv: str, norm: str, stride: tuple[int, int], activation: Any
    ) -> Layer:
        """Return a convolution with the batch normalisation after it folded in."""
        kernel = self[f"{conv}.weight"]  # (out, in / groups, height, width)
        scale = self[f"{norm}.weight"] / np.sqrt(self[f"{norm}.running_var"] + _EPSILON)
        folded = kernel * scale.reshape(-1, 1, 1, 1)
        is_depthwise = "depthwise" in conv
        order = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
        return Layer(
            "depthwise" if is_depthwise else "conv",
            (source,),
            output,
            weights=np.ascontiguousarray(folded.transpose(order), np.float32),
            bias=(self[f"{norm}.bias"] - self[f"{norm}.running_mean"] * scale).astype(np.float32),
            stride=stride,
            activation=activation,
        )


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return one frame of each of the three videos."""
    names = (("bikes", 120), ("carphone", 60), ("cartoon", 40))
    return [{"image": _crop(video_frames(kit.recording(name), (n,))[0], 0.5)} for name, n in names]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return square crops from the left, middle and right of video frames, without golden samples."""
    found = []
    for name, numbers in (
        ("bikes", range(5, 250, 16)),
        ("carphone", range(3, 120, 12)),
        ("cartoon", range(5, 130, 8)),
    ):
        for pixels in video_frames(kit.recording(name), tuple(numbers)):
            found += [_crop(pixels, place) for place in (0.0, 0.5, 1.0)]
    return [{"image": image} for image in found]


def evaluation(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return square crops from other frames of the same videos, every second one mirrored."""
    found = []
    for name, numbers in (
        ("bikes", range(13, 250, 16)),
        ("carphone", range(9, 120, 12)),
        ("cartoon", range(9, 130, 8)),
    ):
        for pixels in video_frames(kit.recording(name), tuple(numbers)):
            crops = [_crop(pixels, place) for place in (0.0, 0.25, 0.75, 1.0)]
            found += [image[:, :, ::-1] if n % 2 else image for n, image in enumerate(crops)]
    return [{"image": np.ascontiguousarray(image)} for image in found]


def _crop(pixels: NDArray[np.uint8], place: float) -> NDArray[np.uint8]:
    """Return a square crop at a position along the longer side, scaled to the input."""
    height, width = pixels.shape[:2]
    side = round(min(height, width) * _KEEP)
    top, left = round((height - side) * place), round((width - side) * place)
    square = pixels[top : top + side, left : left + side]
    resized = cv2.resize(square, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)[np.newaxis]
