"""A line of text, read by a network trained with CTC.

Output ``scores``: [1, T, C], a score for each of C characters at each of T positions, or [1, C, T] where
``layout`` is "classes before time". The labels are the characters in their order, without the blank.
Options: ``blank`` (its number; -1 is the last), ``activation`` ("softmax" of logits), ``layout``.

Source: A. Graves et al., "Connectionist Temporal Classification" (2006), section 3.2, best path decoding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.classify import softmax


class CtcOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a text recogniser."""

    blank: int = 0
    activation: Literal["none", "softmax"] = "none"
    layout: Literal["time before classes", "classes before time"] = "time before classes"


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item with the ``text``, or none where it is empty or below ``score_threshold``.

    ``score`` is the mean score of its characters.
    """
    options = options_of(setup, CtcOptions)
    shape = shape_of(setup, "scores", (1, -1, -1))
    is_turned = options.layout == "classes before time"
    classes = shape[1] if is_turned else shape[2]
    if not setup.labels or classes not in (-1, len(setup.labels) + 1):
        raise BundleError(
            f"{setup.what}: want {classes - 1} labels, one for each character, got {len(setup.labels)}",
            hint="the blank is no label; a blank character (space) is a line of its own",
        )
    count = len(setup.labels) + 1
    blank = options.blank % count
    characters = (*setup.labels[:blank], "", *setup.labels[blank:])

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores = outcome.tensors["scores"][0]
        scores = scores.T if is_turned else scores
        if options.activation == "softmax":
            scores = softmax(scores)
        best = scores.argmax(axis=1)
        is_new = (best != blank) & (best != np.concatenate([[blank], best[:-1]]))
        text = "".join(characters[index] for index in best[is_new].tolist())
        if not text:
            return ()
        score = float(scores[np.flatnonzero(is_new), best[is_new]].mean())
        return (Item(text=text, score=score),) if score >= setup.post.score_threshold else ()

    return decode
