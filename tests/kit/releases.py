"""Releases of the agent made of this checkout: real wheels, and an installation that has nothing else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from edgekit.update.release import Base, Release
from edgekit.update.unpack import _fill

ROOT = Path(__file__).parents[2]
_METADATA = """Metadata-Version: 2.4
Name: edgekit-runtime
Version: {version}
License-Expression: Apache-2.0
Requires-Python: >=3.10
Requires-Dist: msgspec>={msgspec}
Requires-Dist: paho-mqtt>=2.1
Requires-Dist: tomli>=2.0; python_version < '3.11'
Requires-Dist: numpy>=1.23; extra == 'litert'
"""


def agent_wheel(
    folder: Path, version: str, *, changes: dict[str, str] | None = None, msgspec: str = "0.19"
) -> Path:
    """Write a wheel of this checkout's agent under another version, with text appended to some modules."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"edgekit_runtime-{version}-py3-none-any.whl"
    about = f"edgekit_runtime-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in sorted((ROOT / "edgekit").rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and "__pycache__" not in name and name != "edgekit/version.py":
                wheel.writestr(name, file.read_bytes() + (changes or {}).get(name, "").encode())
        for file in sorted((ROOT / "device_profiles").glob("*.toml")):
            wheel.write(file, f"edgekit/_data/device_profiles/{file.name}")
        wheel.writestr("edgekit/version.py", f'__version__ = "{version}"\n')
        wheel.writestr(f"{about}/METADATA", _METADATA.format(version=version, msgspec=msgspec))
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return path


def installation(folder: Path, wheel: Path, paths: list[str]) -> Path:
    """Unpack a wheel into an environment as the Debian package has one; return its interpreter."""
    _fill(folder, Release("0.1.0", "", Base("", "0.1.0", "", tuple(paths))), [wheel])
    return folder / "bin" / "python3"


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without what points Python at this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
