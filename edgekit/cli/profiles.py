"""``edgekit profiles``: the known boards, or one of them in full."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from edgekit.base.accelerators import rows_for
from edgekit.base.command_line import Report
from edgekit.base.paths import profiles_dir
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import Profile
from edgekit.hardware.detect import detect
from edgekit.hardware.profiles import ChosenProfile, choose, load_profiles, named_kinds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("id", nargs="?", metavar="ID", help="show this profile in full")


def run(args: argparse.Namespace) -> Report:
    """List every profile, or show one; mark the one of this machine."""
    profiles = load_profiles((profiles_dir(),))
    try:
        chosen = choose(profiles, detect(rows=rows_for(named_kinds(profiles))))
    except ConfigError:  # no profile fits this machine; report that
        chosen = None
    here = chosen.profile.id if chosen else ""
    if args.id is None:
        return _list(profiles, here)
    profile = named(profiles, args.id)
    document = {**msgspec.to_builtins(profile), "this_machine": profile.id == here}
    return Report(document, _render(profile, chosen))


def named(profiles: tuple[Profile, ...], name: str) -> Profile:
    """Return the profile with an id.

    Raises:
        UsageError: There is none.
    """
    if (profile := next((p for p in profiles if p.id == name), None)) is not None:
        return profile
    known = ", ".join(sorted(p.id for p in profiles))
    raise UsageError(f"there is no profile {name!r}", hint=f"one of: {known}")


def _list(profiles: tuple[Profile, ...], here: str) -> Report:
    rows: list[dict[str, Any]] = [
        {
            "id": profile.id,
            "title": profile.title,
            "accelerators": [accelerator.kind for accelerator in profile.accelerator],
            "backends": [f"{backend.name}/{backend.accelerator}" for backend in profile.backend],
            "this_machine": profile.id == here,
        }
        for profile in profiles
    ]
    lines = [f"  {'id':<19}{'board':<43}accelerators"]
    for row in rows:
        mark = "*" if row["this_machine"] else " "
        lines.append(f"{mark} {row['id']:<19}{row['title']:<43}{', '.join(row['accelerators']) or 'cpu'}")
    lines += ["", f"* this machine: {here or 'no profile fits'}; 'edgekit profiles ID' shows one in full"]
    return Report({"profiles": rows, "this_machine": here}, "\n".join(lines))


def _render(profile: Profile, chosen: ChosenProfile | None) -> str:
    lines = [f"{profile.id}: {profile.title}"]
    if profile.notes:
        lines += [f"  {line}" for line in profile.notes.strip().splitlines()]
    rules = msgspec.to_builtins(profile.match)
    lines += ["", "match", *(f"  {key:<14}{_words(value)}" for key, value in rules.items() if value)]
    if profile.accelerator:
        lines += ["", "accelerators"]
        lines += [f"  {a.kind:<14}{a.name}; needs {a.needs or 'nothing'}" for a in profile.accelerator]
    lines += ["", "backends, in order of preference"]
    for rank, backend in enumerate(profile.backend, 1):
        lines.append(
            f"  {rank}. {backend.name:<13}{backend.accelerator:<14}{' '.join(backend.precisions) or 'any'}"
        )
        lines += [f"       {key} = {_words(value)}" for key, value in backend.options.items()]
    limits = {key: value for key, value in msgspec.to_builtins(profile.limits).items() if value}
    if limits:
        lines += ["", "limits", *(f"  {key:<14}{value:g}" for key, value in limits.items())]
    verdict = next((v for v in chosen.why if v.profile.id == profile.id), None) if chosen else None
    if chosen is not None and verdict is not None:
        lines += ["", f"this machine: {_fit(chosen, profile, verdict.fits, verdict.reason)}"]
    return "\n".join(lines)


def _fit(chosen: ChosenProfile, profile: Profile, fits: bool, reason: str) -> str:
    if chosen.profile.id == profile.id:
        return f"this is its profile, because {reason}"
    if fits:
        return f"fits ({reason}), and '{chosen.profile.id}' is more specific"
    return f"does not fit: {reason}"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
