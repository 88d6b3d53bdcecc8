"""What a pipeline's sinks show of its model's updates and ask for, such as Home Assistant's entity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent.ipc import Asked, Offered
from edgekit.agent.supervisor.pipelines import Pipeline
from edgekit.base.kept import keep, read_kept
from edgekit.core.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.agent.supervisor.parts import Parts

logger = logging.getLogger(__name__)

_LOSS = "an update waits to be approved again"


class Offers:
    """Versions that are offered, and those that were approved; on the supervisor's thread only.

    A managed model whose ``[[pipeline]]`` says ``updates = "ask"`` takes a version only once it is approved.

    Args:
        parts: The supervisor's.
        rollback: Returns a model to its previous version.
    """

    def __init__(self, parts: Parts, path: Path, rollback: Callable[[dict[str, Any]], str]) -> None:
        self._parts, self._path, self._rollback = parts, path, rollback
        self._approved = read_kept(path, dict[str, str], {}, _LOSS)
        self._told: dict[str, Offered] = {}
        """What each pipeline that asked was told last."""

    def permits(self, model: str, version: str) -> bool:
        """Return whether a version may be installed now."""
        asks = any(plan.first.managed == model and plan.asks for plan in self._parts.config.pipelines)
        return not asks or self._approved.get(model) == version

    def asked(self, pipeline: Pipeline, message: Asked) -> None:
        """Act on what a sink of a pipeline asks for."""
        model = pipeline.plan.first.managed
        try:
            if message.action == "rollback":
                self._rollback({"model": model, "reason": f"asked for by a sink of {pipeline.name}"})
            elif message.action == "install":
                self._install(model)
        except EdgekitError as error:
            self._parts.egress.failure(error, pipeline.name)
        self._told.pop(pipeline.name, None)
        self._tell(pipeline)

    def _install(self, model: str) -> None:
        version = self._offered(model)
        if not version:
            return
        logger.info("%s %s is approved", model, version)
        self._approved[model] = version
        keep(self._path, self._approved, _LOSS)
        self._parts.models[model].retry(version)
        self._parts.want(is_new=True)

    def _offered(self, model: str) -> str:
        desired = self._parts.fleet.desired
        return desired.models[model].version if desired and model in desired.models else ""

    def tell(self) -> None:
        """Send the versions to the sinks that asked for them, where they changed."""
        pipelines = self._parts.pool.pipelines
        for name in list(self._told):
            if name in pipelines:
                self._tell(pipelines[name])
            else:
                del self._told[name]

    def _tell(self, pipeline: Pipeline) -> None:
        model = pipeline.plan.first.managed
        updates = self._parts.models.get(model)
        if updates is None or pipeline.model is None:
            return
        message = Offered(
            pipeline=pipeline.name,
            model=model,
            installed=updates.model_state().active,
            latest=self._offered(model),
            is_busy=not updates.is_idle,
        )
        if self._told.get(pipeline.name) != message:
            self._told[pipeline.name] = message
            pipeline.model.send(message)
