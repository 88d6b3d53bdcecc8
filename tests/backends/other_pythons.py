"""Finds another Python than ours, for the tests of the seam to foreign interpreters."""

from __future__ import annotations

import functools
import re
import shutil
import sys
from pathlib import Path


@functools.cache
def other_pythons() -> list[str]:
    """Return the interpreters of other versions than ours, oldest first."""
    ours = sys.version_info[:2]
    found = {version: path for version, path in _candidates() if version != ours and version >= (3, 6)}
    return [path for _, path in sorted(found.items())]


def foreign_python() -> str:
    """Return the oldest other interpreter, or the one that runs the tests where there is no other."""
    return next(iter(other_pythons()), sys.executable)


def _candidates() -> list[tuple[tuple[int, int], str]]:
    names = ["/usr/bin/python3", *(shutil.which(f"python3.{minor}") for minor in range(6, 16))]
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    paths = [*(name for name in names if name), *map(str, pyenv)]
    return [(version, path) for path in paths if (version := _version(path))]


def _version(path: str) -> tuple[int, int] | None:
    """Read the version from the file's name: each process of ./check collects this, and to ask takes 2 s."""
    program = Path(path).resolve()
    version = re.fullmatch(r"python3\.(\d+)", program.name)
    if version is None or not program.is_file():
        return None
    with program.open("rb") as file:
        is_script = file.read(2) == b"#!"  # a version manager's stub, maybe for a version that is not there
    return None if is_script else (3, int(version[1]))
