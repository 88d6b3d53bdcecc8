"""A registry without a network: real pip, real wheels, made here."""

import hashlib
import zipfile

import pytest

from edgekit.optimize.fetch import Package


class LocalRegistry:
    """A folder of wheels that pip takes for everything it knows."""

    def __init__(self, folder):
        self.folder = folder

    def publish(self, name, member, data, version="1.0"):
        """Put a wheel with one file there; return the pin for that file."""
        module = name.replace("-", "_")
        path = self.folder / f"{module}-{version}-py3-none-any.whl"
        info = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(member, data)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return Package(
            registry="pypi",
            name=name,
            version=version,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            member=member,
            member_sha256=hashlib.sha256(data).hexdigest(),
        )


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return LocalRegistry(folder)
