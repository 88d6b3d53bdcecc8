"""``[fallback]`` of a pipeline. It is a file of its own, without NumPy, since the supervisor reads it too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from edgekit.core.spec import RETRY_S
from edgekit.pipeline.check import Options


class FallbackTable(Options, frozen=True, kw_only=True):
    """``[fallback]``: which pairs of accelerator and variant take over from one another, and when.

    ``pairs``: accelerators or variant ids, the best first, and no other runs; empty: all, as selection ranks
    them. ``standby``: whether the next pair stays loaded. ``recheck_s``: seconds between checks of the
    running pair's golden samples; 0: never. ``retry_s``: the shortest and the longest wait before a lost pair
    is tried again.
    """

    pairs: tuple[str, ...] = ()
    standby: Literal["none", "warm"] = "none"
    recheck_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    retry_s: tuple[float, float] = RETRY_S

    def problems(self) -> Iterable[str]:
        """Report a pair that is named twice, and waits that are not in order."""
        if len(set(self.pairs)) < len(self.pairs):
            yield f"pairs: want each name once, got {', '.join(self.pairs)}"
        if not 0 < self.retry_s[0] <= self.retry_s[1]:
            yield f"retry_s: want 0 < from <= to, got {list(self.retry_s)}"
