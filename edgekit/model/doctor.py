"""Examines a machine: detects hardware, chooses its profile, proves each backend, and suggests fixes.

Detection is cheap and runs every time; proofs take seconds and are cached until something changes.
"""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.backends import LIBRARIES, backend_version
from edgekit.base.accelerators import Accelerator, accelerator, rows_for
from edgekit.base.install_hint import install_hint
from edgekit.base.kept import keep, read_kept
from edgekit.base.paths import cache_dir, profiles_dir
from edgekit.base.plugins import ACCELERATORS
from edgekit.core.spec import (
    AcceleratorFact,
    AcceleratorKind,
    BackendFact,
    BackendName,
    Facts,
    Level,
    Profile,
    ProfileBackend,
)
from edgekit.hardware.detect import detect
from edgekit.hardware.profiles import ChosenProfile, choose, load_profiles, named_kinds
from edgekit.hardware.sensors import Sensors
from edgekit.version import __version__

logger = logging.getLogger(__name__)

Prover = Callable[[BackendName, AcceleratorKind, Mapping[str, Any], float], BackendFact]

_CPU_PROOF_S, _ACCELERATOR_PROOF_S = 60.0, 180.0
_FAILURE_KEPT_S = 300.0
_BLOCKING = ("present", "driver", "permission")
_ASK_VERSION = """
import ctypes, sys
function = getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])
function.restype = ctypes.c_char_p
print(function().decode())
"""


@dataclass(frozen=True)
class Examination:
    """A machine's facts, its profile and why, and its sensor readings."""

    facts: Facts
    chosen: ChosenProfile
    sensors: dict[str, float | bool]


class _Proofs(msgspec.Struct, frozen=True):
    """Cached proofs, the digest of everything they depend on, and when they ran."""

    key: str
    proved_at_s: float
    backends: tuple[BackendFact, ...]
    library_versions: dict[str, str] = {}


_NONE, _LOSS = _Proofs("", 0.0, ()), "proofs run again"


def examine(
    root: Path = Path("/"),
    prover: Prover | None = None,
    on_step: Callable[[str], object] = lambda _: None,
) -> Examination:
    """Return a machine's facts with every backend proved anew, and cache the proofs.

    Args:
        root: ``/``, or a folder with another machine's files; its accelerators are not proved, while
            CPU backends are, on this machine.
        prover: Runs a tiny model; ``edgekit.backends.probe.prove`` by default.
        on_step: Called with what is being proved.

    Raises:
        ConfigError: A profile is not valid, or none fits.
    """
    facts, chosen = _detected(root)
    facts = _with_proofs(facts, chosen, root, _prove(facts, chosen.profile, root, prover, on_step))
    sensors = Sensors(root, chosen.profile.telemetry).read()
    warnings = (*facts.warnings, *_sensor_warnings(sensors, chosen.profile))
    return Examination(msgspec.structs.replace(facts, warnings=warnings), chosen, sensors)


def facts_with_proofs(root: Path = Path("/"), prover: Prover | None = None) -> tuple[Facts, ChosenProfile]:
    """Return a machine's facts, with cached proofs where they still hold.

    A proof holds until the next boot or until a runtime library, detection or the profile changes; a failed
    one is repeated after five minutes.

    Raises:
        ConfigError: A profile is not valid, or none fits.
    """
    facts, chosen = _detected(root)
    is_live, key = _is_live(root), _key(facts, chosen.profile, root)
    proofs = read_kept(_cache(), _Proofs, _NONE, _LOSS) if is_live else _NONE
    if proofs.key != key or _is_stale(proofs):
        proofs = _prove(facts, chosen.profile, root, prover)
    return _with_proofs(facts, chosen, root, proofs), chosen


def _detected(root: Path) -> tuple[Facts, ChosenProfile]:
    profiles = load_profiles((profiles_dir(),))
    facts = detect(root, rows_for(named_kinds(profiles)))
    return facts, choose(profiles, facts)


def _is_live(root: Path) -> bool:
    return root.resolve() == Path("/")


# -- proofs


def _prove(
    facts: Facts,
    profile: Profile,
    root: Path,
    prover: Prover | None,
    on_step: Callable[[str], object] = lambda _: None,
) -> _Proofs:
    """Prove every backend of the profile, and cache the proofs of this machine."""
    from edgekit.backends.probe import prove

    prover = prover or prove
    backends = []
    for row in profile.backend:
        refused = _not_proved(row, facts, profile, root)
        if refused is None:
            on_step(f"proving {row.name} on {row.accelerator}")
            limit_s = _CPU_PROOF_S if row.accelerator == "cpu" else _ACCELERATOR_PROOF_S
            backends.append(prover(row.name, row.accelerator, row.options, limit_s))
        elif refused:
            version = backend_version(row.name) or ""
            backends.append(
                BackendFact(name=row.name, version=version, accelerator=row.accelerator, reason=refused)
            )
    versions = _library_versions(facts) if _is_live(root) else {}
    proofs = _Proofs(_key(facts, profile, root), _boot_s(), tuple(backends), versions)
    if _is_live(root):
        keep(_cache(), proofs, _LOSS)
    return proofs


def _not_proved(row: ProfileBackend, facts: Facts, profile: Profile, root: Path) -> str | None:
    """Return why a backend is not tried: empty if it is not expected here, None if it is tried."""
    if row.accelerator == "cpu":
        return None
    known = accelerator(row.accelerator)
    if known is None:
        return (
            f"no row {row.accelerator!r} in the table of accelerators; "
            f"install the package that adds it (group {ACCELERATORS})"
        )
    devices = [a for a in facts.accelerators if a.kind == row.accelerator]
    if not devices and not known.is_found_by_proof:
        expected = any(a.kind == row.accelerator for a in profile.accelerator)
        return f"no {row.accelerator} was found" if expected else ""
    if devices and all(_blocked(device) for device in devices):
        return f"not proved: {devices[0].reason}"
    return None if _is_live(root) else "not proved: captured facts"


def _blocked(device: AcceleratorFact) -> bool:
    """Return whether an accelerator cannot be opened at all; a missing library is left to the proof."""
    return any(not level.ok and level.name in _BLOCKING for level in device.levels)


def _library_versions(facts: Facts) -> dict[str, str]:
    versions = {}
    for device in facts.accelerators:
        row = accelerator(device.kind)
        path = next((level.detail for level in device.levels if level.name == "library" and level.ok), "")
        if row is not None and row.version_function and path:
            versions[row.kind] = _library_version(row, path)
    return versions


def _library_version(row: Accelerator, path: str) -> str:
    command = [sys.executable, "-c", _ASK_VERSION, path, row.version_function]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as cause:
        logger.warning("the version of %s cannot be read: %s", path, cause)
        return ""
    match = re.search(row.version_pattern, answer.stdout.decode(errors="replace"))
    return match.group(1) if match else ""


def _with_proofs(facts: Facts, chosen: ChosenProfile, root: Path, proofs: _Proofs) -> Facts:
    """Return the facts with the last check of each accelerator, whether a backend ran on it, and warnings."""
    accelerators = tuple(_proved(a, proofs) for a in (*facts.accelerators, *_shown_by_proof(facts, proofs)))
    facts = msgspec.structs.replace(facts, accelerators=accelerators, backends=proofs.backends)
    return msgspec.structs.replace(facts, warnings=(*facts.warnings, *_warnings(facts, chosen, root)))


def _shown_by_proof(facts: Facts, proofs: _Proofs) -> list[AcceleratorFact]:
    """Return the accelerators that are on no bus but were opened by a backend."""
    seen = {device.kind for device in facts.accelerators}
    shown = dict.fromkeys(b.accelerator for b in proofs.backends if b.works and b.accelerator not in seen)
    rows = (accelerator(kind) for kind in shown)
    return [AcceleratorFact(kind=row.kind, name=row.title) for row in rows if row is not None]


def _proved(device: AcceleratorFact, proofs: _Proofs) -> AcceleratorFact:
    rows = [b for b in proofs.backends if b.accelerator == device.kind]
    tried = [b for b in rows if b.works or not b.reason.startswith("not proved")]
    attributes = device.attributes
    if version := proofs.library_versions.get(device.kind):
        row = accelerator(device.kind)
        attributes = {**attributes, row.versions.get("library", "library") if row else "library": version}
    if not tried or _blocked(device):
        return msgspec.structs.replace(device, attributes=attributes)
    works = [b for b in tried if b.works]
    if works:
        detail = f"{works[0].name}: {works[0].reason or 'ran a model'}"
    else:
        detail = f"{tried[0].name}: {tried[0].reason}"
    levels = (*device.levels, Level(name="proof", ok=bool(works), detail=detail))
    reason = "" if works else device.reason or detail
    return msgspec.structs.replace(
        device, usable=bool(works), reason=reason, attributes=attributes, levels=levels
    )


# -- warnings


def _warnings(facts: Facts, chosen: ChosenProfile, root: Path) -> list[str]:
    profile = chosen.profile
    warnings = [
        f"{backend.name} on {backend.accelerator} does not work: {backend.reason}"
        for backend in facts.backends
        if _is_surprising(backend, facts)
    ]
    if not any(backend.works for backend in facts.backends):
        warnings.append(_nothing_works(facts))
    rows = {row.accelerator for row in profile.backend}
    warnings += [
        f"{a.name} ({a.kind}) is here, and profile '{profile.id}' has no backend for it"
        for a in facts.accelerators
        if a.kind not in rows
    ]
    if chosen.tied:
        warnings.append(f"profile '{profile.id}' fits no better than {', '.join(map(repr, chosen.tied))}")
    if not _is_live(root):
        warnings.append(
            f"facts were read below {root}: CPU backends were proved on this machine, accelerators were not"
        )
    return warnings


def _nothing_works(facts: Facts) -> str:
    installed = [backend.name for backend in facts.backends if backend.version and backend.name in LIBRARIES]
    if not installed:
        return (
            f"no runtime library is installed, so nothing here can run a model; fix: {install_hint('litert')}"
        )
    names = ", ".join(dict.fromkeys(installed))
    return f"nothing here can run a model: {names} is installed and failed its proof, see the reasons"


def _is_surprising(backend: BackendFact, facts: Facts) -> bool:
    """Return whether a failed proof is not already explained by detection or a missing library."""
    if backend.works or backend.reason.startswith("not proved"):
        return False
    if backend.accelerator == "cpu":
        return bool(backend.version)
    return not any(b.works for b in facts.backends if b.accelerator == backend.accelerator)


def _sensor_warnings(sensors: Mapping[str, float | bool], profile: Profile) -> list[str]:
    warnings = []
    if sensors.get("under_voltage"):
        warnings.append("the supply voltage is too low; fix: use the board's own power supply and cable")
    if sensors.get("throttled"):
        warnings.append("the processor is throttled by heat or power; fix: cool the board")
    if sensors.get("throttled_since_boot") and not sensors.get("throttled"):
        warnings.append("the board was short of voltage, or slowed down, since it started")
    limit_c = profile.limits.temperature_c
    temperature_c = sensors.get("temperature_c", 0.0)
    if limit_c and temperature_c >= limit_c:
        warnings.append(
            f"{temperature_c:.1f} degrees, the profile's limit is {limit_c:.1f}; fix: cool the board"
        )
    return warnings


# -- the cache


def _cache() -> Path:
    return cache_dir() / "facts.json"


def _key(facts: Facts, profile: Profile, root: Path) -> str:
    parts = [
        __version__,
        sys.executable,
        sys.version,
        str(root),
        _boot_id(),
        {name: backend_version(name) for name in LIBRARIES},
        profile,
        facts.cpu_features,
        [(a.kind, a.name, a.usable, a.reason, a.attributes) for a in facts.accelerators],
    ]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_stale(proofs: _Proofs) -> bool:
    """Return whether a failed proof should be repeated; it may have timed out under load."""
    age_s = _boot_s() - proofs.proved_at_s
    has_failed = any(not backend.works for backend in proofs.backends)
    return age_s < 0 or (has_failed and age_s > _FAILURE_KEPT_S)
