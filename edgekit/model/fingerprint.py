"""What a golden check depends on, kept in a small file: where it has changed, the check is made again."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edgekit.backends import backend_version
from edgekit.base.kept import keep, read_kept
from edgekit.base.paths import cache_dir
from edgekit.model.doctor import facts_with_proofs
from edgekit.model.ready import ReadyModel

MAX_KEPT = 64
_LOSS = "golden samples are checked again"


class Fingerprint(msgspec.Struct, frozen=True):
    """The device and its drivers (with the kernel and what detection reads), the runtime, and the model."""

    model: str
    runtime: str
    device: str
    drivers: dict[str, str]


def fingerprint_of(ready: ReadyModel) -> Fingerprint:
    """Return the fingerprint of an open model as it is now; takes about 50 ms.

    Raises:
        ConfigError: No device profile is valid.
    """
    variant, (facts, _) = ready.variant, facts_with_proofs(Path("/"))
    device = next((a for a in facts.accelerators if a.kind == variant.accelerator), None)
    return Fingerprint(
        f"{ready.bundle.digest} {variant.id}",
        f"{variant.backend} {backend_version(variant.backend) or ''}",
        f"{facts.board or facts.cpu}, {device.name if device else 'no ' + variant.accelerator}",
        {"kernel": os.uname().release, **(device.attributes if device else {})},
    )


def is_as_checked(fingerprint: Fingerprint) -> bool:
    """Return whether the last check of this variant was made with this fingerprint."""
    return _read().get(fingerprint.model) == fingerprint


def keep_checked(fingerprint: Fingerprint) -> None:
    """Note that the golden samples were right with this fingerprint."""
    if not is_as_checked(fingerprint):
        others = {name: kept for name, kept in _read().items() if name != fingerprint.model}
        keep(_path(), dict([*others.items(), (fingerprint.model, fingerprint)][-MAX_KEPT:]), _LOSS)


def _path() -> Path:
    return cache_dir() / "checked.json"


def _read() -> dict[str, Fingerprint]:
    return read_kept(_path(), dict[str, Fingerprint], {}, _LOSS)
