"""Builds edgekit's Debian packages, for another architecture too: nothing of the target is run.

    python packaging/debian/build.py [--arch amd64] [--release trixie] [--wheels DIR] [--sign KEY] -o DIR

``edgekit`` has the agent with its own environment below /opt/edgekit and needs no network after it is
installed; ``edgekit-litert``, ``edgekit-onnxruntime`` and ``edgekit-openvino`` each add a runtime to that
environment, ``edgekit-rtsp`` the library for network cameras; ``edgekit-fleet`` is the fleet manager below
/opt/edgekit-fleet. The wheels are those that uv chooses for the target's architecture, C library and Python.
Each package is for one release, because compiled modules are for one minor version of Python. Two builds of
the same wheels give the same bytes: times are those of ``SOURCE_DATE_EPOCH``, or of the last commit.
Beside each package stands the list of its components (CycloneDX), models included.
``SHA256SUMS`` lists both; ``--sign`` writes its signature by a key of gpg beside it,
which ``install.sh --keyring`` checks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from deb import write_deb, write_sums
from environment import Target, fill, resolve
from packages import AGENT, FLEET, RELEASES, RUNTIMES, Package, describe

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Build what the command line asks for, and print the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    parser.add_argument("--release", choices=sorted(RELEASES), default="trixie")
    parser.add_argument("--wheels", type=Path, help="the three built wheels; default: build them")
    parser.add_argument("--only", default="", help="comma-separated packages; default: all")
    parser.add_argument("--sign", metavar="KEY", help="sign SHA256SUMS with this key of gpg's")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ.setdefault("SOURCE_DATE_EPOCH", _last_commit_s())
    target = Target(RELEASES[arguments.release], arguments.arch)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheels = arguments.wheels or _build_wheels(Path(scratch) / "wheels")
        wanted = set(filter(None, arguments.only.split(",")))
        for package, pins in _plan(target, wheels):
            if not wanted or package.name in wanted:
                tree = Path(scratch) / package.name
                fill(target, pins, tree / package.prefix.lstrip("/"))
                describe(package, target, tree)
                print(write_deb(package, target, tree, arguments.out))
    print(write_sums(arguments.out, arguments.sign))
    return 0


def _plan(target: Target, wheels: Path) -> list[tuple[Package, dict[str, str]]]:
    """Return each package with the distributions (name to requirement) that it carries.

    A distribution that two packages of one environment need is in the one that both depend on.
    """
    everything = resolve(target, wheels, [AGENT, *RUNTIMES])
    closures = {package: resolve(target, wheels, [AGENT, package], everything) for package in RUNTIMES}
    base = resolve(target, wheels, [AGENT], everything)
    for name, requirement in everything.items():
        if sum(name in closure for closure in closures.values()) > 1:
            base[name] = requirement
    plan = [(AGENT, base)]
    for package, closure in closures.items():
        plan.append((package, {name: row for name, row in closure.items() if name not in base}))
    return [*plan, (FLEET, resolve(target, wheels, [FLEET]))]


def _build_wheels(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(ROOT), str(ROOT / "fleet")], check=True, stdout=sys.stderr)
    return folder


def _last_commit_s() -> str:
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
