"""One label for a whole frame: image classifiers and sensor classifiers.

Output ``scores``, shape [1, N]. Options: ``activation`` ("softmax" where the output is logits),
``background`` (class 0 means "none of them" and is never reported).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, check_labels, label_of, options_of, shape_of
from edgekit.pipeline.decoders.nms import best_first


class ClassifyOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a classifier."""

    activation: Literal["softmax", "none"] = "none"
    background: bool = False


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities along the last axis.

    >>> softmax(np.float32([0, 0])).tolist()
    [0.5, 0.5]
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def build(setup: Setup) -> Decoder:
    """Return a decoder: up to ``top_k`` items, those of at least ``score_threshold``, best first."""
    options = options_of(setup, ClassifyOptions)
    classes = shape_of(setup, "scores", (1, -1))[1]
    labels = check_labels(setup, classes, has_background=options.background)
    first, post = int(options.background), setup.post

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores = outcome.tensors["scores"][0]
        if options.activation == "softmax":
            scores = softmax(scores)
        return tuple(
            Item(label=label_of(labels, i + first), score=float(scores[i + first]), index=int(i + first))
            for i in best_first(scores[first:], post.top_k)
            if scores[i + first] >= post.score_threshold
        )

    return decode
