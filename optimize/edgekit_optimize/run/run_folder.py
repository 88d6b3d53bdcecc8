"""The folder that a run works in, below the cache: its own, and taken away when it ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "run-"
_LOCK = ".lock"


@contextlib.contextmanager
def workplace(cache: Path) -> Iterator[Path]:
    """Yield an empty folder below the cache, and take away those of runs that were killed.

    A run holds the lock of its folder, which the kernel lets go when its process ends.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / _LOCK):  # so that no run sees another's folder before that is locked
        for folder in cache.glob(f"{_PREFIX}*"):
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
        home = Path(tempfile.mkdtemp(dir=cache, prefix=_PREFIX))
        held = contextlib.ExitStack()
        held.enter_context(_locked(home / _LOCK))
    with held:
        try:
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # its run was killed before it had the lock
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
