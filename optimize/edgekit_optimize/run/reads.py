"""What a job read of the user's own code and data, so that it is repeated only once they change.

A function of the user's depends on files that nobody names: modules that it imports, weights and
pictures that it opens. Python tells of each that it opens (audit events, PEP 578); what a native library
opens by itself, such as OpenCV or HDF5, it does not tell, but of the folders that were listed it does.
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
    """Notes which files this process reads, from now to its end: a hook of Python's cannot be taken out."""

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
        """Return the files and folders, still there, that are the user's; none of those below ``but``."""
        modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        known = self._found | {name for name in modules if isinstance(name, str) and Path(name).is_absolute()}
        foreign = (*_SYSTEM, *(sysconfig.get_path(name) for name in _LIBRARIES), *_OWN, str(but))
        own = (path for path in known if not _is_below(path, foreign) and "__pycache__" not in path)
        return sorted(path for path in own if Path(path).exists())


def _is_import() -> bool:
    """Say whether Python looks for modules or packages there: what lies beside a module is no data."""
    asks = sys._getframe(2).f_code.co_filename  # noqa: SLF001 - a hook must be cheap
    return any(name in asks for name in _FINDERS)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def state_of(paths: Iterable[str]) -> str:
    """Return a digest of how files and folders are now: code by its text, data by size and time."""
    return digest_of([(path, _state(Path(path))) for path in paths])


def _state(path: Path) -> object:
    try:
        if path.is_dir():
            return sorted(one.name for one in path.iterdir())
        if path.suffix == ".py":
            return digest_of_files(path)
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def make_unless_kept(
    cache: Cache, kind: str, base: str, fill: Callable[[Path], dict[str, Any]]
) -> tuple[Path, Any, bool]:
    """Return an entry of a cache, made by ``fill`` where there is none or what it read has changed.

    Args:
        cache: Where it is kept.
        kind: What sort of thing it is; a folder's name.
        base: The digest of everything else that it is made from.
        fill: As for ``Cache.make``; ``reads`` in its result are the files that it depends on.

    Returns:
        The entry's folder, its result, and whether it was there before.

    Raises:
        StorageError: There is no room for it, or the folder cannot be written.
    """
    index = cache.folder / f"{kind}-reads" / f"{base}.json"
    known = _read(index)
    if known is not None and (found := cache.find(kind, digest_of(base, state_of(known)))) is not None:
        return *found, True
    index.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.scratch or index.parent, prefix=".") as scratch:
        result = fill(Path(scratch))
        reads: list[str] = result.pop("reads")

        def place(folder: Path) -> dict[str, Any]:
            shutil.copytree(scratch, folder, dirs_exist_ok=True)
            return result

        entry, kept, _ = cache.make(kind, digest_of(base, state_of(reads)), place)
        write_durably(index, msgspec.json.encode(reads))
    return entry, kept, False


def _read(index: Path) -> list[str] | None:
    try:
        return msgspec.json.decode(index.read_bytes(), type=list[str])
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:  # cut off by a crash: the work is done again
        return None
