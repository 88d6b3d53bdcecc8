"""The stages after the first: what they are run on, and what is reported of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, EdgekitError, TensorError
from edgekit.core.ports import Frame
from edgekit.core.sketch import Histogram
from edgekit.core.spec import Item, Parent, Prediction
from edgekit.pipeline.events import Debounce, Event, EventMaker
from edgekit.pipeline.stages.calls import LaneModel
from edgekit.pipeline.stages.crops import Area, crop_areas, cut, moved
from edgekit.pipeline.stages.tables import FRAMES, StageTable

UserFunction = Callable[[Sequence[Item], Sequence[NDArray[Any]]], Sequence[Any]]
"""A stage of the user's: given items and a crop for each (BGR), an ``Item``, some, or None for each."""


Find = Callable[[], list[Sequence[Item]]]
"""Returns what was found in each crop, in its pixels, or raises an ``EdgekitError``; called once."""


class Runs(Protocol):
    """What a stage runs."""

    def look(self, items: Sequence[Item], crops: Sequence[NDArray[Any]]) -> Find:
        """Run on each crop, and return what decodes the outcome."""

    def describe(self) -> dict[str, str]:
        """Return model, version and variant."""

    def labels(self) -> Sequence[str]:
        """Return the labels of what it may find."""

    def close(self) -> None:
        """Leave what is shared with others."""


class RunsModel:
    """A stage that is a model."""

    def __init__(self, call: LaneModel) -> None:
        self.call = call

    def look(self, _: Sequence[Item], crops: Sequence[NDArray[Any]]) -> Find:
        """Run the model on each crop."""
        predictions = self.call.ask(crops)
        return lambda: [prediction.items for prediction in predictions()]

    def labels(self) -> Sequence[str]:
        """Return the model's labels."""
        return self.call.predictor.labels

    def describe(self) -> dict[str, str]:
        """Return the model that runs."""
        predictor = self.call.predictor
        manifest = predictor.manifest
        return {"model": manifest.model, "version": manifest.version, "variant": predictor.variant.id}

    def close(self) -> None:
        """Leave the model's lane."""
        self.call.close()


class RunsFunction:
    """A stage that is a function of the user's own package.

    What it raises ends the run, since it is the user's own code.
    """

    def __init__(self, name: str, function: UserFunction) -> None:
        self._name, self._function = name, function

    def look(self, items: Sequence[Item], crops: Sequence[NDArray[Any]]) -> Find:
        """Call the function with the items and crops, later."""
        return lambda: self._find(items, crops)

    def _find(self, items: Sequence[Item], crops: Sequence[NDArray[Any]]) -> list[Sequence[Item]]:
        found = list(self._function(items, crops))
        if len(found) != len(items):
            raise TensorError(f"stage function {self._name!r}: want {len(items)} results, got {len(found)}")
        return [() if one is None else (one,) if isinstance(one, Item) else tuple(one) for one in found]

    def labels(self) -> Sequence[str]:
        """Return none: nobody can tell."""
        return ()

    def describe(self) -> dict[str, str]:
        """Return the function's name as the model."""
        return {"model": self._name, "version": "", "variant": ""}

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class _Look:
    """Where a stage has looked, or would have, what decodes what came of it, and the milliseconds it took."""

    areas: list[tuple[int, Area | None]]
    skipped: int
    find: Find | None
    """None where the stage does not run on this frame."""
    ms: float = 0.0


class Stage:
    """One stage after the first, with its counters."""

    def __init__(self, table: StageTable, runs: Runs, events: EventMaker) -> None:
        self.table, self.runs, self._events = table, runs, events
        self.inferences = self.skipped = self.errors = 0
        """Crops or frames that it ran on; that a rule left out; frames on which it failed."""
        self._infer = Histogram()
        self._frames = 0
        self._looked: tuple[Frame, _Look] | None = None

    def look(self, frame: Frame) -> None:
        """Run on a frame before ``step``, which then decodes and counts; a stage on items waits for these.

        What was seen of a frame that never comes to ``step`` counts for nothing.
        """
        if self.table.on == FRAMES and (self._looked is None or self._looked[0] is not frame):
            self._looked = frame, self._look(frame, ())

    def step(self, frame: Frame, parents: Sequence[Item]) -> list[Item] | None:
        """Return what it finds in a frame, or in the crops of the items; None where it does not run.

        Raises:
            EdgekitError: The model failed.
        """
        looked, self._looked = self._looked, None
        look = looked[1] if looked and looked[0] is frame else self._look(frame, parents)
        self._frames += 1
        self.skipped += look.skipped
        if look.find is None:
            return None
        began_ns = time.perf_counter_ns()
        found = look.find()
        if look.areas:
            self._infer.add(look.ms + (time.perf_counter_ns() - began_ns) / 1e6)
        self.inferences += len(look.areas)
        return [
            self._named(item, index, area)
            for (index, area), items in zip(look.areas, found, strict=True)
            for item in items
        ]

    def _look(self, frame: Frame, parents: Sequence[Item]) -> _Look:
        areas = self._areas(frame, parents)
        if self._frames % self.table.every:
            return _Look([], len(areas), None)
        skipped = max(0, len(areas) - self.table.at_most)
        areas = areas[: self.table.at_most]
        if not areas:
            return _Look([], skipped, list)
        crops = [frame.data if area is None else cut(frame.data, area) for _, area in areas]
        began_ns = time.perf_counter_ns()
        find = self.runs.look([parents[index] for index, _ in areas if index >= 0], crops)
        return _Look(areas, skipped, find, (time.perf_counter_ns() - began_ns) / 1e6)

    def _areas(self, frame: Frame, parents: Sequence[Item]) -> list[tuple[int, Area | None]]:
        table = self.table
        if table.on == FRAMES:
            return [(-1, None)]
        height, width = frame.data.shape[:2]
        areas = crop_areas(parents, width, height, margin=table.margin, min_side_px=table.min_side_px)
        labels = table.labels
        return [(index, area) for index, area in areas if not labels or parents[index].label in labels]

    def _named(self, item: Item, parent: int, area: Area | None) -> Item:
        """Return an item as one of this stage's; without a place of its own it has that of its crop."""
        item = msgspec.structs.replace(item, stage=self.table.name)
        if area is None:
            return item
        item = moved(
            msgspec.structs.replace(item, parent=Parent(stage=self.table.on, item=parent)), *area[:2]
        )
        return (
            item if item.extent() is not None else msgspec.structs.replace(item, box=tuple(map(float, area)))
        )

    def changes(self, items: list[Item], frame: Frame, total: int) -> list[Event]:
        """Return which of its labels came and went."""
        found = Prediction(task="detect", items=tuple(items))
        events = self._events.step(found, frame.seq, frame.captured_ns, frame.captured_unix_ms)
        return [msgspec.structs.replace(event, stage=self.table.name, total=total) for event in events]

    def document(self) -> dict[str, Any]:
        """Return its row of the summary."""
        return {
            "name": self.table.name,
            **self.runs.describe(),
            "on": self.table.on,
            "inferences": self.inferences,
            "skipped": self.skipped,
            "errors": self.errors,
            "infer_ms": round(self._infer.quantile(0.5), 3) if self.inferences else None,
        }


class Graph:
    """The stages after the first, in their order; in one thread at a time.

    Args:
        first: The name of the first stage.
        stages: The others.
    """

    def __init__(self, first: str, stages: Sequence[Stage]) -> None:
        self._first, self.stages = first, tuple(stages)

    @property
    def looks(self) -> bool:
        """Whether a stage is on frames, and so needs nothing of the first one."""
        return any(stage.table.on == FRAMES for stage in self.stages)

    def look(self, frame: Frame) -> None:
        """Run the stages on frames, once for a frame, before ``step``; the first model may be on it still.

        Decoding is quicker where no inference comes between.
        """
        for stage in self.stages:
            stage.look(frame)

    def step(
        self, frame: Frame, prediction: Prediction
    ) -> tuple[Prediction, list[Event], EdgekitError | None]:
        """Run the stages on a frame.

        Returns:
            The first stage's prediction with the items of all others behind its own; their events; and the
            error of a stage that failed: then nobody knows what else of the frame must be hidden.
        """
        failed: EdgekitError | None = None
        found: dict[str, list[Item]] = {self._first: list(prediction.items)}
        total = len(prediction.items)
        events: list[Event] = []
        for stage in self.stages:
            try:
                items = stage.step(frame, found.get(stage.table.on, []))
            except EdgekitError as error:
                items, failed = None, error
                stage.errors += 1
            found[stage.table.name] = items or []
            if items is not None:
                events += stage.changes(items, frame, total)
        every = tuple(item for some in found.values() for item in some)
        return msgspec.structs.replace(prediction, items=every), events, failed

    def labels(self) -> set[str]:
        """Return the labels that the stages' models know."""
        return {label for stage in self.stages for label in stage.runs.labels()}

    def versions(self) -> dict[str, str]:
        """Return the version of each model that took part in the last frame."""
        rows = [stage.runs.describe() for stage in self.stages]
        return {row["model"]: row["version"] for row in rows if row["version"]}

    def documents(self) -> list[dict[str, Any]]:
        """Return the rows of the summary."""
        return [stage.document() for stage in self.stages]

    def close(self) -> None:
        """Leave the lanes of the models."""
        for stage in self.stages:
            stage.runs.close()


def make_stage(
    table: StageTable, model: Callable[[StageTable], LaneModel], debounce: Debounce, new_id: Callable[[], str]
) -> Stage:
    """Return a stage; ``model`` gives the way to its model.

    Raises:
        ConfigError: There is no such function.
    """
    runs: Runs = RunsFunction(table.function, _function(table)) if table.function else RunsModel(model(table))
    return Stage(table, runs, EventMaker(debounce, new_id))


def _function(table: StageTable) -> UserFunction:
    from edgekit.base.plugins import STAGES, Rows  # entry points take 50 ms

    rows = Rows({}, STAGES)
    if not rows.target(table.function):
        raise ConfigError(f"stage {table.name!r}: function: {rows.missing(table.function)}")
    function: UserFunction = rows.load(table.function)
    return function
