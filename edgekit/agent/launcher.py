"""Starts the agent: the release that was committed, one on trial for a limited time, or the installation.

``python -m edgekit.agent.launcher CONFIG STATE [--json] [--verbose]``, by the installation's interpreter. It
becomes the agent; for the time of a trial it stays as the agent's parent, so that a release that does not
come up, hangs or ends is left for the one before it. The durable counter of starts is raised before a start.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from edgekit.agent.config import environment
from edgekit.base.child import exit_reason
from edgekit.base.logs import log_to_stderr
from edgekit.base.notify import Notifier
from edgekit.core.errors import StorageError
from edgekit.core.spec import AGENT
from edgekit.update.release import (
    MAX_STARTS,
    Base,
    Launch,
    environment_of,
    fail_launch,
    load_launch,
    program_of,
    read_release,
    save_launch,
    this_base,
)
from edgekit.update.slots import Installed, Slot, Slots

logger = logging.getLogger(__name__)

RESTART = 75
"""Exit code of an agent that asks its parent to choose again."""
_GRACE_S = 60.0
"""After the agent's own limit, before its parent ends it."""
_STOP_S = 30.0
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


class Start(msgspec.Struct, frozen=True):
    """What is started: an interpreter, the version in words, and the record of its trial if it is on one."""

    program: str
    version: str
    trial: Launch | None = None


def decide(state: Path, base: Base) -> Start:
    """Return what starts now, and record why a release on trial does not.

    Raises:
        StorageError: The record of a trial cannot be written.
    """
    try:
        slot, launch = Slots(state).load(AGENT), load_launch(state)
    except StorageError as error:
        logger.error("the installation starts, since no release is known: %s", error)  # noqa: TRY400
        slot, launch = Slot(), None
    staged = slot.staged
    if launch is not None and staged is not None and launch.version == staged.version and not launch.failed:
        if launch.starts >= MAX_STARTS:
            fail_launch(state, staged.version, f"it was started {launch.starts} times and never committed")
        elif not _is_usable(state, staged, base):
            fail_launch(state, staged.version, "its environment is not complete, or for another installation")
        else:
            return Start(_program(state, staged), staged.version, launch)
    for installed in (slot.active, slot.previous):
        if installed is not None and _is_usable(state, installed, base):
            return Start(_program(state, installed), installed.version)
    return Start(base.program, f"{base.agent}, the installation")


def _program(state: Path, installed: Installed) -> str:
    return str(program_of(environment_of(state, installed.version)))


def _is_usable(state: Path, installed: Installed, base: Base) -> bool:
    release = read_release(environment_of(state, installed.version))
    return release is not None and release.sha256 == installed.sha256 and release.base == base


class Launcher:
    """Starts agents of one configuration and state folder until one of them is to stay."""

    def __init__(self, config: str, state: Path, flags: list[str]) -> None:
        self._state, self._base = state, this_base()
        self._notifier = Notifier(environment().notify_socket)
        self._words = [
            "-m",
            "edgekit.cli.main",
            "agent",
            "run",
            "--config",
            config,
            "--state",
            str(state),
            *flags,
        ]
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def run(self) -> int:
        """Become the agent, or return the exit code of one that was on trial.

        Raises:
            StorageError: The record of a trial cannot be written.
        """
        while True:
            self._notifier.tell("WATCHDOG=1")  # a stop, and a start on a slow board, may take long
            start = decide(self._state, self._base)
            logger.info("starts agent %s%s", start.version, ", on trial" if start.trial else "")
            if start.trial is None:
                self._become(start)
            elif (code := self._try_out(start.program, start.trial)) is not None:
                return code

    def _become(self, start: Start) -> NoReturn:
        environment = {**os.environ, "EDGEKIT_LAUNCHED": "became"}
        os.execve(start.program, [start.program, *self._words], environment)  # noqa: S606 - no shell

    def _try_out(self, program: str, launch: Launch) -> int | None:
        """Run a release on trial; return its exit code, or None to choose again."""
        save_launch(self._state, msgspec.structs.replace(launch, starts=launch.starts + 1))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        self._child = subprocess.Popen(
            [program, *self._words],
            env={**os.environ, "EDGEKIT_LAUNCHED": "parent"},
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has one thread
        )
        code = self._wait(self._child, launch)
        if self._is_stopping or (code != RESTART and not self._is_on_trial(launch.version)):
            return code if code >= 0 else 128 - code
        fail_launch(self._state, launch.version, f"it ended by itself: {exit_reason(code)}")
        return None

    def _wait(self, child: subprocess.Popen[bytes], launch: Launch) -> int:
        """Wait for the end of a release; it is brought about where the trial takes too long."""
        deadline_s = time.monotonic() + launch.limit_s + _GRACE_S
        while child.poll() is None and self._is_on_trial(launch.version):
            if time.monotonic() > deadline_s:
                fail_launch(self._state, launch.version, f"it did not report within {launch.limit_s:g} s")
                _end(child)
            time.sleep(_POLL_S)
        return child.wait()

    def _is_on_trial(self, version: str) -> bool:
        launch = load_launch(self._state)
        return launch is not None and launch.version == version and not launch.failed

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._is_stopping = self._is_stopping or number != signal.SIGHUP
        if self._child is not None:
            self._child.send_signal(number)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent is killed, so that two agents never run."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def launch_again(arguments: list[str], *, has_parent: bool) -> int:
    """Have the launcher choose again: return the exit code that asks for it, or become the launcher."""
    if not has_parent:
        program = this_base().program
        os.execv(program, [program, "-m", "edgekit.agent.launcher", *arguments])  # noqa: S606 - no shell
    return RESTART


def main(arguments: list[str]) -> int:
    """Start the agent; return an exit code where it was on trial and ended."""
    log_to_stderr(logging.DEBUG if "--verbose" in arguments else logging.INFO)
    config, state, *flags = arguments
    try:
        return Launcher(config, Path(state), flags).run()
    except StorageError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
