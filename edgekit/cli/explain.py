"""``edgekit explain``: which variant is chosen, and why the others are not."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edgekit.base.command_line import Report
from edgekit.base.paths import profiles_dir
from edgekit.cli.importing import conclusions_text
from edgekit.cli.profiles import named
from edgekit.core.errors import NoVariantError
from edgekit.core.select import Selection, select
from edgekit.core.spec import Profile
from edgekit.hardware.profiles import load_profiles
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import backend_options, choose, default_threads
from edgekit.model.costs import measured_here
from edgekit.model.doctor import facts_with_proofs
from edgekit.model.proof import prove
from edgekit.model.ready import VARIANT_ERRORS, why_excluded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("bundle", help="bundle folder, .ekb file, or model file")
    parser.add_argument("--profile", metavar="ID", help="judge by another profile's backends and order")
    parser.add_argument("--threads", type=int, help="threads that measured costs were taken with")


def run(arguments: argparse.Namespace) -> Report:
    """Select with this device's facts, and its own profile or the one named.

    With its own profile the chosen variant is tried in a child process; if it fails, the next one is.
    """
    bundle = open_bundle(arguments.bundle)
    if arguments.profile:
        facts, chosen = facts_with_proofs(Path("/"))
        profile = named(load_profiles((profiles_dir(),)), arguments.profile)
        # times measured on this board say nothing about another board
        is_own = profile.id == chosen.profile.id
        threads = arguments.threads or default_threads(facts)
        selection = select(
            bundle.manifest, facts, profile, measured_here(bundle.manifest, threads) if is_own else {}
        )
    else:
        selection, profile = _tried(bundle, arguments.threads)
    code = 0 if selection.chosen else NoVariantError.exit_code
    document = _document(selection, profile, bundle.manifest.model)
    origin = bundle.manifest.provenance
    lines = [_text(selection, profile)]
    if origin.conclusions:
        document["conclusions"] = msgspec.to_builtins(origin.conclusions)
        document["excluded"] = origin.excluded
        lines += [f"imported as {origin.family}:", *conclusions_text(origin.conclusions)]
        lines += [f"  left out {variant}: {why}" for variant, why in origin.excluded.items()]
    return Report(document, "\n".join(lines), code)


def _tried(bundle: Bundle, threads: int | None) -> tuple[Selection, Profile]:
    excluded: dict[str, str] = {}
    while True:
        selection, facts, profile = choose(bundle, threads=threads, exclude=excluded)
        variant = selection.chosen
        if variant is None:
            return selection, profile
        options = backend_options(variant, profile, threads or default_threads(facts))
        try:
            prove(bundle, variant, options)
        except VARIANT_ERRORS as error:
            excluded[variant.id] = why_excluded(error)
            continue
        return selection, profile


def _document(selection: Selection, profile: Profile, model: str) -> dict[str, object]:
    return {
        "model": model,
        "profile": profile.id,
        "chosen": selection.chosen.id if selection.chosen else None,
        "why": selection.why,
        "candidates": [
            {"id": c.variant.id, "p50_ms": c.p50_ms, "measured_by": c.measured_by}
            for c in selection.candidates
        ],
        "rejected": [{"id": r.variant, "reasons": list(r.reasons)} for r in selection.rejected],
    }


def _text(selection: Selection, profile: Profile) -> str:
    lines = [f"profile {profile.id}: {selection.why}"]
    for rank, candidate in enumerate(selection.candidates):
        cost = f"{candidate.p50_ms:.2f} ms ({candidate.measured_by})" if candidate.p50_ms else "not measured"
        lines.append(f"{'->' if rank == 0 else '  '} {candidate.variant.id:<28} {cost}")
    lines += [f" x {r.variant:<28} {'; '.join(r.reasons)}" for r in selection.rejected]
    return "\n".join(lines)
