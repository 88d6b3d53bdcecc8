"""One agent for one state folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from edgekit.base.files import sync_folder
from edgekit.core.errors import StorageError

_WAIT_S = 2.0


def lock_state(state: Path) -> int:
    """Make sure that one agent uses a state folder; return the descriptor that holds the lock.

    Raises:
        StorageError: The folder cannot be made, or another agent uses it.
    """
    path = state / "run" / "agent.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(state)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise StorageError(f"{state}: cannot be used: {cause.strerror}", hint="give --state DIR") from cause
    deadline_s = time.monotonic() + _WAIT_S  # one that was killed a moment ago is let go by the kernel
    while not _try(descriptor):
        if time.monotonic() > deadline_s:
            os.close(descriptor)
            raise StorageError(f"{state}: another agent uses it", hint="stop it first")
        time.sleep(0.05)
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
