"""Releases of the agent on this device: environments beside the installation, and the one on trial.

A release's environment is ``agent/<version>/`` below the state folder: a virtual environment with the
release's wheels, in which everything else comes from the installation (``Base``). ``agent/launch.json`` says
which one is on trial; the slots of ``AGENT`` say which one was committed.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import msgspec

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import read_file, replace_file
from edgekit.core.release import select_release
from edgekit.core.select import Selection
from edgekit.core.spec import Manifest
from edgekit.version import __version__

MAX_STARTS = 2
"""Of a release on trial: the second is for a device that lost its power during the first."""
_SITE = ("site-packages", "dist-packages")


class Base(msgspec.Struct, frozen=True):
    """The installation below all releases: its interpreter, versions, and folders of packages."""

    program: str
    agent: str
    python: str
    paths: tuple[str, ...]


class Release(msgspec.Struct, frozen=True):
    """``release.json`` of an environment; written last, so that it is complete where this is."""

    version: str
    sha256: str
    base: Base


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """``agent/launch.json``: the release on trial, and what the agent before it did.

    ``starts``: how often it was started. ``failed``: why it was left, or "". ``pairs``: the versions of the
    models that move with it. ``pipelines`` ran and ``is_linked`` held before it.
    """

    version: str
    starts: int = 0
    limit_s: float = 300.0
    failed: str = ""
    pairs: dict[str, str] = {}
    pipelines: tuple[str, ...] = ()
    is_linked: bool = False


def releases_folder(state: Path) -> Path:
    """Return the folder of the environments and of ``launch.json``."""
    return state / "agent"


def environment_of(state: Path, version: str) -> Path:
    """Return a release's environment."""
    return releases_folder(state) / version


def program_of(environment: Path) -> Path:
    """Return an environment's interpreter."""
    return environment / "bin" / "python3"


def read_release(environment: Path) -> Release | None:
    """Return what a complete environment is; None where it is absent or not complete."""
    try:
        return msgspec.json.decode((environment / "release.json").read_bytes(), type=Release)
    except (OSError, msgspec.DecodeError):
        return None


def running_release() -> Release | None:
    """Return the release that this process belongs to; None for the installation."""
    return read_release(Path(sys.prefix))


def this_base() -> Base:
    """Return the installation, also from within a release."""
    if (release := running_release()) is not None:
        return release.base
    paths = tuple(path for path in sys.path if path.endswith(_SITE) and Path(path).is_dir())
    return Base(sys.executable, __version__, platform.python_version(), paths)


def load_launch(state: Path) -> Launch | None:
    """Return the record of the last trial; None without one, or where it is damaged.

    Raises:
        StorageError: The file cannot be read.
    """
    data = read_file(releases_folder(state) / "launch.json")
    try:
        return None if data is None else msgspec.json.decode(data, type=Launch)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # nothing is on trial then, and what was committed starts


def save_launch(state: Path, launch: Launch) -> None:
    """Keep a trial's record, durably.

    Raises:
        StorageError: The disk is full or broken.
    """
    replace_file(LocalDisk(), releases_folder(state) / "launch.json", msgspec.json.encode(launch))


def forget_launch(state: Path) -> None:
    """Remove the record of the last trial.

    Raises:
        StorageError: The disk is broken.
    """
    disk, path = LocalDisk(), releases_folder(state) / "launch.json"
    with disk_errors(path):
        if disk.size(path) is not None:
            disk.remove(path)
            disk.sync(path.parent)


def fail_launch(state: Path, version: str, reason: str) -> None:
    """Record that a release on trial is left, and why; the first reason stays.

    Raises:
        StorageError: The disk is full or broken.
    """
    launch = load_launch(state)
    if launch is not None and launch.version == version and not launch.failed:
        save_launch(state, msgspec.structs.replace(launch, failed=reason))


def selected(manifest: Manifest) -> Selection:
    """Return which variant of a release this installation takes.

    Raises:
        BundleError: It is not a release.
    """
    from importlib.metadata import distributions

    base = this_base()

    def installed(name: str) -> str:
        found = next(iter(distributions(name=name, path=list(base.paths))), None)
        return str(found.version) if found else ""

    return select_release(manifest, platform.machine(), base.python, installed)


def remove_others(state: Path, keep: set[str]) -> None:
    """Remove the environments that no slot names.

    Raises:
        StorageError: The disk is broken.
    """
    disk, folder = LocalDisk(), releases_folder(state)
    with disk_errors(folder):
        for name in disk.names(folder):
            if name not in keep and (folder / name).is_dir():
                disk.remove(folder / name)
