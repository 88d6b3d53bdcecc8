"""Work that the always-on process leaves to short-lived children, so as not to pay for what it loads.

``python -m edgekit.agent.children survey`` and ``... install`` are the children.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit.agent.supervisor.worker_process import exit_reason
from edgekit.core.errors import BackendError, EdgekitError
from edgekit.core.spec import Facts, Profile
from edgekit.core.structure import decode_json
from edgekit.core.wire import MeasurementRecord
from edgekit.update.contract import UpdaterFailure, error_of, failure_of, line_of
from edgekit.update.slots import Installed, Slots

logger = logging.getLogger(__name__)

TIMEOUT_S = 600.0
"""Proving every backend of a board with several accelerators takes minutes at worst."""
MEASURE_S = 120.0
_PYTHON = (sys.executable, "-m")
T = TypeVar("T")


class Survey(msgspec.Struct, frozen=True):
    """What this machine is: the facts with proofs, and the profile that was chosen."""

    facts: Facts
    profile: Profile


def survey(environment: Mapping[str, str]) -> Survey:
    """Find out what this machine is.

    Raises:
        EdgekitError: It failed, or took too long.
    """
    return _ask(("survey",), Survey, environment)


def install(state: Path, model: str, source: Path, environment: Mapping[str, str]) -> Installed:
    """Install a bundle as a model's first version.

    Raises:
        EdgekitError: The bundle is at fault, or the disk is.
    """
    return _ask(("install", str(state), model, str(source)), Installed, environment)


class MeasureTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement job's child does.

    ``bundle`` is the folder, ``sha256`` its signed manifest's; ``threads`` 0 is this machine's default.
    ``rejected`` says of variants that were not brought here why.
    """

    bundle: str
    sha256: str
    job: str
    threads: int = 0
    seconds: float = 2.0
    rejected: dict[str, str] = {}


def measure(bundle: Path, environment: Mapping[str, str], state: Path | None = None) -> None:
    """Measure the variants of a bundle that were not measured on this machine yet.

    Selection does without where this fails; it is logged, and tried again with the next install. What
    was measured is left in the state folder, for the fleet to be told of.
    """
    command = (*_PYTHON, "edgekit.bench.measure", str(bundle), *([str(state)] if state else []))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=dict(environment),
            timeout=MEASURE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        logger.warning("%s could not be measured within %.0f s", bundle, MEASURE_S)
        return
    if done.returncode != 0:
        logger.warning("%s could not be measured: exit code %d", bundle, done.returncode)


class MeasuringChild:
    """The process that carries out one measurement job; ``run`` waits, any thread may ``kill`` it.

    Args:
        task: What to measure.
        environment: The process's environment variables.
    """

    def __init__(self, task: MeasureTask, environment: Mapping[str, str]) -> None:
        stdin, self._leash = os.pipe()  # nothing is written: the child ends when our end closes
        try:
            self._process = subprocess.Popen(
                [*_PYTHON, "edgekit.agent.measuring.job", msgspec.json.encode(task).decode()],
                stdin=stdin,
                stdout=subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as cause:
            os.close(self._leash)
            raise BackendError(f"measuring cannot be started: {cause.strerror}") from cause
        finally:
            os.close(stdin)

    def run(self, timeout_s: float) -> MeasurementRecord:
        """Return what was measured.

        Raises:
            EdgekitError: What went wrong in the child, of the class it had there.
            BackendError: It ended without a word, or outlived its time.
        """
        try:
            said, _ = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as cause:
            raise BackendError(f"measuring was not done within {timeout_s:.0f} s") from cause
        finally:
            self.kill()
            os.close(self._leash)
            if self._process.stdout is not None:
                self._process.stdout.close()
        if not said:
            raise BackendError(f"measuring ended without a result ({exit_reason(self._process.returncode)})")
        kinds = MeasurementRecord | UpdaterFailure
        found: MeasurementRecord | UpdaterFailure = decode_json(said, kinds, "measuring", BackendError)  # type: ignore[arg-type]  # a union is decoded too
        if isinstance(found, UpdaterFailure):
            raise error_of(found)
        return found

    def kill(self) -> None:
        """End it and every process that it started; safe twice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _ask(arguments: Sequence[str], kind: type[T], environment: Mapping[str, str]) -> T:
    """Run a child and return the JSON line it prints.

    Raises:
        EdgekitError: Of the class it had in the child; a child that says nothing is a BackendError.
    """
    what = arguments[0]
    command = (*_PYTHON, "edgekit.agent.children", *arguments)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environment),
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        raise BackendError(f"{what} took over {TIMEOUT_S:.0f} s") from cause
    if not done.stdout:
        raise BackendError(f"{what} failed: exit code {done.returncode}")
    if done.returncode != 0:
        raise error_of(decode_json(done.stdout, UpdaterFailure, what, BackendError))
    return decode_json(done.stdout, kind, what, BackendError)


# ---------------------------------------------------------------------------------------------
# The children


def _survey() -> Survey:
    from edgekit.model.doctor import facts_with_proofs

    facts, chosen = facts_with_proofs(Path("/"))
    return Survey(facts, chosen.profile)


def _install(state: str, model: str, source: str) -> Installed:
    from edgekit.model.install import install_initial

    return install_initial(Slots(Path(state)), model, Path(source), Path(state) / "unpacked")


def main(arguments: Sequence[str]) -> int:
    """Do what is asked, and print the result or the error as one JSON line."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    what, *rest = arguments
    try:
        found: object = _survey() if what == "survey" else _install(*rest)
    except EdgekitError as error:
        sys.stdout.buffer.write(line_of(failure_of(error)))
        return error.exit_code
    sys.stdout.buffer.write(line_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
