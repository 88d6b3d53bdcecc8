"""Which devices of a rollout cannot run its version, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edgekit.core import wire
from edgekit.core.select import reasons_against
from edgekit.core.spec import Manifest, Profile

_NAMED = 5


def unfit(manifest: Manifest, births: Mapping[str, wire.Birth | None]) -> dict[str, str]:
    """Return why no variant runs on a device, by device; those that may run it are left out.

    The device itself decides with the same rules, its own profile's included, which the fleet does not
    know. Free memory changes, so that only the whole memory counts here.

    Args:
        manifest: The version's; without variants nothing is known.
        births: What each device said of its hardware; None, or without backends, where it said nothing.
    """
    reasons: dict[str, str] = {}
    for device, birth in births.items():
        if not is_described(birth) or not manifest.variants:
            continue
        assert birth is not None
        assert birth.hardware is not None
        facts = msgspec.structs.replace(birth.hardware, backends=birth.backends, memory_free_mb=0)
        profile = Profile(id=birth.profile, title="")
        against = {variant.id: reasons_against(variant, facts, profile) for variant in manifest.variants}
        if all(against.values()):
            reasons[device] = "; ".join(f"{variant}: {why[0]}" for variant, why in against.items())
    return reasons


def is_described(birth: wire.Birth | None) -> bool:
    """Say whether a device said enough of its hardware to judge what it can run."""
    return birth is not None and birth.hardware is not None and bool(birth.backends)


def listed(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Return the first few devices with their reasons, and how many more there are."""
    lines = [f"{device}: {why}" for device, why in list(reasons.items())[:_NAMED]]
    more = [f"and {len(reasons) - _NAMED} more"] if len(reasons) > _NAMED else []
    return (*lines, *more)
