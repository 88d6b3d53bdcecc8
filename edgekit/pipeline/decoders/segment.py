"""What each part of a picture shows, from a map of classes.

Output ``classes`` [1, H, W], the number of each cell's class; or ``scores`` [1, H, W, C], of which the
highest wins. Options: ``background`` (class 0 is not reported), ``ignore`` (a number that stands for no
class), ``min_share`` (of the picture; smaller ones are left out), ``upsample`` (scores are first scaled up
so many times, as SegFormer's are made for).

Source: upsampling: transformers, ``SegformerImageProcessor.post_process_semantic_segmentation``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, check_labels, label_of, options_of, shape_of
from edgekit.pipeline.decoders.visible import Visible, flat_map, input_size_of, map_shape, mask_of, visible
from edgekit.pipeline.pre import vision


class SegmentOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a map of classes."""

    background: bool = False
    ignore: int = 255
    min_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.001
    upsample: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item for each class in the picture, the largest first.

    ``value`` is its share of the picture, 0 to 1; ``mask`` and ``box`` are where it is. There is no score.
    """
    options, size = options_of(setup, SegmentOptions), input_size_of(setup)
    if ("classes" in setup.shapes) == ("scores" in setup.shapes):
        raise BundleError(
            f"{setup.what}: the 'segment' decoder needs an output 'classes' or 'scores', one of them, "
            f"got {', '.join(map(repr, setup.shapes)) or 'none'}"
        )
    labels = setup.labels
    if "scores" in setup.shapes:
        classes = shape_of(setup, "scores", (1, -1, -1, -1))[3]
        labels = check_labels(setup, classes, has_background=options.background)
    else:
        map_shape(setup, "classes")

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        if "classes" in outcome.tensors:
            numbers = flat_map(outcome.tensors["classes"])
            seen = visible(outcome.placement, size, numbers.shape)
            cells = numbers[seen.rows, seen.columns].astype(np.intp)
        else:
            scores = outcome.tensors["scores"][0]
            seen = visible(outcome.placement, size, scores.shape)
            cells = winners(scores[seen.rows, seen.columns], options.upsample)
        return _items(cells, seen, labels, options)

    return decode


def winners(scores: NDArray[np.float32], upsample: int = 1) -> NDArray[np.intp]:
    """Return the number of the highest score of each cell.

    Args:
        scores: Shape (H, W, C).
        upsample: Scale (bilinear) to so many times the rows and columns first.

    Returns:
        Shape (H * upsample, W * upsample).
    """
    if upsample == 1:
        return np.asarray(scores.argmax(axis=2), np.intp)
    cv2 = vision()
    target = scores.shape[1] * upsample, scores.shape[0] * upsample
    best = np.full((target[1], target[0]), -np.inf, np.float32)
    number = np.zeros(best.shape, np.intp)
    for index in range(scores.shape[2]):  # one class at a time: all at once takes C times the memory
        plane = cv2.resize(np.ascontiguousarray(scores[:, :, index]), target, interpolation=cv2.INTER_LINEAR)
        is_better = plane > best
        best[is_better], number[is_better] = plane[is_better], index
    return number


def _items(
    cells: NDArray[np.intp], seen: Visible, labels: tuple[str, ...], options: SegmentOptions
) -> tuple[Item, ...]:
    numbers, counts = np.unique(cells, return_counts=True)
    items = []
    for index, count in sorted(
        zip(numbers.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]
    ):
        is_left_out = index == options.ignore or (index == 0 and options.background)
        if is_left_out or count < options.min_share * cells.size:
            continue
        mask = mask_of(cells == index, seen.area)
        label = label_of(labels, index)
        items.append(Item(label=label, index=index, value=count / cells.size, mask=mask, box=mask.extent()))
    return tuple(items)
