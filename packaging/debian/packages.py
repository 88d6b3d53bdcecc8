"""The packages, the releases that they are for, and what a package holds besides its environment."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from sbom import component, write_bill

if TYPE_CHECKING:
    from environment import Target

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VERSION = "0.1.0"
# Debian's own variables, for whoever builds packages for others.
MAINTAINER = (
    f"{os.environ.get('DEBFULLNAME', 'edgekit developers')} <{os.environ.get('DEBEMAIL', 'root@localhost')}>"
)


@dataclass(frozen=True)
class Release:
    """A release of Debian or Ubuntu: its Python, its C library, and the suffix of a package's version."""

    python: str
    glibc: str
    suffix: str

    @property
    def version(self) -> str:
        """The packages' version: a newer release's package replaces an older one's."""
        return f"{VERSION}-1~{self.suffix}"

    @property
    def next_python(self) -> str:
        """The first Python that the packages do not fit."""
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"


RELEASES = {
    "bookworm": Release("3.11", "2.36", "deb12"),  # Raspberry Pi OS too
    "trixie": Release("3.13", "2.40", "deb13"),  # it has 2.41; uv knows up to 2.40
    "jammy": Release("3.10", "2.35", "ubuntu22.04"),  # JetPack 6
    "noble": Release("3.12", "2.39", "ubuntu24.04"),  # JetPack 7
}


@dataclass(frozen=True)
class Package:
    """One Debian package: the distribution and extras that it carries, and what else it holds."""

    name: str
    distribution: str
    extras: tuple[str, ...]
    prefix: str
    summary: str
    description: str
    commands: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    unit: str = ""

    @property
    def is_runtime(self) -> bool:
        """Whether it adds to the environment of ``edgekit`` and has none of its own."""
        return not self.commands


AGENT = Package(
    "edgekit",
    "edgekit-runtime",
    ("update", "vision", "serial", "serve"),
    "/opt/edgekit",
    "agent that runs models on this device and keeps them up to date",
    "Runs inference on cameras and sensors, works offline, takes signed updates\n"
    "from a fleet manager, and takes a model back that misbehaves. It needs at\n"
    "least one runtime: edgekit-litert, edgekit-onnxruntime or edgekit-openvino.",
    ("edgekit",),
    ("adduser",),
    "edgekit-agent.service",
)
RUNTIMES = tuple(
    Package(
        f"edgekit-{extra}",
        "edgekit-runtime",
        (extra,),
        "/opt/edgekit",
        f"{title} {kind} for edgekit",
        f"Adds {title} to the environment of the package edgekit,\nso that it {does}.",
    )
    for extra, title, kind, does in (
        ("litert", "LiteRT", "runtime", "runs .tflite files"),
        ("onnxruntime", "ONNX Runtime", "runtime", "runs .onnx files"),
        ("openvino", "OpenVINO", "runtime", "runs OpenVINO IR and .onnx files on Intel hardware"),
        ("rtsp", "PyAV", "library", "reads network cameras (RTSP) and writes clips"),
    )
)
FLEET = Package(
    "edgekit-fleet",
    "edgekit-fleet",
    (),
    "/opt/edgekit-fleet",
    "fleet manager for devices that run edgekit",
    "Enrols devices, takes in what they measure over MQTT with a broker of its\n"
    "own, rolls signed models out in waves, and shows all of it in a web page.",
    ("edgekit-fleet",),
    ("adduser",),
    "edgekit-fleet.service",
)


def describe(package: Package, target: Target, tree: Path) -> None:
    """Add control file, maintainer scripts, units, documentation and list of components to a tree."""
    if not package.is_runtime:
        _make_environment(package, target, tree)
    site = tree / package.prefix.lstrip("/") / "lib" / f"python{target.release.python}" / "site-packages"
    components = [component(folder) for folder in sorted(site.glob("*.dist-info"))]
    _write(tree / "DEBIAN" / "control", _control(package, target))
    values = {
        "PREFIX": package.prefix,
        "PYTHON": target.release.python,
        "NAME": package.name,
        "UNIT": package.unit,
    }
    kind = "runtime" if package.is_runtime else "service"
    for source in [path for folder in (kind, package.name) for path in sorted((HERE / folder).glob("p*"))]:
        _write(tree / "DEBIAN" / source.name, _At(source.read_text("utf-8")).substitute(values))
    share = tree / "usr" / "share"
    overrides = (HERE / "lintian-overrides").read_text("utf-8")
    _write(share / "lintian" / "overrides" / package.name, _At(overrides).substitute(values))
    _document(package, target, components, site, share / "doc" / package.name)


class _At(Template):
    """A template whose names stand as ``@NAME``, since shell scripts use the dollar sign."""

    delimiter = "@"


# ``edgekit agent status`` speaks to the service's agent wherever it is typed.
_PROGRAM = """#!{prefix}/bin/python3
import os
import sys

os.environ.setdefault("EDGEKIT_CONFIG", "/etc/edgekit/agent.toml")

from {module}.cli.main import main

sys.exit(main())
"""


def _make_environment(package: Package, target: Target, tree: Path) -> None:
    prefix = tree / package.prefix.lstrip("/")
    (prefix / "bin").mkdir(exist_ok=True)
    (prefix / "bin" / "python3").symlink_to(f"/usr/bin/python{target.release.python}")
    _write(prefix / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    for command in package.commands:
        module = command.replace("-", "_")
        _write(prefix / "bin" / command, _PROGRAM.format(prefix=package.prefix, module=module))
        (tree / "usr" / "bin").mkdir(parents=True)
        (tree / "usr" / "bin" / command).symlink_to(f"{package.prefix}/bin/{command}")
    if (files := HERE / package.name / "files").is_dir():
        shutil.copytree(files, tree, dirs_exist_ok=True)
    unit = ROOT / "packaging" / "systemd" / package.unit
    _write(tree / "usr" / "lib" / "systemd" / "system" / unit.name, unit.read_text("utf-8"))
    if configured := [path for path in sorted((tree / "etc").rglob("*")) if path.is_file()]:
        _write(tree / "DEBIAN" / "conffiles", "".join(f"/{path.relative_to(tree)}\n" for path in configured))


def _control(package: Package, target: Target) -> str:
    release = target.release
    depends = [f"python{release.python}", "libc6", "libstdc++6", "zlib1g", *package.depends]
    if package.is_runtime:
        depends.append(f"edgekit (= {release.version})")
    else:
        depends[:1] = [f"python3 (>= {release.python}~)", f"python3 (<< {release.next_python}~)"]
    recommends = "Recommends: edgekit-litert | edgekit-onnxruntime | edgekit-openvino\n" * (package is AGENT)
    description = "\n".join(f" {line}" for line in package.description.splitlines())
    return (
        f"Package: {package.name}\nVersion: {release.version}\nArchitecture: {target.arch}\n"
        f"Maintainer: {MAINTAINER}\nInstalled-Size: @INSTALLED_SIZE@\n"
        f"Depends: {', '.join(depends)}\n{recommends}"
        f"Section: misc\nPriority: optional\nDescription: {package.summary}\n{description}\n"
    )


def _document(
    package: Package, target: Target, components: list[dict[str, str]], site: Path, folder: Path
) -> None:
    """Write copyright, changelog, the agent's pages and the list of components."""
    rows = [f" {row['name']} {row['version']}: {row['license']}" for row in components]
    _write(
        folder / "copyright",
        "Copyright: 2026 the edgekit developers\n"
        "edgekit is licensed under the Apache License 2.0; on Debian systems its text is in\n"
        "/usr/share/common-licenses/Apache-2.0.\n\n"
        "This package carries these distributions; the texts of their licences are in\n"
        f"{package.prefix}/lib/python{target.release.python}/site-packages/*.dist-info.\n\n"
        + "\n".join(rows)
        + "\n",
    )
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), tz=timezone.utc)
    entry = f"{package.name} ({target.release.version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
    entry += f" -- {MAINTAINER}  {format_datetime(when)}\n"
    (folder / "changelog.Debian.gz").write_bytes(gzip.compress(entry.encode(), mtime=0))
    if package is AGENT:
        (folder / "changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
        pages = ROOT / "docs"
        for page in sorted((*pages.glob("*.md"), *pages.glob("hardware/*.md"))):
            _write(folder / page.relative_to(pages), page.read_text("utf-8"))
    write_bill(package.name, target.release.version, when, components, site, folder / "sbom.cdx.json")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
