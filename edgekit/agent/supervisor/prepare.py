"""Set-up before any worker starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgekit.agent.children import Survey, install, measure, survey
from edgekit.agent.config import PipelinePlan
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
        try:
            if plan.pinned is not None:
                measure(plan.pinned, environment, slots.state_dir)
            elif plan.initial is not None and slots.load(plan.managed).active is None:
                measure(plan.initial, environment, slots.state_dir)
                version = install(slots.state_dir, plan.managed, plan.initial, environment).version
                logger.info("installed %s %s as the first version", plan.managed, version)
        except EdgekitError as error:  # noqa: PERF203 - one pipeline's error must not stop the others
            logger.error("%s", error.render())  # noqa: TRY400 - the message says it all
            egress.failure(error, plan.name)


def exclusive_of(plans: Iterable[PipelinePlan], slots: Slots, machine: Survey | None) -> dict[str, set[str]]:
    """Return, by pipeline, the accelerators that its model may use and that one process at a time can have.

    A bundle that cannot be read counts as using none; its worker says what is wrong with it.
    """
    if machine is None or not machine.exclusive:
        return {}
    return {plan.name: accelerators_of(plan, slots) & set(machine.exclusive) for plan in plans}


def accelerators_of(plan: PipelinePlan, slots: Slots) -> set[str]:
    """Return the accelerators of the variants that a pipeline may run, of its model's active version."""
    try:
        path = plan.pinned or slots.folder(plan.managed)
        variants = _manifest(path).variants if path is not None else ()
    except (OSError, EdgekitError):
        return set()
    pairs = plan.fallback.pairs
    return {
        variant.accelerator
        for variant in variants
        if plan.variant in ("", variant.id) and (not pairs or {variant.id, variant.accelerator} & {*pairs})
    }


def _manifest(path: Path) -> Manifest:
    if path.is_dir():
        return parse_manifest((path / "bundle.json").read_bytes(), str(path))
    from edgekit.core.archive import read_index, read_manifest  # only here: tarfile takes a megabyte

    with path.open("rb") as stream:
        return read_manifest(stream, read_index(stream, str(path)), str(path))[0]
