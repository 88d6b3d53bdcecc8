"""Labels for a whole frame: classifiers of images, windows of samples and rows of a table.

Output ``scores``, shape [1, N]; or the outputs that ``heads`` names, one classifier each. Options:
``activation`` of logits ("softmax": one class holds; "sigmoid": each class by itself), ``temperature``
(divides logits first, which calibrates them), ``background`` (class 0 means "none of them" and is never
reported), ``smoothing`` (mean probability over this many frames), ``heads``.

Source: temperature: C. Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, check_labels, label_of, options_of, shape_of
from edgekit.pipeline.decoders.items import sigmoid
from edgekit.pipeline.decoders.nms import best_first

Activation = Literal["softmax", "sigmoid", "none"]


class Head(Options, frozen=True, kw_only=True):
    """One of several classifiers of a model: its output, labels, and activation if it has its own."""

    output: str
    labels: tuple[str, ...] = ()
    activation: Activation | None = None


class ClassifyOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a classifier."""

    activation: Activation = "none"
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    background: bool = False
    smoothing: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    heads: tuple[Head, ...] = ()

    def problems(self) -> Iterable[str]:
        """Report a temperature that would change nothing."""
        kinds = {head.activation or self.activation for head in self.heads} or {self.activation}
        if self.temperature != 1 and "none" in kinds:
            yield "temperature: want an activation of 'softmax' or 'sigmoid', as it divides logits"


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities along the last axis.

    >>> softmax(np.float32([0, 0])).tolist()
    [0.5, 0.5]
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def build(setup: Setup) -> Decoder:
    """Return a decoder: of each head up to ``top_k`` items of at least ``score_threshold``, best first.

    With ``heads`` a label is ``output: label``.
    """
    options = options_of(setup, ClassifyOptions)
    if not options.heads:
        return _decoder(setup, options, Head(output="scores"), "", setup.labels)
    decoders = [_decoder(setup, options, head, f"{head.output}: ", head.labels) for head in options.heads]

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        return tuple(item for decoder in decoders for item in decoder(outcome))

    return decode


def _decoder(
    setup: Setup, options: ClassifyOptions, head: Head, prefix: str, given: tuple[str, ...]
) -> Decoder:
    classes = shape_of(setup, head.output, (1, -1))[1]
    labels = check_labels(replace(setup, labels=given), classes, has_background=options.background)
    first, post, kind = int(options.background), setup.post, head.activation or options.activation
    recent: deque[NDArray[np.float32]] = deque(maxlen=options.smoothing)
    setup.on_reset.append(recent.clear)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores = probabilities(outcome.tensors[head.output][0], kind, options.temperature)
        if options.smoothing > 1:
            recent.append(scores)
            scores = np.mean(recent, axis=0, dtype=np.float32)
        order = best_first(scores[first:], post.top_k) + first
        order = order[scores[order] >= post.score_threshold]
        return tuple(
            Item(label=prefix + label_of(labels, index), score=score, index=index)
            for index, score in zip(order.tolist(), scores[order].tolist(), strict=True)
        )

    return decode


def probabilities(
    scores: NDArray[np.float32], activation: str, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Return a classifier's scores after its activation; ``none`` leaves them as they are."""
    if activation == "none":
        return scores
    scores = scores if temperature == 1 else scores / np.float32(temperature)
    return softmax(scores) if activation == "softmax" else sigmoid(scores)
