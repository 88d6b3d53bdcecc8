"""Which pipelines share a worker process and a loaded model. Pure: the caller knows the hardware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from edgekit.agent.config import AUTO, PipelinePlan
from edgekit.pipeline.fallback import FallbackTable


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a worker opens once. ``key`` is unique in its worker; equal plans have equal keys.

    Exactly one of ``pinned`` and ``managed`` is set.
    """

    key: str
    managed: str = ""
    pinned: Path | None = None
    variant: str = ""
    threads: int = 0
    fallback: FallbackTable = FallbackTable()

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return self.managed or str(self.pinned)


class WorkerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process by its name: its models by key, and the key of each pipeline's model."""

    name: str
    models: dict[str, ModelPlan]
    pipelines: dict[str, str]


def group(
    plans: Iterable[PipelinePlan],
    exclusive: Mapping[str, Collection[str]] | None = None,
    unshared: Collection[str] = (),
) -> dict[str, WorkerPlan]:
    """Return the workers by name.

    Pipelines with ``worker = "auto"`` share a process where they name the same model and open it alike, or
    where their models want the same exclusive accelerator; those that name a worker share it with whoever
    names it too. In one process, pipelines that name the same model and open it alike share the loaded model.

    Args:
        plans: The pipelines; each name once.
        exclusive: The accelerators, by pipeline, that its model may use and that one process can have.
        unshared: Pipelines whose model is loaded for them alone, as its file keeps state.
    """
    wanted = exclusive or {}
    named: dict[str, list[tuple[PipelinePlan, ModelPlan]]] = defaultdict(list)
    automatic: list[tuple[PipelinePlan, ModelPlan]] = []
    for plan in plans:
        member = plan, model_plan(plan, is_shared=plan.name not in unshared)
        (automatic if plan.worker == AUTO else named[plan.worker]).append(member)
    workers = {name: _worker(name, members) for name, members in named.items()}
    for ties, members in _tied(automatic, wanted):
        name = f"auto:{min(ties)}"
        workers[name] = _worker(name, members)
    return workers


def model_plan(plan: PipelinePlan, *, is_shared: bool = True) -> ModelPlan:
    """Return how a pipeline's model is opened."""
    fallback = plan.fallback
    choices: dict[str, object] = {"variant": plan.variant, "threads": plan.threads}
    choices |= {name: getattr(fallback, name) for name in FallbackTable.__struct_fields__}
    defaults = {"variant": "", "threads": 0, **msgspec.structs.asdict(FallbackTable())}
    words = [plan.model, *(f"{name}={value}" for name, value in choices.items() if value != defaults[name])]
    if not is_shared:
        words.append(f"for {plan.name}")
    return ModelPlan(
        key=" ".join(words),
        managed=plan.managed,
        pinned=plan.pinned,
        variant=plan.variant,
        threads=plan.threads,
        fallback=fallback,
    )


def _worker(name: str, members: Iterable[tuple[PipelinePlan, ModelPlan]]) -> WorkerPlan:
    found = list(members)
    return WorkerPlan(
        name=name,
        models={model.key: model for _, model in found},
        pipelines={plan.name: model.key for plan, model in found},
    )


def _tied(
    members: Iterable[tuple[PipelinePlan, ModelPlan]], exclusive: Mapping[str, Collection[str]]
) -> Iterable[tuple[set[str], list[tuple[PipelinePlan, ModelPlan]]]]:
    """Return the members in parts: two with a tie in common, a model or an accelerator, are in one part."""
    parts: list[tuple[set[str], list[tuple[PipelinePlan, ModelPlan]]]] = []
    for plan, model in members:
        ties = {f"model {model.key}", *(f"accelerator {kind}" for kind in exclusive.get(plan.name, ()))}
        touched = [part for part in parts if part[0] & ties]
        parts = [part for part in parts if not part[0] & ties]
        every = [member for _, before in touched for member in before]
        parts.append((ties.union(*(part[0] for part in touched)), [*every, (plan, model)]))
    return parts
