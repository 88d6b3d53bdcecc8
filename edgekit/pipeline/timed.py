"""What one inference hands from stage to stage, with the milliseconds of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgekit.core.spec import Prediction
from edgekit.pipeline.decoders import Outcome
from edgekit.pipeline.pre import Placement


@dataclass(slots=True)
class Timed:
    """A prediction and the milliseconds of each stage."""

    prediction: Prediction
    pre_ms: float
    infer_ms: float
    post_ms: float


@dataclass(slots=True)
class Prepared:
    """An image as the input tensor of the predictor ``maker``, and the milliseconds that took."""

    maker: object
    tensor: NDArray[Any]
    placement: Placement
    ms: float


@dataclass(slots=True)
class Inferred:
    """A copy of one inference's outputs, ready for ``finish``.

    ``copies`` are as the file holds them: a quarter of the bytes of real numbers where it is quantised, and
    ``finish`` makes those of it beside the next inference. Empty where ``outcome`` has real numbers already.
    """

    outcome: Outcome
    copies: dict[str, NDArray[Any]]
    pre_ms: float
    infer_ms: float
    copy_ms: float
