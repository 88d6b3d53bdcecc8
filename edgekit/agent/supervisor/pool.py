"""All workers of an agent: puts each pipeline where it belongs, and changes only what differs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.agent.config import AgentConfig, PipelinePlan
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.grouping import WorkerPlan, group
from edgekit.agent.supervisor.hosted_model import HostedModel
from edgekit.agent.supervisor.pipelines import Observer, Pipeline
from edgekit.agent.supervisor.worker import Worker

if TYPE_CHECKING:
    from edgekit.agent.supervisor.address import Admit


class WorkerPool:
    """The workers by name and the pipelines by theirs. Every method belongs on the reactor's thread.

    The pipelines are known from the start; ``apply`` gives each its worker and its model, once the hardware
    is known.

    Args:
        config: The pipelines, the limits, the state folder.
        reactor: Runs what waits.
        environment: Of the processes.
        observer: Hears what happens.
        place: Called with each new model: gives it a bundle to run.
        admit: Called with each worker's end of the local API, if there is one.
    """

    def __init__(
        self,
        config: AgentConfig,
        reactor: Reactor,
        environment: Mapping[str, str],
        observer: Observer,
        place: Callable[[HostedModel], object],
        admit: Admit | None = None,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self._leaving: list[Worker] = []
        self._config, self._reactor, self._environment = config, reactor, environment
        self._observer, self._place, self._admit = observer, place, admit
        self.pipelines = {plan.name: self._pipeline(plan) for plan in config.pipelines}
        self._plans: dict[str, PipelinePlan] = {}
        self._exclusive: Mapping[str, Collection[str]] = {}
        self._unshared: set[str] = set()

    @property
    def models(self) -> list[HostedModel]:
        """Every model of every worker."""
        return [model for worker in self.workers.values() for model in worker.models.values()]

    def hosted(self, managed: str) -> list[HostedModel]:
        """Return a managed model wherever it is hosted: once for each worker, and each way of opening it."""
        return [model for model in self.models if model.plan.managed == managed]

    def apply(
        self, plans: Iterable[PipelinePlan], exclusive: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Run these pipelines: end, start and move what differs from what runs, and nothing else.

        Args:
            plans: All pipelines.
            exclusive: As for ``group``; by default as before.
        """
        self._plans = {plan.name: plan for plan in plans}
        if exclusive is not None:
            self._exclusive = exclusive
        workers = group(self._plans.values(), self._exclusive, self._unshared, self._homes())
        places = {
            name: (worker, keys) for worker in workers.values() for name, keys in worker.pipelines.items()
        }
        for name, pipeline in list(self.pipelines.items()):
            place, plan = places.get(name), self._plans.get(name)
            if place is None or plan is None:
                pipeline.leave(functools.partial(self._remove, pipeline))
            elif not pipeline.models:
                self._put(pipeline, *place)
            elif plan != pipeline.plan or not self._is_at(pipeline, *place):
                pipeline.leave(functools.partial(self._replace, pipeline, plan, *place))
            else:
                pipeline.stay()
        for name in places.keys() - self.pipelines.keys():
            self.pipelines[name] = self._pipeline(self._plans[name])
            self._put(self.pipelines[name], *places[name])

    def unshare(self, pipeline: Pipeline) -> None:
        """Give a pipeline models of its own, since another one's cannot be shared."""
        self._unshared.add(pipeline.name)
        self.apply(list(self._plans.values()))

    def tick(self) -> None:
        """Look for processes that hang. Call it each second."""
        self._leaving = [worker for worker in self._leaving if not worker.is_stopped]
        for worker in (*self.workers.values(), *self._leaving):
            worker.tick()

    def stop(self) -> None:
        """Ask every worker to end; ``is_stopped`` becomes true when all have."""
        for worker in self.workers.values():
            worker.stop()

    @property
    def is_stopped(self) -> bool:
        """Whether no process is left."""
        return all(worker.is_stopped for worker in (*self.workers.values(), *self._leaving))

    def models_of(self, pipeline: Pipeline) -> dict[str, HostedModel]:
        """Return the models that a pipeline runs on, by stage, "" for the first; empty until it has them."""
        hosted = {id(model): model for model in self.models}
        return {stage: hosted[id(model)] for stage, model in pipeline.models.items() if id(model) in hosted}

    def _pipeline(self, plan: PipelinePlan) -> Pipeline:
        return Pipeline(plan, self._reactor, self._config.limits, self._observer)

    def _homes(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Return the worker in which each pipeline is, perhaps about to leave, with its models' keys."""
        homes = {}
        for name, pipeline in self.pipelines.items():
            if models := self.models_of(pipeline):
                keys = {stage: model.key for stage, model in models.items()}
                homes[name] = next(iter(models.values())).worker.name, keys
        return homes

    def _is_at(self, pipeline: Pipeline, worker: WorkerPlan, keys: Mapping[str, str]) -> bool:
        models = self.models_of(pipeline)
        is_there = all(model.worker.name == worker.name for model in models.values())
        return is_there and {stage: model.key for stage, model in models.items()} == keys

    def _put(self, pipeline: Pipeline, plan: WorkerPlan, keys: Mapping[str, str]) -> None:
        worker = self.workers.get(plan.name)
        if worker is None:
            worker = self.workers[plan.name] = Worker(
                *(plan.name, self._reactor, self._config.limits, self._environment),
                observer=self._observer,
                progress_s=self._config.intervals.progress_s,
                admit=self._admit,
            )
        worker.pipelines[pipeline.name] = pipeline
        worker.exclusive |= frozenset(self._exclusive.get(pipeline.name, ()))
        known = set(worker.models)
        models = {
            stage: worker.model(plan.models[key], self._excluded(pipeline, stage))
            for stage, key in keys.items()
        }
        pipeline.models = dict(models)
        for key, model in {model.key: model for model in models.values()}.items():
            model.add(pipeline)
            if key not in known:
                self._place(model)

    def _excluded(self, pipeline: Pipeline, stage: str) -> Path:
        """Return the file with the excluded variants of a model that a pipeline is the first to use."""
        return self._config.state / "excluded" / f"{'+'.join(filter(None, (pipeline.name, stage)))}.json"

    def _replace(
        self, old: Pipeline, plan: PipelinePlan, worker: WorkerPlan, keys: Mapping[str, str]
    ) -> None:
        before = self._take_out(old)
        new = self.pipelines[plan.name] = self._pipeline(plan)
        self._put(new, worker, keys)
        self._tidy(before)

    def _remove(self, pipeline: Pipeline) -> None:
        before = self._take_out(pipeline)
        self.pipelines.pop(pipeline.name, None)
        self._unshared.discard(pipeline.name)
        self._tidy(before)
        self._observer.changed()

    def _take_out(self, pipeline: Pipeline) -> list[HostedModel]:
        """Take a pipeline off its models, and return those."""
        models = {model.key: model for model in self.models_of(pipeline).values()}
        for model in models.values():
            self.workers[model.worker.name].pipelines.pop(pipeline.name, None)
            model.remove(pipeline)
        pipeline.models = {}
        return list(models.values())

    def _tidy(self, models: Iterable[HostedModel]) -> None:
        """Free the models that have no pipeline left, and their process if that has none."""
        for model in models:
            if not model.users:
                self._free(model)

    def _free(self, model: HostedModel) -> None:
        model.drop()
        worker = self.workers[model.worker.name]
        worker.models.pop(model.key, None)
        if not worker.models:
            worker.stop()
            self._leaving.append(self.workers.pop(worker.name))
