"""Chooses the variant that this machine runs: selection with the machine's facts and measured costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.errors import ConfigError, NoVariantError
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
    pairs: Sequence[str] = (),
) -> tuple[Selection, Facts, Profile]:
    """Rank a bundle's variants for this machine, by measured costs where there are any.

    A variant that failed when measured here is rejected, unless it is named or is the only one left.

    Args:
        bundle: The model.
        variant: The only variant to consider.
        threads: Thread count of the measured costs to use; all cores but one by default.
        exclude: Variants not to choose, each with the reason.
        pairs: Accelerators or variant ids: their order goes before the ranking, and no other is chosen.
            Not used with ``variant``.

    Raises:
        NoVariantError: The bundle has no variant named ``variant``.
        ConfigError: The bundle has nothing that one of ``pairs`` names.
    """
    facts, chosen = facts_with_proofs(Path("/"))
    profile = chosen.profile
    excluded, ranks = dict(exclude or {}), _ranks(bundle, pairs)
    if variant is not None:
        known = [v.id for v in bundle.manifest.variants]
        if variant not in known:
            raise NoVariantError(
                f"{bundle.source} has no variant {variant!r}", hint=f"one of: {', '.join(known)}"
            )
        excluded |= {other: f"variant '{variant}' was asked for" for other in known if other != variant}
    elif pairs:
        excluded |= {
            v.id: "[fallback] pairs does not name it" for v in bundle.manifest.variants if v.id not in ranks
        }
    threads = threads or default_threads(facts)
    measured, failed = measured_here(bundle.manifest, threads), failed_here(bundle.manifest, threads)
    if failed and variant is None:
        selection = select(bundle.manifest, facts, profile, measured, exclude={**failed, **excluded})
        if selection.chosen is not None:
            return _ordered(selection, ranks), facts, profile
    selection = select(bundle.manifest, facts, profile, measured, exclude=excluded, named=variant)
    return _ordered(selection, ranks), facts, profile


def _ranks(bundle: Bundle, pairs: Sequence[str]) -> dict[str, int]:
    """Return the position in ``pairs`` of each variant: of its id, else of its accelerator."""
    variants = bundle.manifest.variants
    known = dict.fromkeys([*(v.id for v in variants), *(v.accelerator for v in variants)])
    if unknown := [pair for pair in pairs if pair not in known]:
        raise ConfigError(
            f"[fallback] pairs: {bundle.source} has no {', '.join(map(repr, unknown))}",
            hint=f"any of: {', '.join(known)}",
        )
    named = ((v.id, v.id if v.id in pairs else v.accelerator) for v in variants)
    return {name: pairs.index(pair) for name, pair in named if pair in pairs}


def _ordered(selection: Selection, ranks: Mapping[str, int]) -> Selection:
    if not ranks or not selection.candidates:
        return selection
    candidates = sorted(selection.candidates, key=lambda candidate: ranks.get(candidate.variant.id, 0))
    why = f"first that runs here of [fallback] pairs; among equals, {selection.why}"
    return msgspec.structs.replace(selection, candidates=tuple(candidates), why=why)


def backend_options(variant: Variant, profile: Profile, threads: int) -> dict[str, Any]:
    """Return a backend's options on this machine: the threads, and what the profile sets."""
    for row in profile.backend:
        if (row.name, row.accelerator) == (variant.backend, variant.accelerator):
            return {"threads": threads} | dict(row.options)
    return {"threads": threads}
