"""What is there now, by events: what a model misses in one frame does not come and go."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edgekit.core.spec import Prediction

STARTS, ENDS = frozenset({"appeared", "started"}), frozenset({"vanished", "ended"})


class Present:
    """Follows the events of one pipeline."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        """The label of each event that has begun and not ended, by its id."""

    def note(self, event: Any) -> None:
        """Take an event of ``edgekit.pipeline.events``."""
        if event.kind in STARTS:
            self._labels[event.id] = event.label
        elif event.kind in ENDS:
            self._labels.pop(event.id, None)
        elif event.kind == "changed":
            self._labels = {event.id: event.label} if event.label else {}

    def counts(self, prediction: Prediction) -> dict[str, int]:
        """Return how many of each label are there: as many as events say, or more if the frame has more."""
        now = prediction.counts()
        present = Counter(self._labels.values())
        return {label: max(number, now.get(label, 0)) for label, number in present.items()}
