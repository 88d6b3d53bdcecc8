"""Builds the three wheels and imports every module of the device's in clean environments.

With the base install alone, everything that the supervisor needs must import; with NumPy added,
everything must. Fleet, compression kit and every extra are absent in both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDS_NUMPY = ("edgekit.backends", "edgekit.pipeline", "edgekit.serve")
_IMPORT_ALL = """
import importlib, pkgutil, sys
import edgekit
skip = tuple(sys.argv[1].split(",")) if sys.argv[1] else ()
count = 0
for found in pkgutil.walk_packages(edgekit.__path__, "edgekit."):
    name = found.name
    if name.startswith(skip) if skip else False:
        continue
    if ".tenants" in name or "._data" in name or name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as cause:
        if cause.name in sys.argv[2].split(","):
            continue
        raise
    count += 1
from edgekit.hardware.profiles import load_profiles
assert load_profiles(), "no device profile in the wheel"
print(f"{count} modules import")
"""


def main() -> int:
    """Build, install, import; exit code 1 with the reason where something fails."""
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        for project in (ROOT, ROOT / "optimize", ROOT / "fleet"):
            _run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(project)])
        device = next(wheels.glob("edgekit_runtime-*.whl"))
        for name in ("edgekit_fleet", "edgekit_optimize"):
            next(wheels.glob(f"{name}-*.whl"))
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        _run([python, "-m", "pip", "install", "-q", str(device)])
        without = "numpy,cryptography,tuf,securesystemslib"
        print("base install:", _run([python, "-c", _IMPORT_ALL, ",".join(NEEDS_NUMPY), without]).strip())
        _run([python, "-m", "pip", "install", "-q", "numpy"])
        print(
            "with NumPy:",
            _run([python, "-c", _IMPORT_ALL, "", "cryptography,tuf,securesystemslib"]).strip(),
        )
    return 0


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
