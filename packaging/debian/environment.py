"""Chooses the wheels of a target and unpacks them into an environment, with uv."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packages import Package, Release

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*(==|@)\s*(\S+)")
_DROPPED_FOLDERS = ("tests", "test", "include", "__pycache__")
# LiteRT's compilers for telephones' NPUs, which its interpreter never loads; what only shells and git use.
_DROPPED = (
    "ai_edge_litert/tools",
    "ai_edge_litert/vendors",
    "ai_edge_litert/aot",
    "**/.gitignore",
    "**/*.sh",
)
_INSTALLER_FILES = ("direct_url.json", "uv_cache.json", "INSTALLER", "REQUESTED")


@dataclass(frozen=True)
class Target:
    """What the packages are for: a release of Debian or Ubuntu, and Debian's name of an architecture."""

    release: Release
    arch: str

    @property
    def options(self) -> list[str]:
        """The options of uv that choose wheels for the target."""
        machine = {"amd64": "x86_64", "arm64": "aarch64"}[self.arch]
        platform = f"{machine}-manylinux_{self.release.glibc.replace('.', '_')}"
        return ["--python-platform", platform, "--python-version", self.release.python]


def resolve(
    target: Target, wheels: Path, packages: Sequence[Package], pins: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return each distribution that the packages need, as a requirement of one version.

    ``pins`` are versions to keep, so that packages of one environment agree.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted, fixed = Path(folder) / "wanted.txt", Path(folder) / "pins.txt"
        lines = []
        for package in packages:
            (wheel,) = wheels.glob(f"{package.distribution.replace('-', '_')}-*.whl")
            lines.append(f"{package.distribution}[{','.join(package.extras)}] @ {wheel.resolve().as_uri()}")
        (runtime,) = wheels.glob("edgekit_runtime-*.whl")
        lines.append(f"edgekit-runtime @ {runtime.resolve().as_uri()}")
        wanted.write_text("\n".join(lines))
        fixed.write_text("\n".join(row for row in (pins or {}).values() if "==" in row))
        command = [_uv(), "pip", "compile", "-q", "--no-header", "--no-annotate", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, *target.options, "-c", str(fixed), str(wanted)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = [match for line in done.stdout.splitlines() if (match := _PIN.match(line))]
    return {m[1].lower(): f"{m[1]}=={m[3]}" if m[2] == "==" else f"{m[1]} @ {m[3]}" for m in found}


def fill(target: Target, pins: Mapping[str, str], prefix: Path) -> None:
    """Unpack distributions into ``prefix``, without what only their developers need."""
    site = prefix / "lib" / f"python{target.release.python}" / "site-packages"
    site.mkdir(parents=True)
    command = [_uv(), "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--link-mode", "copy"]
    subprocess.run([*command, *target.options, "--target", str(site), *pins.values()], check=True)
    for program in (site / "bin").glob("*"):
        if program.read_bytes()[:4] == b"\x7fELF":  # nats-server; what is left names this machine's Python
            (prefix / "bin").mkdir(exist_ok=True)
            program.rename(prefix / "bin" / program.name)
    shutil.rmtree(site / "bin", ignore_errors=True)
    (site / ".lock").unlink(missing_ok=True)
    for folder in [path for path in site.rglob("*") if path.is_dir() and path.name in _DROPPED_FOLDERS]:
        shutil.rmtree(folder, ignore_errors=True)
    for path in [path for pattern in _DROPPED for path in site.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for record in site.glob("*.dist-info/RECORD"):
        for name in _INSTALLER_FILES:
            (record.parent / name).unlink(missing_ok=True)
        record.unlink()  # dpkg keeps the list of files, and this one holds paths of this machine


def _uv() -> str:
    beside = shutil.which(str(Path(sys.executable).parent / "uv"))
    found = beside or shutil.which("uv")
    if found is None:
        raise SystemExit(f"building Debian packages needs uv: {sys.executable} -m pip install uv")
    return found
