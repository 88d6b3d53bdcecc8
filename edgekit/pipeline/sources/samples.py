"""Samples of a sensor as what a model takes: windows, or rows of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgekit.core.errors import ConfigError
from edgekit.pipeline.framing import Sample, Windower
from edgekit.pipeline.sources import SourceContext


class Samples:
    """Turns samples and gaps into numbered frames' data.

    ``values`` is how many a sample has.

    Args:
        context: The model's window, hop and channels, or its columns.
        kind: The source's, for the error.

    Raises:
        ConfigError: The model takes neither windows nor rows.
    """

    def __init__(self, context: SourceContext, kind: str) -> None:
        self._columns = context.columns
        if not (context.window and context.channels) and not self._columns:
            raise ConfigError(
                f"source {kind!r}: the model takes no windows of samples and no rows of a table",
                hint="use a sensor's or a table's model",
            )
        self.values = len(self._columns) or context.channels
        self._windower = Windower(context.window or 1, context.hop or 1)

    @property
    def missing(self) -> int:
        """Samples known to be lost."""
        return self._windower.missing

    def restart(self) -> None:
        """Begin a new window, where another recording begins."""
        self._windower.restart()

    def push(self, entries: Iterable[Sample | int]) -> list[tuple[int, Any]]:
        """Return (number, data) for each frame that samples, and gaps of so many samples, complete.

        The data is a window (samples, channels), float32, or a dict of column to value.
        """
        import numpy as np

        windows = self._windower.push(entries)
        if self._columns:
            return [(seq, dict(zip(self._columns, rows[0], strict=True))) for seq, rows in windows]
        return [(seq, np.array(rows, np.float32)) for seq, rows in windows]
