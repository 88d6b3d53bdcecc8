"""Locks between processes: one agent and one updater for each state folder."""

import fcntl
import os
import time
from pathlib import Path

from edgekit.base.disk import disk_errors, sync_path
from edgekit.core.errors import StorageError

_WAIT_S = 2.0  # the kernel frees the lock of a process killed a moment ago


def lock_state(state: Path) -> int:
    """Return the descriptor that holds the lock of a state folder's one agent.

    Raises:
        StorageError: The folder cannot be made, or another agent uses it.
    """
    path = state / "run" / "agent.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_path(state)
    except OSError as cause:
        raise StorageError(f"{state}: cannot be used: {cause.strerror}", hint="give --state DIR") from cause
    return lock_file(path, _WAIT_S, f"{state}: another agent uses it")


def lock_file(path: Path, wait_s: float, problem: str) -> int:
    """Return a descriptor that holds an exclusive lock until it is closed.

    Raises:
        StorageError: The file cannot be opened, or is locked after ``wait_s`` (``problem`` is the message).
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203 - it waits anyway
            if time.monotonic() > deadline_s:
                os.close(descriptor)
                raise StorageError(problem, hint="stop it first") from None
            time.sleep(0.05)
        else:
            return descriptor
