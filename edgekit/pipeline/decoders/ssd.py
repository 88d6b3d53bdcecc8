"""Boxes from a single-shot detector's raw outputs.

Outputs ``boxes`` [1, A, 4], offsets to A anchors, ``scores`` [1, A, C], and maybe ``landmarks`` [1, A, 2K].
Options: ``anchors`` (MediaPipe's settings), or RetinaFace's ``strides`` and ``min_sizes`` (the edges of a
cell's square priors in pixels); ``box_scale`` (the factors of the offsets in training, in ``box_order``), or
``variances`` (1 / factor, of centre and size); ``box_order`` ("yxhw" or "xywh"), ``activation``,
``background`` (class 0 is never reported), ``landmarks`` (K, if there are any).

Families: TensorFlow's SSD, RetinaFace; UltraFace's raw boxes (no real file seen).

Source: W. Liu et al., "SSD" (2016), section 2.2; J. Deng et al., "RetinaFace" (2020), for the landmarks.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.anchors import AnchorOptions, anchors_of, priors_of
from edgekit.pipeline.decoders.classify import softmax
from edgekit.pipeline.decoders.items import DetectOptions, Extras, Finish, bounded, clipped, logit, sigmoid

Variance = Annotated[float, msgspec.Meta(gt=0)]


class SsdOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of a detector; see the module."""

    anchors: AnchorOptions | None = None
    strides: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] = ()
    min_sizes: tuple[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], ...] = ()
    variances: tuple[Variance, Variance] | None = None
    landmarks: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    box_scale: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_order: Literal["yxhw", "xywh"] = "yxhw"
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    background: bool = True

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        if (self.anchors is None) != bool(self.min_sizes):
            return ["anchors: want these, or strides and min_sizes"]
        if len(self.min_sizes) != len(self.strides):
            return [f"min_sizes: want {len(self.strides)} lists, one for each stride"]
        return []

    def factors(self) -> tuple[float, ...]:
        """Return the divisors of a box's four offsets."""
        if self.variances is None:
            return self.box_scale
        centre, size = self.variances
        return (1 / centre, 1 / centre, 1 / size, 1 / size)


def decode_boxes(
    raw: NDArray[np.float32], anchors: NDArray[np.float32], box_scale: tuple[float, ...], box_order: str
) -> NDArray[np.float32]:
    """Return boxes from offsets to anchors.

    Args:
        raw: Shape (n, 4), the model's output; sizes are logarithms of factors of the anchor's.
        anchors: Shape (n, 4): centre x, centre y, width, height.
        box_scale: Divisors of the four columns of ``raw``.
        box_order: The order of the columns.

    Returns:
        Shape (n, 4), float32: left, top, right, bottom, in the anchors' unit.
    """
    offsets: NDArray[np.float32] = np.divide(raw, np.array(box_scale, np.float32))
    shift, size = offsets[:, :2], offsets[:, 2:]
    if box_order == "yxhw":
        shift, size = shift[:, ::-1], size[:, ::-1]
    centre = shift * anchors[:, 2:] + anchors[:, :2]
    # e**20 is far beyond any image: the bound keeps hostile offsets from overflowing
    half = np.exp(clipped(size, -20, 20)) * anchors[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32, copy=False)


def build(setup: Setup) -> Decoder:
    """Return a decoder: each anchor's best class, thresholded, then suppression."""
    options = options_of(setup, SsdOptions)
    count = shape_of(setup, "boxes", (1, -1, 4))[1]
    classes = shape_of(setup, "scores", (1, count, -1))[2]
    if options.landmarks:
        shape_of(setup, "landmarks", (1, count, 2 * options.landmarks))
    if options.anchors is not None:
        anchors = anchors_of(setup, options.anchors, count)
    else:
        anchors = priors_of(setup, options.strides, options.min_sizes, count)
    factors = options.factors()
    finish = Finish(setup, options, classes, "first" if options.background else "")
    edges = np.tile(finish.size, 2)
    is_sigmoid = options.activation == "sigmoid"
    bound = logit(finish.bound) if is_sigmoid else finish.bound

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores = outcome.tensors["scores"][0]
        if options.activation == "softmax":
            scores = softmax(scores)
        # a sigmoid keeps the order, so it is computed only for the candidates
        rows, which, best = finish.best(scores, bound)
        if not len(rows):
            return ()
        sure = sigmoid(best) if is_sigmoid else best
        raw = bounded(outcome.tensors["boxes"][0, rows])
        boxes = decode_boxes(raw, anchors[rows], factors, options.box_order) * edges
        kept = finish.keep(boxes, sure, which)
        extras = None
        if options.landmarks:
            offsets = bounded(outcome.tensors["landmarks"][0, rows[kept]]).reshape(len(kept), -1, 2)
            anchor = anchors[rows[kept], None]
            steps = anchor[:, :, 2:] / np.array(factors[:2], np.float32)
            extras = Extras(np.asarray((offsets * steps + anchor[:, :, :2]) * finish.size))
        return finish.items(boxes[kept], sure[kept], which[kept], outcome.placement, extras)

    return decode
