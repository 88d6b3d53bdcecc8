"""The grid of prior boxes that an SSD's outputs are relative to.

Source: MediaPipe, ``SsdAnchorsCalculator`` and its options; the scales are those of W. Liu et al.,
"SSD: Single Shot MultiBox Detector" (2016), section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Setup


class AnchorOptions(Options, frozen=True, kw_only=True):
    """MediaPipe's settings of the anchors, under its names.

    Layers of equal stride share one grid. ``interpolated_scale_aspect_ratio`` above 0 adds one box
    of a scale between a layer's and the next one's. ``offset``: the anchor's centre in its cell, 0 to 1.
    """

    kind: Literal["ssd"] = "ssd"
    layers: Annotated[int, msgspec.Meta(ge=1, le=32)]
    strides: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    min_scale: float
    max_scale: float
    aspect_ratios: tuple[Annotated[float, msgspec.Meta(gt=0)], ...]
    interpolated_scale_aspect_ratio: float = 1.0
    reduce_boxes_in_lowest_layer: bool = False
    fixed_anchor_size: bool = False
    offset: float = 0.5


def priors_of(
    setup: Setup, strides: Sequence[int], min_sizes: Sequence[Sequence[float]], count: int
) -> NDArray[np.float32]:
    """Return RetinaFace's priors, as ``make_anchors`` does; ``count`` as for ``anchors_of``.

    Args:
        setup: The decoder's.
        strides: Of the grids, in pixels.
        min_sizes: For each stride the edges in pixels of the square priors of a cell.
        count: The model's number of priors.

    Raises:
        BundleError: It takes no images, or the options do not make as many.
    """
    if setup.input_size is None:
        raise BundleError(f"{setup.what}: the {setup.post.decoder!r} decoder needs an image model")
    width, height = setup.input_size
    parts = []
    for stride, edges in zip(strides, min_sizes, strict=True):
        columns, rows = math.ceil(width / stride), math.ceil(height / stride)
        grid = np.empty((rows, columns, len(edges), 4))
        # the centre is in pixels, not in shares of the cells: the last cell may reach beyond the edge
        grid[..., 0] = ((np.arange(columns) + 0.5) * stride / width)[None, :, None]
        grid[..., 1] = ((np.arange(rows) + 0.5) * stride / height)[:, None, None]
        grid[..., 2:] = np.array(edges)[:, None] / (width, height)
        parts.append(grid.reshape(-1, 4))
    anchors = np.concatenate(parts).astype(np.float32)
    if count not in (-1, len(anchors)):
        raise BundleError(
            f"{setup.what}: post.options.min_sizes make {len(anchors)} priors at {width}x{height}, "
            f"the model has {count}"
        )
    return anchors


def anchors_of(setup: Setup, options: AnchorOptions, count: int) -> NDArray[np.float32]:
    """Return the anchors of a model whose outputs have ``count`` (-1: any number); see ``make_anchors``.

    Raises:
        BundleError: It takes no images, or the options do not make as many.
    """
    if setup.input_size is None:
        raise BundleError(f"{setup.what}: the {setup.post.decoder!r} decoder needs an image model")
    where = f"{setup.what}: post.options.anchors"
    if len(options.strides) != options.layers:
        raise BundleError(f"{where}.strides: want {options.layers}, one for each layer")
    anchors = make_anchors(options, *setup.input_size)
    if count not in (-1, len(anchors)):
        raise BundleError(f"{where} make {len(anchors)} anchors, the model has {count}")
    return anchors


def _scale(options: AnchorOptions, layer: int) -> float:
    if options.layers == 1:
        return (options.min_scale + options.max_scale) * 0.5
    return options.min_scale + (options.max_scale - options.min_scale) * layer / (options.layers - 1)


def _shapes(options: AnchorOptions, layer: int) -> list[tuple[float, float]]:
    """Return (width, height) of each box of a layer, as shares of the input, in the model's order."""
    scale = _scale(options, layer)
    if layer == 0 and options.reduce_boxes_in_lowest_layer:
        pairs = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]  # Source: the calculator's special case
    else:
        pairs = [(scale, ratio) for ratio in options.aspect_ratios]
        if options.interpolated_scale_aspect_ratio > 0:
            following = 1.0 if layer == options.layers - 1 else _scale(options, layer + 1)
            pairs.append((math.sqrt(scale * following), options.interpolated_scale_aspect_ratio))
    return [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for size, ratio in pairs]


def make_anchors(options: AnchorOptions, width: int, height: int) -> NDArray[np.float32]:
    """Return the anchors of an input of ``width`` x ``height`` pixels.

    Shape (anchors, 4), float32: centre x, centre y, width, height, as shares of the input, in the order
    of the model's outputs: layer by layer, row by row.
    """
    parts = []
    layer = 0
    while layer < options.layers:
        stride, shapes = options.strides[layer], []
        while layer < options.layers and options.strides[layer] == stride:
            shapes += _shapes(options, layer)
            layer += 1
        parts.append(_grid(shapes, math.ceil(width / stride), math.ceil(height / stride), options))
    return np.concatenate(parts).astype(np.float32)


def _grid(
    shapes: list[tuple[float, float]], columns: int, rows: int, options: AnchorOptions
) -> NDArray[np.float64]:
    sizes = np.ones((len(shapes), 2)) if options.fixed_anchor_size else np.array(shapes)
    grid = np.empty((rows, columns, len(shapes), 4))
    grid[..., 0] = ((np.arange(columns) + options.offset) / columns)[None, :, None]
    grid[..., 1] = ((np.arange(rows) + options.offset) / rows)[:, None, None]
    grid[..., 2:] = sizes
    return grid.reshape(-1, 4)
