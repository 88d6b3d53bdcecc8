"""Makes a bundle of wheels: a release of the agent, one variant for each platform that the wheels are for."""

from __future__ import annotations

import email.parser
import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import msgspec

from edgekit.core.errors import BundleError
from edgekit.core.release import Lock
from edgekit.core.spec import AGENT, Manifest, Requires, Variant, VariantFile

_DISTRIBUTION = "edgekit-runtime"
_WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-[^-]+-(?P<platform>[^-]+)\.whl"
)
_NEED = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(;.*)?")
_MACHINE = re.compile(r"(x86_64|aarch64)$")
_COMPATIBLE = re.compile(r"~=\s*(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Wheel:
    """One wheel: what it holds, and the machine and Python that it is for; "" for any."""

    path: Path
    data: bytes
    name: str
    metadata: Message
    machine: str
    python: str

    @property
    def file(self) -> VariantFile:
        """Its entry in the manifest."""
        digest = hashlib.sha256(self.data).hexdigest()
        return VariantFile(path=f"wheels/{self.path.name}", bytes=len(self.data), sha256=digest)


def read_wheel(path: Path) -> Wheel:
    """Read a wheel.

    Raises:
        BundleError: It is not a wheel, or for a system that is not Linux on 64 bits.
    """
    named = _WHEEL.fullmatch(path.name)
    if named is None:
        raise BundleError(f"{path.name} is not a wheel's name")
    machine = _MACHINE.search(named["platform"])
    if named["platform"] != "any" and (machine is None or "linux" not in named["platform"]):
        raise BundleError(f"{path.name} is for {named['platform']}, want any or Linux on x86_64 or aarch64")
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.parser.Parser().parsestr(archive.read(about).decode(), headersonly=True)
    except (OSError, StopIteration, zipfile.BadZipFile) as cause:
        raise BundleError(f"{path} is not a wheel: {cause}") from cause
    python = named["python"] if machine and named["python"].startswith("cp") else ""
    return Wheel(path, data, str(metadata["Name"]), metadata, machine[1] if machine else "", python)


def make_release(wheels: Sequence[Wheel], pairs: Mapping[str, str], created: str = "") -> Manifest:
    """Return the manifest of a release; its version is that of the agent's wheel.

    Wheels for any machine go into every variant. What they need and the release does not carry becomes the
    version lock; requirements with a marker (extras, other Pythons) are left to the installation.

    Raises:
        BundleError: The agent's own wheel is missing, or a requirement cannot be stated as conditions.
    """
    own = [wheel for wheel in wheels if _normal(wheel.name) == _DISTRIBUTION]
    if len(own) != 1:
        raise BundleError(f"want one wheel of {_DISTRIBUTION}, got {len(own)}", hint="pip wheel --no-deps .")
    shared = [wheel for wheel in wheels if not wheel.machine]
    targets = sorted({(wheel.machine, wheel.python) for wheel in wheels if wheel.machine})
    # A wheel of the stable interface goes with those of one Python.
    exact = [target for target in targets if target[1]] or targets or [("", "")]
    variants = []
    for machine, python in exact:
        fitting = [w for w in wheels if w.machine == machine and w.python in ("", python) and w not in shared]
        variants.append(_variant([*shared, *fitting], machine, python, pairs))
    return Manifest(
        format=1,
        model=AGENT,
        version=str(own[0].metadata["Version"]),
        task=AGENT,
        license=str(own[0].metadata.get("License-Expression", "")),
        created=created,
        inputs=(),
        outputs=(),
        variants=tuple(variants),
    )


def _variant(wheels: Sequence[Wheel], machine: str, python: str, pairs: Mapping[str, str]) -> Variant:
    carried = {_normal(wheel.name) for wheel in wheels}
    needs: dict[str, str] = {}
    for wheel in wheels:
        for line in wheel.metadata.get_all("Requires-Dist", []):
            name, condition = _need(line)
            if name and name not in carried:
                needs[name] = ", ".join(filter(None, (needs.get(name, ""), condition)))
    lock = Lock(python=_python(wheels, python), needs=needs, pairs=dict(pairs))
    return Variant(
        id="-".join(filter(None, (machine.replace("_", "-"), python))) or "any",
        backend=AGENT,
        files=tuple(wheel.file for wheel in wheels),
        requires=Requires(arch=(machine,) if machine else ()),
        options=msgspec.to_builtins(lock),
    )


def _need(line: str) -> tuple[str, str]:
    """Return a requirement's name and conditions; "" where it has a marker.

    >>> _need("msgspec>=0.19"), _need("tomli>=2.0; python_version < '3.11'"), _need("av~=14.1")
    (('msgspec', '>=0.19'), ('', ''), ('av', '>=14.1, <15'))
    """
    match = _NEED.fullmatch(line.strip())
    if match is None or "!=" in match[2] or "===" in match[2]:
        raise BundleError(f"the requirement {line!r} cannot be stated as conditions on a version")
    if match[3]:
        return "", ""
    conditions = _COMPATIBLE.sub(_both_bounds, match[2]).split(",")
    return _normal(match[1]), ", ".join(filter(None, map(str.strip, conditions)))


def _both_bounds(compatible: re.Match[str]) -> str:
    """Return PEP 440's ``~=`` as two conditions."""
    *upper, _ = compatible[1].split(".")
    return f">={compatible[1]}, <{'.'.join([*upper[:-1], str(int(upper[-1]) + 1)])}"


def _python(wheels: Sequence[Wheel], tag: str) -> str:
    conditions = sorted({str(w.metadata["Requires-Python"]) for w in wheels if w.metadata["Requires-Python"]})
    conditions = [condition for condition in conditions if "!=" not in condition and "~=" not in condition]
    if exact := re.fullmatch(r"cp(\d)(\d+)", tag):
        conditions += [f">={exact[1]}.{exact[2]}", f"<{exact[1]}.{int(exact[2]) + 1}"]
    return ", ".join(conditions)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
