"""A decoder, a sink and an accelerator that this package adds to edgekit by entry points."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from edgekit.base.accelerators import Accelerator
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import options_of, shape_of

if TYPE_CHECKING:
    from edgekit.core.ports import Result
    from edgekit.pipeline.decoders import Decoder, Outcome, Setup
    from edgekit.pipeline.sinks import SinkContext

# Found by its device file (one that every Linux has), and not proved: there is nothing to run on it.
NPU = Accelerator(kind="toy-npu", title="Toy NPU", nodes=("/dev/null",), proof="none", runs={"null": ""})


class LoudestOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of the decoder."""

    prefix: str = "loudest"


def build_loudest(setup: Setup) -> Decoder:
    """Return a decoder that gives the index of the highest score as a label."""
    options = options_of(setup, LoudestOptions)
    shape_of(setup, "scores", (1, -1))

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores = outcome.tensors["scores"][0]
        index = int(np.argmax(scores))
        return (Item(label=f"{options.prefix}-{index}", score=float(scores[index]), index=index),)

    return decode


class TallyOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of the tally."""

    path: str


class TallySink:
    """Counts the labels of all frames into one JSON file."""

    Options = TallyOptions

    def __init__(self, options: TallyOptions, context: SinkContext) -> None:
        self._path = context.path(options.path)
        self._tally: dict[str, int] = {}

    def write(self, result: Result) -> None:
        """Count a result, and write what was counted so far."""
        for item in result.prediction.items:
            self._tally[item.label] = self._tally.get(item.label, 0) + 1
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"variant": result.variant, "labels": self._tally}), encoding="utf-8")
        new.replace(self._path)

    def close(self) -> None:
        """Do nothing: every result is written."""
