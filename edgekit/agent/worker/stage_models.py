"""The stages after the first of a pipeline outside an agent: their models, each with a lane of its own.

They are bundles' paths, opened once for a run. A worker of an agent shares hosted models: ``stage_users``.
"""

from __future__ import annotations

import contextlib
import os

from edgekit.agent.worker.opening import model_path, table_choices
from edgekit.base.lane import Lane
from edgekit.core.errors import EdgekitError
from edgekit.model.holder import Holder
from edgekit.model.ready import ReadyModel
from edgekit.pipeline.config import PipelineConfig
from edgekit.pipeline.stages.calls import LaneModel
from edgekit.pipeline.stages.graph import Graph, make_stage
from edgekit.pipeline.stages.tables import StageTable


class StageModels:
    """The open models of a pipeline's later stages.

    Raises:
        ConfigError: There is no such bundle.
        EdgekitError: A model cannot be opened, or takes no frames.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()
        self._opened: dict[str, _StageModel] = {}
        try:
            for table in config.stages[1:]:
                if table.model:
                    model = self._opened[table.name] = _StageModel(config, table)
                    self._stack.callback(model.close)
        except BaseException:
            self.close()
            raise

    @property
    def labels(self) -> set[str]:
        """What the models find, in lower case."""
        return {label.casefold() for model in self._opened.values() for label in model.ready.labels}

    def graph(self) -> Graph:
        """Return the stages for one loop, which leaves their lanes at its end.

        Raises:
            ConfigError: There is no such function.
        """

        def new_id() -> str:
            return os.urandom(8).hex()

        first, *later = self._config.stages
        opened = self._opened
        stages = [
            make_stage(table, lambda table: opened[table.name].call(), self._config.events, new_id)
            for table in later
        ]
        return Graph(first.name, stages)

    def close(self) -> None:
        """Free the models; safe to call twice."""
        self._stack.close()


class _StageModel:
    """One stage's model. What takes over from it does so on its lane's thread."""

    def __init__(self, config: PipelineConfig, table: StageTable) -> None:
        choices = table_choices(config, table, batch=table.batch)
        self._holder = Holder(model_path(config, table.model), choices, fallback=config.fallback)
        self._lane = Lane(f"stage-{table.name}")
        self._call: LaneModel | None = None
        try:
            self.ready.predictor.require_frames()
        except EdgekitError:
            self.close()
            raise
        self._lane.between = self._recheck
        self._holder.watch(self._switch)

    @property
    def ready(self) -> ReadyModel:
        """What is open."""
        return self._holder.ready

    def call(self) -> LaneModel:
        """Return a way to the model, for one loop."""
        self._call = LaneModel(self.ready.predictor, self._lane, self._holder.fail_over)
        return self._call

    def close(self) -> None:
        """End the lane, then free the model."""
        self._lane.close()
        self._holder.close()

    def _switch(self, _: ReadyModel, new: ReadyModel) -> None:
        if (call := self._call) is not None:
            self._lane.call(lambda: call.use(new.predictor))

    def _recheck(self, waiting: int) -> bool:
        if (call := self._call) is None:
            return False
        try:
            return self._holder.recheck(call.predictor, waiting)
        except EdgekitError as wrong:
            with contextlib.suppress(EdgekitError):  # else its next frame says so
                call.use(self._holder.fail_over(call.predictor, wrong))
            return False
