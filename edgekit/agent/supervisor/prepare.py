"""Set-up before any worker starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgekit.agent.children import Survey, install, measure, survey
from edgekit.agent.config import PipelinePlan
from edgekit.agent.model_use import ModelUse
from edgekit.agent.supervisor.egress import Egress
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Manifest, parse_manifest
from edgekit.update.slots import Slots

logger = logging.getLogger(__name__)


def prepare(
    plans: Iterable[PipelinePlan], slots: Slots, egress: Egress, environment: Mapping[str, str]
) -> Survey:
    """Detect the hardware, measure the bundles, and install each model's first version.

    Waits for child processes. If a first version cannot be installed, an alert is sent and its pipeline waits
    for the fleet.

    Raises:
        EdgekitError: The hardware cannot be detected.
    """
    machine = survey(environment)
    prepare_models(plans, slots, egress, environment)
    return machine


def prepare_models(
    plans: Iterable[PipelinePlan], slots: Slots, egress: Egress, environment: Mapping[str, str]
) -> None:
    """Measure the pipelines' bundles, and install each model's first version, as ``prepare`` does."""
    for plan in plans:
        for use in plan.models:
            try:
                _prepare_model(use, slots, environment)
            except EdgekitError as error:  # noqa: PERF203 - one model's error must not stop the others
                logger.error("%s", error.render())  # noqa: TRY400 - the message says it all
                egress.failure(error, plan.name)


def _prepare_model(use: ModelUse, slots: Slots, environment: Mapping[str, str]) -> None:
    if use.pinned is not None:
        measure(use.pinned, environment, slots.state_dir)
    elif use.initial is not None and slots.load(use.managed).active is None:
        measure(use.initial, environment, slots.state_dir)
        version = install(slots.state_dir, use.managed, use.initial, environment).version
        logger.info("installed %s %s as the first version", use.managed, version)


def exclusive_of(plans: Iterable[PipelinePlan], slots: Slots, machine: Survey | None) -> dict[str, set[str]]:
    """Return, by pipeline, the accelerators that its models may use and that one process at a time can have.

    A bundle that cannot be read counts as using none; its worker says what is wrong with it.
    """
    if machine is None or not machine.exclusive:
        return {}
    return {
        plan.name: {kind for use in plan.models for kind in _accelerators(use, plan.fallback.pairs, slots)}
        & set(machine.exclusive)
        for plan in plans
    }


def _accelerators(use: ModelUse, pairs: Sequence[str], slots: Slots) -> set[str]:
    """Return the accelerators of the variants that may run, of a model's active version."""
    try:
        path = use.pinned or slots.folder(use.managed)
        variants = _manifest(path).variants if path is not None else ()
    except (OSError, EdgekitError):
        return set()
    return {
        variant.accelerator
        for variant in variants
        if use.variant in ("", variant.id) and (not pairs or {variant.id, variant.accelerator} & {*pairs})
    }


def _manifest(path: Path) -> Manifest:
    if path.is_dir():
        return parse_manifest((path / "bundle.json").read_bytes(), str(path))
    from edgekit.core.archive import read_index, read_manifest  # only here: tarfile takes a megabyte

    with path.open("rb") as stream:
        return read_manifest(stream, read_index(stream, str(path)), str(path))[0]
