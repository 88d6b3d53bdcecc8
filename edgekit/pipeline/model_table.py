"""``[model]``: how a pipeline's model is opened; also of each ``[[stage]]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgekit.pipeline.check import Count, Options


class ModelTable(Options, frozen=True, kw_only=True):
    """``[model]``: how the model is opened; the defaults are the bundle's."""

    variant: str = ""
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    score_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    iou_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Count | None = None
    gallery: str = ""
