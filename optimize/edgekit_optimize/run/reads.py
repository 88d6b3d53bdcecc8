"""Track which of the user's files a job reads, so that it is repeated only when they change.

A user's function depends on files that no argument names: modules that it imports, weights and
pictures that it opens. Python's audit events (PEP 578) report each file that Python opens and each folder
that it lists, but not files that a native library such as OpenCV or HDF5 opens itself.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from edgekit.base.files import write_durably
from edgekit_optimize.cache import Cache, digest_of, digest_of_files

_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/run")
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_FOLDERS_LISTED = ("os.listdir", "os.scandir")
_FINDERS = ("importlib._bootstrap", f"importlib{os.sep}metadata", "pkgutil")
_OWN = (str(Path(__file__).parents[1]), *edgekit.__path__)


class Watch:
    """Records which files this process reads, until it ends: an audit hook cannot be removed."""

    def __init__(self) -> None:
        self._found: set[str] = set()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY:
                self._found.add(os.path.abspath(path))  # noqa: PTH100 - a hook must be cheap
        elif event in _FOLDERS_LISTED and isinstance(arguments[0], str) and not _is_import():
            self._found.add(os.path.abspath(arguments[0]))  # noqa: PTH100

    def files(self, but: Path) -> list[str]:
        """Return the user's files and folders that still exist, without those below ``but``."""
        modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        known = self._found | {name for name in modules if isinstance(name, str) and Path(name).is_absolute()}
        foreign = (*_SYSTEM, *(sysconfig.get_path(name) for name in _LIBRARIES), *_OWN, str(but))
        own = (path for path in known if not _is_below(path, foreign) and "__pycache__" not in path)
        return sorted(path for path in own if Path(path).exists())


def _is_import() -> bool:
    """Return whether the import system lists this folder: files beside a module are not data."""
    asks = sys._getframe(2).f_code.co_filename  # noqa: SLF001 - a hook must be cheap
    return any(name in asks for name in _FINDERS)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def state_of(paths: Iterable[str]) -> str:
    """Return a digest of the current state of files and folders: code by content, data by size and time."""
    return digest_of([(path, _state(Path(path))) for path in paths])


def _state(path: Path) -> object:
    try:
        if path.is_dir():
            return sorted(entry.name for entry in path.iterdir())
        if path.suffix == ".py":
            return digest_of_files(path)
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def make_unless_kept(
    cache: Cache, kind: str, base: str, fill: Callable[[Path], dict[str, Any]]
) -> tuple[Path, Any, bool]:
    """Return a cache entry; ``fill`` makes it if it is absent or if a file that it read has changed.

    Args:
        cache: The cache.
        kind: The kind of entry; used as a folder name.
        base: A digest of everything else that its content depends on.
        fill: As for ``Cache.make``; ``reads`` in its result lists the files that it depends on.

    Returns:
        The entry's folder, its result, and whether it was in the cache already.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    index = cache.folder / f"{kind}-reads" / f"{base}.json"
    known = _read(index)
    if (
        known is not None
        and (entry_and_result := cache.find(kind, digest_of(base, state_of(known)))) is not None
    ):
        return *entry_and_result, True
    index.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.scratch or index.parent, prefix=".") as scratch:
        result = fill(Path(scratch))
        reads: list[str] = result.pop("reads")

        def copy(folder: Path) -> dict[str, Any]:
            shutil.copytree(scratch, folder, dirs_exist_ok=True)
            return result

        entry, kept, _ = cache.make(kind, digest_of(base, state_of(reads)), copy)
        write_durably(index, msgspec.json.encode(reads))
    return entry, kept, False


def _read(index: Path) -> list[str] | None:
    try:
        return msgspec.json.decode(index.read_bytes(), type=list[str])
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:  # truncated by a crash: the work is done again
        return None
