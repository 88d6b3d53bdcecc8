"""Work that the always-on process leaves to short-lived children, so as not to pay for what it loads.

``python -m edgekit.agent.survey`` is one of them: it finds out what this machine is.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.core.errors import BackendError, BundleError, EdgekitError
from edgekit.core.spec import Facts, Profile, decode_json
from edgekit.update.contract import UpdaterFailure, error_of
from edgekit.update.slots import Installed

logger = logging.getLogger(__name__)

TIMEOUT_S = 600.0
COMMAND = (sys.executable, "-m", "edgekit.agent.survey")
_INSTALL = (sys.executable, "-m", "edgekit.agent.install")


class Survey(msgspec.Struct, frozen=True):
    """The facts with proofs, and the profile that was chosen."""

    facts: Facts
    profile: Profile


def survey(environment: Mapping[str, str]) -> Survey:
    """Run the survey and wait for it; call it on a thread.

    Raises:
        EdgekitError: It failed; a survey that takes too long counts as failed.
    """
    try:
        done = subprocess.run(
            COMMAND,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environment),
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        raise BackendError(f"the survey of this machine took over {TIMEOUT_S:.0f} s") from cause
    if done.returncode != 0:
        raise BackendError(f"the survey of this machine failed: exit code {done.returncode}")
    return decode_json(done.stdout, Survey, "survey", BackendError)


def install(state: Path, model: str, source: Path, environment: Mapping[str, str]) -> str:
    """Install a bundle as a model's first version, in a child process; return the version.

    Raises:
        EdgekitError: The bundle is at fault, or the disk is; of the class it had in the child.
    """
    command = (*_INSTALL, str(state), model, str(source))
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
        raise BundleError(f"{source}: could not be installed within {TIMEOUT_S:.0f} s") from cause
    if done.returncode == 0:
        return decode_json(done.stdout, Installed, "install", BundleError).version
    if done.stdout:
        raise error_of(decode_json(done.stdout, UpdaterFailure, "install", BundleError))
    raise BundleError(f"{source}: the installing process failed: exit code {done.returncode}")


def main() -> int:
    """Print the survey as JSON."""
    from edgekit.agent.doctor import facts_with_proofs

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    try:
        facts, chosen = facts_with_proofs(Path("/"))
    except EdgekitError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(Survey(facts, chosen.profile)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
