"""Short-lived child processes for work whose libraries the supervisor must not load.

``python -m edgekit.agent.children survey`` and ``... install`` are the children.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.base.child import Child, ChildFault, run_job
from edgekit.base.logs import log_to_stderr
from edgekit.core.errors import BackendError, EdgekitError
from edgekit.core.spec import Facts, Profile
from edgekit.core.wire import MeasurementRecord
from edgekit.update.slots import Installed, Slots

logger = logging.getLogger(__name__)

TIMEOUT_S = 600.0
"""Proving every backend of a board with several accelerators takes minutes at worst."""
MEASURE_S = 120.0
T = TypeVar("T")


class Survey(msgspec.Struct, frozen=True):
    """This machine's facts with proofs, and its profile.

    ``exclusive``: its accelerators that one process at a time can have.
    """

    facts: Facts
    profile: Profile
    exclusive: tuple[str, ...] = ()


def survey(environment: Mapping[str, str]) -> Survey:
    """Return this machine's facts and profile.

    Raises:
        EdgekitError: It failed, or took too long.
    """
    return _ask("survey", None, Survey, environment)


def install(state: Path, model: str, source: Path, environment: Mapping[str, str]) -> Installed:
    """Install a bundle as a model's first version.

    Raises:
        EdgekitError: The bundle is not valid, or the disk failed.
    """
    return _ask("install", (str(state), model, str(source)), Installed, environment)


class MeasureTask(msgspec.Struct, frozen=True, kw_only=True):
    """The request of a measurement job's child.

    ``bundle`` is the folder, ``sha256`` its signed manifest's; ``threads`` 0 is this machine's default.
    ``rejected``: variants that were not fetched, with the reason.
    """

    bundle: str
    sha256: str
    job: str
    threads: int = 0
    seconds: float = 2.0
    rejected: dict[str, str] = {}


def measure(bundle: Path, environment: Mapping[str, str], state: Path | None = None) -> None:
    """Measure the variants of a bundle that were not measured on this machine yet.

    A failure is logged, and retried with the next install; selection works without. The results are left in
    the state folder, to be reported to the fleet.
    """
    try:
        with Child("edgekit.bench.measure", environment=environment) as child:
            child.ask((str(bundle), str(state or "")), type(None), MEASURE_S)
    except (EdgekitError, ChildFault, OSError) as cause:
        logger.warning("measuring %s: %s", bundle, cause)


class MeasuringChild:
    """The process of one measurement job."""

    def __init__(self, task: MeasureTask, environment: Mapping[str, str]) -> None:
        self._task = task
        try:
            self._child = Child(
                "edgekit.agent.measuring.job",
                [task.bundle],  # for lists of processes
                environment=environment,
                leads_group=True,
            )
        except OSError as cause:
            raise BackendError(f"measuring cannot be started: {cause.strerror}") from cause

    def run(self, timeout_s: float) -> MeasurementRecord:
        """Return the measurements.

        Raises:
            EdgekitError: What the child raised, of the same class.
            BackendError: It ended without an answer, or timed out.
        """
        try:
            with self._child:
                return self._child.ask(self._task, MeasurementRecord, timeout_s)
        except ChildFault as fault:
            raise BackendError(f"measuring {fault}") from fault

    def kill(self) -> None:
        """Kill it and every process that it started; safe to call twice."""
        self._child.kill()


def _ask(job: str, request: object, kind: type[T], environment: Mapping[str, str]) -> T:
    try:
        with Child("edgekit.agent.children", [job], environment=environment) as child:
            return child.ask(request, kind, TIMEOUT_S)
    except ChildFault as fault:
        raise BackendError(f"{job} {fault}") from fault


# -- The children


def _survey(_: None) -> Survey:
    from edgekit.base.accelerators import accelerator
    from edgekit.model.doctor import facts_with_proofs

    facts, chosen = facts_with_proofs(Path("/"))
    rows = [accelerator(fact.kind) for fact in facts.accelerators]
    exclusive = tuple(row.kind for row in rows if row is not None and row.is_exclusive)
    return Survey(facts, chosen.profile, exclusive)


def _install(request: tuple[str, str, str]) -> Installed:
    from edgekit.model.install import install_initial

    state, model, source = request
    return install_initial(Slots(Path(state)), model, Path(source), Path(state) / "unpacked")


_JOBS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "survey": (_survey, type(None)),
    "install": (_install, tuple[str, str, str]),
}
"""By name: the function, and what it takes."""


if __name__ == "__main__":
    log_to_stderr(logging.WARNING)
    function, kind = _JOBS[sys.argv[1]]
    sys.exit(run_job(lambda request, _: function(request), kind))
