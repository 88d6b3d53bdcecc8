"""Which pipelines share a worker process and a loaded model. Pure: the caller knows the hardware."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.config import AUTO, PipelinePlan
from edgekit.agent.model_use import ModelUse
from edgekit.pipeline.fallback import FallbackTable

_AUTOMATIC = "auto:"


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a worker opens once. ``key`` is unique in its worker; equal plans have equal keys.

    Exactly one of ``pinned`` and ``managed`` is set.
    """

    key: str
    managed: str = ""
    pinned: Path | None = None
    variant: str = ""
    threads: int = 0
    batch: int = 0
    fallback: FallbackTable = FallbackTable()

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return self.managed or str(self.pinned)


class WorkerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process by its name: its models by key, and each pipeline's keys by stage, first ""."""

    name: str
    models: dict[str, ModelPlan]
    pipelines: dict[str, dict[str, str]]


class _Member(msgspec.Struct, frozen=True):
    """A pipeline with its models by stage."""

    name: str
    models: dict[str, ModelPlan]


def group(
    plans: Iterable[PipelinePlan],
    exclusive: Mapping[str, Collection[str]] | None = None,
    unshared: Collection[str] = (),
    homes: Mapping[str, tuple[str, Mapping[str, str]]] | None = None,
) -> dict[str, WorkerPlan]:
    """Return the workers by name.

    Pipelines with ``worker = "auto"`` share a process where a model of both is the same and they open it
    alike, or where their models want the same exclusive accelerator; those that name a worker share it with
    whoever names it too. In one process, whatever names the same model and opens it alike shares the loaded
    model: pipelines, and stages of one.

    Args:
        plans: The pipelines; each name once.
        exclusive: The accelerators, by pipeline, that its models may use and that one process can have.
        unshared: Pipelines whose models are loaded for them alone, as a file keeps state.
        homes: By pipeline, the worker in which it is and its keys by stage there: it stays, if it can.
    """
    wanted = exclusive or {}
    named: dict[str, list[_Member]] = defaultdict(list)
    automatic: list[_Member] = []
    for plan in plans:
        models = model_plans(plan, is_shared=plan.name not in unshared)
        (automatic if plan.worker == AUTO else named[plan.worker]).append(_Member(plan.name, models))
    workers = {name: _worker(name, members) for name, members in named.items()}
    parts = list(_tied(automatic, wanted))
    for name, (_, members) in zip(_names(parts, homes or {}), parts, strict=True):
        workers[name] = _worker(name, members)
    return workers


def _names(
    parts: Sequence[tuple[set[str], list[_Member]]], homes: Mapping[str, tuple[str, Mapping[str, str]]]
) -> list[str]:
    """Return the name of each part's worker: that in which one of its pipelines is, else a new one."""
    names: dict[int, str] = {}
    for index, (_, members) in enumerate(parts):
        for member in members:
            home, keys = homes.get(member.name, ("", {}))
            is_as_before = keys == {stage: model.key for stage, model in member.models.items()}
            if is_as_before and home.startswith(_AUTOMATIC) and home not in names.values():
                names[index] = home
                break
    for index, (ties, _) in enumerate(parts):
        if index not in names:
            own = f"{_AUTOMATIC}{min(ties)}"
            candidates = itertools.chain([own], (f"{own} {number}" for number in itertools.count(2)))
            names[index] = next(name for name in candidates if name not in names.values())
    return [names[index] for index in range(len(parts))]


def model_plans(plan: PipelinePlan, *, is_shared: bool = True) -> dict[str, ModelPlan]:
    """Return how a pipeline's models are opened, by stage."""
    alone = () if is_shared else (f"for {plan.name}",)
    return {use.stage: _model_plan(use, plan.fallback, alone) for use in plan.models}


def _model_plan(use: ModelUse, fallback: FallbackTable, alone: tuple[str, ...]) -> ModelPlan:
    own: dict[str, Any] = {"variant": use.variant, "threads": use.threads, "batch": use.batch}
    choices = own | {name: getattr(fallback, name) for name in FallbackTable.__struct_fields__}
    defaults = {"variant": "", "threads": 0, "batch": 0, **msgspec.structs.asdict(FallbackTable())}
    words = [use.name, *(f"{name}={value}" for name, value in choices.items() if value != defaults[name])]
    return ModelPlan(
        key=" ".join((*words, *alone)),
        managed=use.managed,
        pinned=use.pinned,
        fallback=fallback,
        **own,
    )


def _worker(name: str, members: Iterable[_Member]) -> WorkerPlan:
    found = list(members)
    return WorkerPlan(
        name=name,
        models={model.key: model for member in found for model in member.models.values()},
        pipelines={
            member.name: {stage: model.key for stage, model in member.models.items()} for member in found
        },
    )


def _tied(
    members: Iterable[_Member], exclusive: Mapping[str, Collection[str]]
) -> Iterable[tuple[set[str], list[_Member]]]:
    """Return the members in parts: two with a tie in common, a model or an accelerator, are in one part."""
    parts: list[tuple[set[str], list[_Member]]] = []
    for member in members:
        ties = {f"model {model.key}" for model in member.models.values()}
        ties |= {f"accelerator {kind}" for kind in exclusive.get(member.name, ())}
        touched = [part for part in parts if part[0] & ties]
        parts = [part for part in parts if not part[0] & ties]
        every = [other for _, before in touched for other in before]
        parts.append((ties.union(*(part[0] for part in touched)), [*every, member]))
    return parts
