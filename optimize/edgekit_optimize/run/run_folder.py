"""A run's temporary folder below the cache, removed when the run ends."""

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
def run_folder(cache: Path) -> Iterator[Path]:
    """Yield an empty folder below the cache; remove the folders of runs that were killed.

    A run holds a lock on its folder, which the kernel releases when the process ends.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / _LOCK):  # so that no run sees another's folder before it is locked
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
    except OSError:  # the run was killed before it had the lock
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
