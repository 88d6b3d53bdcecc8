"""The keys of ``[[stage]]``, and what a graph of them must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from edgekit.core.spec import MAX_BATCH, NAME
from edgekit.pipeline.check import Count
from edgekit.pipeline.model_table import ModelTable

FRAMES = "frames"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=8)]


class StageTable(ModelTable, frozen=True, kw_only=True):
    """``[[stage]]``: a model (a path or a name) or a ``function`` of the user's, and what it is run on.

    The keys of ``[model]`` stand here too. ``on``: ``frames``, or the name of a stage before it, on crops of
    whose items it runs: those with one of ``labels`` (empty: all), at most ``at_most`` of them, the surest
    first, of at least ``min_side_px``, each wider by ``margin`` of its width and height on each side.
    ``batch``: how many crops or tiles one run takes, where the model's file can; 0: as the file is.
    ``every``: it runs on each so-many-th frame. ``function``: the name of an entry point of the group
    ``edgekit.stages``.

    Of the first stage: ``tiles``, columns and rows of the picture that are looked at one by one, which share
    ``overlap`` of their width and height; ``motion``, the share of the picture that must have changed since
    it ran last; 0: always.
    """

    name: str = ""
    model: str = ""
    function: str = ""
    on: str = FRAMES
    labels: tuple[str, ...] = ()
    at_most: Annotated[int, msgspec.Meta(ge=1, le=300)] = 16
    min_side_px: Count = 1
    margin: Share = 0.0
    batch: Annotated[int, msgspec.Meta(ge=0, le=MAX_BATCH)] = 0
    every: Count = 1
    tiles: tuple[Side, Side] = (1, 1)
    overlap: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.2
    motion: Share = 0.0

    @property
    def is_tiled(self) -> bool:
        """Whether it looks at tiles of a frame."""
        return self.tiles != (1, 1)

    def problems(self) -> Iterable[str]:
        """Report what does not go together."""
        if not NAME.fullmatch(self.name) or self.name == FRAMES:
            yield f"name: want lower-case letters, digits, '.', '_', '-', not {FRAMES!r}, got {self.name!r}"
        if bool(self.model) == bool(self.function):
            yield "model: want either a model or a function"
        if self.on == FRAMES and self.function:
            yield "on: want the name of a stage, since a function takes items and their crops, got 'frames'"
        if self.on != FRAMES and (self.is_tiled or self.motion):
            yield f"on: want {FRAMES!r}, since tiles and motion are of frames, got {self.on!r}"


def graph_problems(stages: Sequence[StageTable]) -> Iterable[str]:
    """Yield what is wrong with stages that are valid each by itself."""
    before: list[str] = []
    for index, stage in enumerate(stages):
        if stage.name in before:
            yield f"stage[{index}].name: the name {stage.name!r} stands twice"
        if not before and stage.on != FRAMES:
            yield f"stage[0].on: want {FRAMES!r} of the first stage, got {stage.on!r}"
        elif stage.on not in (FRAMES, *before):
            yield f"stage[{index}].on: want {FRAMES!r} or a stage before it, got {stage.on!r}"
        if index and (stage.motion or stage.is_tiled):
            yield f"stage[{index}]: want tiles and motion at the first stage only"
        before.append(stage.name)
