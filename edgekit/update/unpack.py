"""Makes a release's environment of its wheels, without a network and without an installer."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import sync_tree
from edgekit.core.errors import BundleError, StorageError
from edgekit.core.select import require
from edgekit.core.spec import AGENT, parse_manifest, path_problem
from edgekit.update.download import RESERVE_BYTES
from edgekit.update.release import (
    Release,
    environment_of,
    program_of,
    read_release,
    selected,
    this_base,
)

_PROOF_S = 120.0
_PROOF = "import edgekit.agent.supervisor.supervisor as s; print(s.__version__)"
_DATA = (".data/purelib/", ".data/platlib/")


def unpack(state: Path, bundle: Path, version: str, sha256: str) -> None:
    """Make the environment of a staged release, and prove that its agent can be imported; safe to repeat.

    Raises:
        BundleError: A wheel is not one, or the release's agent is not of this version or cannot be imported.
        NoVariantError: Its version lock does not hold here.
        StorageError: There is no room, or the disk is broken.
    """
    release, environment = Release(version, sha256, this_base()), environment_of(state, version)
    if read_release(environment) == release:
        return
    disk, draft = LocalDisk(), environment.with_name(f".{version}.new")
    manifest = parse_manifest((bundle / "bundle.json").read_bytes())
    variant = require(selected(manifest), manifest, "this device")
    with disk_errors(draft):
        disk.remove(draft)
        _fill(draft, release, [bundle / file.path for file in variant.files])
        _prove(draft, version)
        (draft / "release.json").write_bytes(msgspec.json.encode(release))
        sync_tree(draft)
        disk.remove(environment)
        disk.rename(draft, environment)
        disk.sync(environment.parent)


def _fill(folder: Path, release: Release, wheels: list[Path]) -> None:
    major, minor, _ = platform.python_version_tuple()
    site = folder / "lib" / f"python{major}.{minor}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    interpreter = Path(sys.executable).resolve()
    program_of(folder).symlink_to(interpreter)
    (folder / "pyvenv.cfg").write_text(
        f"home = {interpreter.parent}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    (site / "edgekit-base.pth").write_text("".join(f"{path}\n" for path in release.base.paths), "utf-8")
    for wheel in wheels:
        _extract(wheel, site)


def _extract(wheel: Path, site: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [entry for entry in archive.infolist() if not entry.is_dir()]
            _require_room(sum(entry.file_size for entry in members), site, wheel)
            for entry in members:
                name = next(
                    (entry.filename.partition(mark)[2] for mark in _DATA if mark in entry.filename), ""
                )
                name = name or entry.filename
                if (problem := path_problem(name)) is not None:
                    raise BundleError(f"{wheel.name}: {name!r}: {problem}")
                if ".data/" not in name:  # scripts and headers
                    target = site / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, NotImplementedError) as cause:
        raise BundleError(f"{wheel.name} is not a wheel: {cause}") from cause


def _require_room(size: int, site: Path, wheel: Path) -> None:
    disk = os.statvfs(site)
    room = max(0, disk.f_bavail * disk.f_frsize - RESERVE_BYTES)
    if size > room:
        raise StorageError(
            f"{wheel.name} needs {size} bytes unpacked, {room} are free", hint="free some space"
        )


def _prove(environment: Path, version: str) -> None:
    """Import the release's supervisor in a process of its own."""
    command = [str(program_of(environment)), "-c", _PROOF]
    try:
        done = subprocess.run(
            command, cwd=environment, capture_output=True, text=True, timeout=_PROOF_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise BundleError(f"the release cannot be started: {cause}") from cause
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise BundleError(f"{AGENT} {version} cannot be imported here: {why[0]}")
    if done.stdout.strip() != version:
        raise BundleError(f"{AGENT} {version} holds version {done.stdout.strip()}")
