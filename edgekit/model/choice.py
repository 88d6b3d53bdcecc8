"""Chooses the variant that this machine runs: selection with the machine's facts and measured costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core.errors import NoVariantError
from edgekit.core.select import Selection, select
from edgekit.core.spec import Facts, Profile, Variant
from edgekit.model.bundle import Bundle
from edgekit.model.costs import failed_here, measured_here
from edgekit.model.doctor import facts_with_proofs


def default_threads(facts: Facts) -> int:
    """Return a model's default number of threads: all cores but one, which capture and the link share."""
    return max(1, facts.cores - 1)


def choose(
    bundle: Bundle,
    *,
    variant: str | None = None,
    threads: int | None = None,
    exclude: Mapping[str, str] | None = None,
) -> tuple[Selection, Facts, Profile]:
    """Rank a bundle's variants for this machine, by measured costs where there are any.

    A variant that failed when measured here is rejected, unless it is named or is the only one left.

    Args:
        bundle: The model.
        variant: The only variant to consider.
        threads: Thread count of the measured costs to use; all cores but one by default.
        exclude: Variants not to choose, each with the reason.

    Raises:
        NoVariantError: The bundle has no variant named ``variant``.
    """
    facts, chosen = facts_with_proofs(Path("/"))
    profile = chosen.profile
    excluded = dict(exclude or {})
    if variant is not None:
        known = [v.id for v in bundle.manifest.variants]
        if variant not in known:
            raise NoVariantError(
                f"{bundle.source} has no variant {variant!r}", hint=f"one of: {', '.join(known)}"
            )
        excluded |= {other: f"variant '{variant}' was asked for" for other in known if other != variant}
    threads = threads or default_threads(facts)
    measured, failed = measured_here(bundle.manifest, threads), failed_here(bundle.manifest, threads)
    if failed and variant is None:
        selection = select(bundle.manifest, facts, profile, measured, exclude={**failed, **excluded})
        if selection.chosen is not None:
            return selection, facts, profile
    selection = select(bundle.manifest, facts, profile, measured, exclude=excluded, named=variant)
    return selection, facts, profile


def backend_options(variant: Variant, profile: Profile, threads: int) -> dict[str, Any]:
    """Return a backend's options on this machine: the threads, and what the profile sets."""
    for row in profile.backend:
        if (row.name, row.accelerator) == (variant.backend, variant.accelerator):
            return {"threads": threads} | dict(row.options)
    return {"threads": threads}
