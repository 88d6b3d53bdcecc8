"""From a model's output tensors to items: one file each, by ``post.decoder``.

A target is a function ``build(setup) -> Decoder``, which checks the manifest once. The decoder gets each
frame's tensors by logical name, float32, in the manifest's shapes; they are valid only during the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from edgekit.base import plugins
from edgekit.core.errors import BundleError
from edgekit.pipeline.check import Options, check_table
from edgekit.pipeline.file_tensors import fits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.core.spec import Item, Post
    from edgekit.pipeline.gallery import Gallery
    from edgekit.pipeline.pre import Placement

DECODERS: dict[str, str] = {
    "classify": "edgekit.pipeline.decoders.classify:build",
    "sensor": "edgekit.pipeline.decoders.classify:build",
    "ssd": "edgekit.pipeline.decoders.ssd:build",
    "blazeface": "edgekit.pipeline.decoders.blazeface:build",
    "yolo": "edgekit.pipeline.decoders.yolo:build",
    "detections": "edgekit.pipeline.decoders.detections:build",
    "detr": "edgekit.pipeline.decoders.detr:build",
    "bins": "edgekit.pipeline.decoders.bins:build",
    "yolo-grid": "edgekit.pipeline.decoders.yolo_grid:build",
    "efficientdet": "edgekit.pipeline.decoders.efficientdet:build",
    "centre": "edgekit.pipeline.decoders.centre:build",
    "movenet": "edgekit.pipeline.decoders.movenet:build",
    "posenet": "edgekit.pipeline.decoders.posenet:build",
    "landmarks": "edgekit.pipeline.decoders.landmarks:build",
    "fomo": "edgekit.pipeline.decoders.fomo:build",
    "anomaly": "edgekit.pipeline.decoders.anomaly:build",
    "vad": "edgekit.pipeline.decoders.vad:build",
    "segment": "edgekit.pipeline.decoders.segment:build",
    "matte": "edgekit.pipeline.decoders.matte:build",
    "depth": "edgekit.pipeline.decoders.depth:build",
    "heatmap": "edgekit.pipeline.decoders.heatmap:build",
    "embed": "edgekit.pipeline.decoders.embed:build",
    "ctc": "edgekit.pipeline.decoders.ctc:build",
    "textmap": "edgekit.pipeline.decoders.textmap:build",
    "regress": "edgekit.pipeline.decoders.regress:build",
    "outlier": "edgekit.pipeline.decoders.outlier:build",
    "raw": "edgekit.pipeline.decoders.raw:build",
}
DECODER_ROWS = plugins.Rows(DECODERS, plugins.DECODERS)


@dataclass(frozen=True)
class Setup:
    """What a decoder is built from.

    ``shapes``: the outputs' logical shapes by name. ``input_size``: width and height in pixels of
    an image model's input, else None. ``what`` names the model in errors. A decoder that remembers
    previous frames adds to ``on_reset`` what forgets them. ``gallery``: the device's names and vectors.
    """

    post: Post
    labels: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    input_size: tuple[int, int] | None = None
    what: str = "bundle.json"
    on_reset: list[Callable[[], None]] = field(default_factory=list)
    gallery: Gallery | None = None


@dataclass(slots=True)
class Outcome:
    """One inference's outputs, ready to decode; ``fed`` is the normalised sensor window.

    ``maps`` receives what a decoder returns beside items: arrays over the picture, by name.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    placement: Placement | None = None
    fed: NDArray[np.float32] | None = None
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)


Decoder = Callable[[Outcome], "tuple[Item, ...]"]
OptionsT = TypeVar("OptionsT", bound=Options)


def make_decoder(setup: Setup) -> Decoder:
    """Return the decoder that a manifest names.

    Raises:
        BundleError: There is none of that name, its options are wrong, or an output is missing.
    """
    name = setup.post.decoder
    if not DECODER_ROWS.target(name):
        raise BundleError(
            f"{setup.what}: post.decoder: {DECODER_ROWS.missing(name)}",
            hint="install the package that adds it, or a newer edgekit",
        )
    decoder: Decoder = DECODER_ROWS.load(name)(setup)
    return decoder


def options_of(setup: Setup, kind: type[OptionsT]) -> OptionsT:
    """Return ``post.options`` as a structure.

    Raises:
        BundleError: A key is unknown, missing or wrong; the error lists them all.
    """
    problems: list[str] = []
    options = check_table(setup.post.options, kind, "post.options", problems)
    if options is None:
        raise BundleError(f"{setup.what}: {problems[0]}", reasons=tuple(problems[1:]))
    return options


def shape_of(setup: Setup, name: str, expected: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an output that a decoder needs; -1 in ``expected`` is any length.

    Raises:
        BundleError: The manifest has no such output, or one of another shape.
    """
    shape = setup.shapes.get(name)
    if shape is None:
        raise BundleError(
            f"{setup.what}: the {setup.post.decoder!r} decoder needs an output {name!r}, "
            f"got {', '.join(map(repr, setup.shapes)) or 'none'}"
        )
    if not fits(shape, expected):
        raise BundleError(f"{setup.what}: output {name!r}: want shape {list(expected)}, got {list(shape)}")
    return shape


def label_of(labels: tuple[str, ...], index: int) -> str:
    """Return a class's label, or its number if it has none."""
    return labels[index] if 0 <= index < len(labels) and labels[index] else str(index)


def check_labels(setup: Setup, classes: int, *, has_background: bool) -> tuple[str, ...]:
    """Return one label for each class of the output, with an empty one for a background without label.

    Without labels classes are named by number.

    Raises:
        BundleError: There are labels, but another number of them.
    """
    labels = setup.labels
    if classes < 0 or not labels or len(labels) == classes:
        return labels
    if has_background and len(labels) == classes - 1:
        return ("", *labels)
    raise BundleError(f"{setup.what}: want {classes} labels, one for each class, got {len(labels)}")
