"""The stages after the first of one pipeline, as users of models that the worker hosts.

Whatever names the same model and opens it alike shares it: other pipelines, other stages, local programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.agent.worker.opening import table_choices
from edgekit.agent.worker.user_counters import UserCounters
from edgekit.core.errors import ConfigError, EdgekitError
from edgekit.pipeline.redact import require_labels
from edgekit.pipeline.stages.calls import LaneModel
from edgekit.pipeline.stages.graph import Graph, make_stage

if TYPE_CHECKING:
    from edgekit.agent.ipc import Running
    from edgekit.agent.worker.bundle_counters import BundleCounters
    from edgekit.agent.worker.hosted import CountedPredictor
    from edgekit.agent.worker.shared_model import SharedModel
    from edgekit.model.ready import Choices
    from edgekit.pipeline.config import PipelineConfig
    from edgekit.pipeline.loop import Loop
    from edgekit.pipeline.predictor import Predictor
    from edgekit.pipeline.stages.tables import StageTable


class Whole(Protocol):
    """The pipeline, as its stages see it."""

    name: str
    config: PipelineConfig

    @property
    def loop(self) -> Loop | None:
        """What runs its frames, while there is one."""

    def stop(self) -> None:
        """End after the current frame."""

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it has ended."""


class StageUsers:
    """The later stages of a pipeline that have a model.

    Args:
        whole: The pipeline.
        first: The model of its first stage.
        models: Those of the later stages that have one, by stage.
        send: Sends a message to the supervisor.
    """

    def __init__(
        self,
        whole: Whole,
        first: SharedModel,
        models: Mapping[str, SharedModel],
        send: Callable[[Any], None],
    ) -> None:
        self._whole, self._first = whole, first
        tables = {table.name: table for table in whole.config.stages[1:]}
        self._users = {
            name: StageUser(whole, tables[name], model, self._labels_beside, send)
            for name, model in models.items()
        }

    @property
    def labels(self) -> set[str]:
        """What the models find, in lower case."""
        return {label for user in self._users.values() for label in _labels(user.model)}

    def _labels_beside(self, stage: StageUser) -> set[str]:
        """Return what the models of the other stages find."""
        others = [self._first, *(user.model for user in self._users.values() if user is not stage)]
        return {label for model in others for label in _labels(model)}

    def join(self) -> bool:
        """Use the models from now on; return False if one has a user already, and its file keeps state.

        Raises:
            ConfigError: What a stage needs, its model has not, or two stages want a model that keeps state.
            TensorError: A model takes no frames.
        """
        for name, user in self._users.items():
            if user.model.join(user):
                continue
            own = [self._first, *(other.model for other in self._users.values() if other is not user)]
            if user.model in own:
                raise ConfigError(
                    f"stage {name!r}: the file of its model keeps state from frame to frame, and another"
                    " stage of the pipeline has the same model",
                    hint="give each stage a model of its own",
                )
            return False
        return True

    def graph(self) -> Graph:
        """Return the stages for one loop, which leaves their lanes at its end.

        Raises:
            ConfigError: There is no such function.
        """

        def new_id() -> str:
            return os.urandom(8).hex()

        config = self._whole.config
        first, *later = config.stages
        stages = [
            make_stage(table, lambda table: self._users[table.name].call(), config.events, new_id)
            for table in later
        ]
        return Graph(first.name, stages)

    def blamed(self, error: EdgekitError) -> str:
        """Return the key of the model that raised an error; empty if none of these did."""
        return next((user.model.key for user in self._users.values() if user.raised(error)), "")

    def report(self) -> None:
        """Send the counts of each stage."""
        for user in self._users.values():
            user.report()

    def leave(self) -> None:
        """Leave the models to their other users."""
        for user in self._users.values():
            user.model.leave(user)


class StageUser:
    """One later stage as a user of its model; satisfies ``hosted.User``."""

    def __init__(
        self,
        whole: Whole,
        table: StageTable,
        model: SharedModel,
        labels_beside: Callable[[StageUser], set[str]],
        send: Callable[[Any], None],
    ) -> None:
        self.name, self.model = f"{whole.name}/{table.name}", model
        self._whole, self._table = whole, table
        self._labels_beside, self._send = labels_beside, send
        self._counters = UserCounters(whole.name, table.name)
        self._call: LaneModel | None = None

    @property
    def choices(self) -> Choices:
        """Its thresholds and gallery, in place of the bundle's."""
        return table_choices(self._whole.config, self._table)

    @property
    def loop(self) -> Loop | None:
        """What runs the frames that go through the model."""
        return self._whole.loop

    def check(self, predictor: Predictor) -> None:
        """Check that the stage can run on a predictor.

        Raises:
            TensorError: It takes no frames.
            ConfigError: With it no model of the pipeline has a label that is to be hidden.
        """
        predictor.require_frames()
        require_labels(self._whole.config.privacy.redact, predictor, self._labels_beside(self))

    def call(self) -> LaneModel:
        """Return a way to the model, for one loop."""
        view = self.model.view(self)
        self._counters.current = view.counters
        self._call = LaneModel(view, self.model.lane, self._fail_over)
        return self._call

    def _fail_over(self, lost: Predictor, error: EdgekitError) -> Predictor:
        return self.model.fail_over(self, lost, error)

    def raised(self, error: EdgekitError) -> bool:
        """Return whether the model's last error is this one."""
        return self._call is not None and self._call.error is error

    def counters(self, running: Running) -> BundleCounters:
        """Return the counters of its runs on a variant."""
        return self._counters.of(running)

    def put(self, predictor: CountedPredictor) -> None:
        """Run another predictor from the next frame on; on the lane's thread."""
        self._counters.current = predictor.counters
        if (call := self._call) is not None:
            call.use(predictor)

    def report(self) -> None:
        """Send the counts since the last report, of each version by itself."""
        self._counters.report(self._send)

    def stop(self) -> None:
        """End the pipeline after the current frame."""
        self._whole.stop()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the pipeline has ended."""
        self._whole.wait(timeout_s)


def _labels(model: SharedModel) -> set[str]:
    return {label.casefold() for label in model.ready.labels}
