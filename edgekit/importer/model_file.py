"""What is known of a foreign model file before anything is concluded from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.core.spec import Precision, Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS: Mapping[str, Literal["onnx", "tflite", "openvino"]] = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".xml": "openvino",
}


_LEAST_SIDE = 16
"""The side of the smallest image without a batch axis: [3, 128, 9] is a window of a sensor."""


@dataclass(frozen=True)
class FileTensor:
    """One input or output as the file declares it.

    ``datatype`` is the Open Inference Protocol's name, BYTES for strings, or SEQUENCE for what is no tensor
    (a ZipMap's list of dictionaries). ``shape`` has -1 where a dimension is free; ``symbols`` are its axes'
    names in ONNX.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    quantization: Quantization | None = None
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """The only image input of a file: ``height`` and ``width`` are -1 where the file leaves them free."""

    tensor: FileTensor
    layout: Literal["NHWC", "NCHW"]
    height: int
    width: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A foreign file: its declarations, its metadata, and what it answered when it was run.

    ``metadata``: every key that the file or its companion carries, its text read as a Python or JSON literal
    where it is one; ``metadata_from`` names the carrier ("metadata_props", "zip metadata.json", "TFLite
    Metadata", "rt_info/model_info", "metadata.yaml"). ``operators``: how often each occurs; custom ones of
    TFLite by their own name. ``kernels``: the shapes of an ONNX file's constants of four axes (weights of
    convolutions), and how often each occurs. ``classes``: the labels inside an ONNX classifier of tables.
    ``labels``: from the file or a label file beside it. ``parts``: every file that belongs to it, itself
    first. ``flags``: what the user stated, by key (``KEY=VALUE``, ``decoder``, ``labels``). ``tried``:
    outputs by name, real numbers or texts, one array for each picture; empty until it was run.
    ``miscomputed``: the backends that are known to answer wrongly for such a file, with the reason.
    """

    path: Path
    format: Literal["onnx", "tflite", "openvino"]
    precision: Precision = "fp32"
    inputs: tuple[FileTensor, ...] = ()
    outputs: tuple[FileTensor, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_from: str = ""
    operators: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    miscomputed: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    producer: str = ""
    labels: tuple[str, ...] = ()
    labels_from: str = ""
    parts: tuple[Path, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    tried: Mapping[str, tuple[NDArray[Any], ...]] = field(default_factory=dict)

    def image(self) -> Image | None:
        """Return the only input that can be an image (1 or 3 channels), or None."""
        found = [image for tensor in self.inputs if (image := image_of(tensor)) is not None]
        return found[0] if len(found) == 1 else None

    def output(self, *shape: int) -> FileTensor | None:
        """Return the only output of a shape; -1 is any length, and a free dimension of the file fits any."""
        fitting = [t for t in self.outputs if _fits(self.shape_of(t), shape)]
        return fitting[0] if len(fitting) == 1 else None

    def shape_of(self, output: FileTensor) -> tuple[int, ...]:
        """Return an output's shape as it was when run, -1 where it differed, or as declared before that."""
        shapes = {array.shape for array in self.tried.get(output.name, ())}
        if len({len(shape) for shape in shapes}) != 1:
            return output.shape
        return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))

    def asks_for(self, *names: str) -> bool:
        """Return whether the user named one of these decoders."""
        return str(self.flags.get("decoder", "")).lower() in names


def image_of(tensor: FileTensor) -> Image | None:
    """Return an input as an image, or None where it cannot be one."""
    if len(tensor.shape) == 3:
        return _single(tensor)
    if len(tensor.shape) != 4:
        return None
    _, first, second, third = tensor.shape
    if first in (1, 3) and (third not in (1, 3) or second not in (1, 3)):
        return Image(tensor, "NCHW", second, third, first)
    if third in (1, 3):
        return Image(tensor, "NHWC", first, second, third)
    if min(tensor.shape[1:]) < 0:  # every dimension free: ONNX exporters put channels first
        return Image(tensor, "NCHW", second, third, 3)
    return None


def _single(tensor: FileTensor) -> Image | None:
    """Return an input without a batch axis as a coloured image, or None; a window of samples is none."""
    sides = {"NCHW": (0, 1, 2), "NHWC": (2, 0, 1)}
    for layout, (channel, row, column) in sides.items():
        size = tensor.shape[row], tensor.shape[column]
        if tensor.shape[channel] == 3 and all(side < 0 or side >= _LEAST_SIDE for side in size):
            return Image(tensor, layout, *size, 3)  # type: ignore[arg-type]
    return None


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        -1 in (a, b) or a == b for a, b in zip(shape, wanted, strict=True)
    )
