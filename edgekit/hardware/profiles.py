"""Loads device profiles (TOML files), and chooses the one that fits a machine best, with the reason.

Of those whose every rule holds, the winner uses more of the machine's accelerators or, if equal, has the
more specific rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.core.errors import ConfigError
from edgekit.core.spec import NAME, Facts, Profile, ProfileBackend
from edgekit.core.structure import decode_toml

if TYPE_CHECKING:
    from importlib.abc import Traversable

# How specific a rule is: a board's name more than what is plugged in, that more than the processor.
_WEIGHTS = {
    "board": 32,
    "usb": 16,
    "pci": 16,
    "nodes": 16,
    "dmi": 8,
    "cpu": 4,
    "cpu_features": 4,
    "memory_mb": 2,
    "arch": 1,
}


@dataclass(frozen=True)
class Rule:
    """One rule of a profile, checked on a machine."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """Whether a profile fits a machine, by which rules, and how well.

    ``specificity``, the greater wins: of how many of the machine's kinds of accelerator the profile has a
    backend for, and the weight of its rules.
    """

    profile: Profile
    rules: tuple[Rule, ...]
    specificity: tuple[int, int]

    @property
    def fits(self) -> bool:
        """Whether every rule holds."""
        return all(rule.holds for rule in self.rules)

    @property
    def reason(self) -> str:
        """The rules that hold, or the first that does not."""
        broken = next((rule for rule in self.rules if not rule.holds), None)
        if broken is not None:
            return f"{broken.name}: {broken.detail}"
        return "; ".join(f"{rule.name} {rule.detail}" for rule in self.rules) or "fits anything"


@dataclass(frozen=True)
class ChosenProfile:
    """The profile that fits best, and the verdict on every one, the best first.

    ``tied``: ids of others that fit exactly as well; the first by id wins.
    """

    profile: Profile
    why: tuple[Verdict, ...]
    tied: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why this one, in a line."""
        return self.why[0].reason


def load_profiles(extra: Sequence[Path] = ()) -> tuple[Profile, ...]:
    """Return every installed profile, sorted by id.

    Args:
        extra: Folders with more profiles; one there replaces an installed one of the same id.

    Raises:
        ConfigError: There is no folder of profiles, or a file is not valid; ``reasons`` has every
            ``file:key: want, got``.
    """
    profiles: dict[str, Profile] = {}
    problems: list[str] = []
    for folder in (_shipped(), *(path for path in extra if path.is_dir())):
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".toml"):
                profile, wrong = _load(file)
                problems += wrong
                if profile is not None:
                    profiles[profile.id] = profile
    if problems:
        raise ConfigError(
            "device profiles are not valid",
            reasons=tuple(problems),
            hint="see docs/hardware.md for every key",
        )
    return tuple(profiles[key] for key in sorted(profiles))


def _shipped() -> Traversable:
    """Return the folder of profiles in the installed package or beside a source checkout."""
    from importlib.resources import files

    package = files("edgekit")
    installed = package / "_data" / "device_profiles"
    if installed.is_dir():
        return installed
    checkout = Path(str(package)).parent / "device_profiles"
    if checkout.is_dir():
        return checkout
    raise ConfigError(
        f"no device profiles, neither in {installed} nor in {checkout}", hint="install edgekit-runtime again"
    )


def named_kinds(profiles: Iterable[Profile]) -> set[str]:
    """Return the kinds of accelerator for which profiles have a backend."""
    return {row.accelerator for profile in profiles for row in profile.backend}


def _load(file: Traversable) -> tuple[Profile | None, list[str]]:
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        return None, [f"{file.name}: {cause}"]
    try:
        profile = decode_toml(text, Profile, file.name)
    except ConfigError as error:
        return None, list(error.reasons or (error.message,))
    backends = tuple(_at_home(backend) for backend in profile.backend)
    problems = [f"{file.name}:{problem}" for problem in _problems(profile, file.name)]
    return msgspec.structs.replace(profile, backend=backends), problems


def _at_home(backend: ProfileBackend) -> ProfileBackend:
    """Return a backend with the ``~`` of its cache folder expanded to this user's home."""
    cache = backend.options.get("cache")
    if not isinstance(cache, str) or not cache.startswith("~"):
        return backend
    try:
        folder = str(Path(cache).expanduser())
    except RuntimeError:  # a service's user may have no home
        folder = cache.replace("~/.cache", "/var/cache", 1)
    return msgspec.structs.replace(backend, options={**backend.options, "cache": folder})


def _problems(profile: Profile, file_name: str) -> list[str]:
    problems = []
    if not NAME.fullmatch(profile.id) or f"{profile.id}.toml" != file_name:
        problems.append(f"id: want the file's name without .toml, got {profile.id!r}")
    pairs = [(backend.name, backend.accelerator) for backend in profile.backend]
    problems += [
        f"backend: '{name}' on '{accelerator}' appears twice"
        for name, accelerator in sorted({pair for pair in pairs if pairs.count(pair) > 1})
    ]
    if not any(accelerator == "cpu" for _, accelerator in pairs):
        problems.append("backend: want at least one on 'cpu', to fall back to")
    if not profile.match.arch:
        problems.append("match.arch: missing")
    bounds = profile.match.memory_mb
    if bounds is not None and bounds[0] > bounds[1]:
        problems.append(f"match.memory_mb: want [least, most], got {list(bounds)}")
    known = {"cpu", *(accelerator.kind for accelerator in profile.accelerator)}
    problems += [
        f"accelerator: no backend for '{kind}'" for kind in sorted(known - {pair[1] for pair in pairs})
    ]
    return problems


def choose(profiles: Iterable[Profile], facts: Facts) -> ChosenProfile:
    """Return the profile that fits a machine best, with the verdict on each.

    Raises:
        ConfigError: None fits; ``reasons`` has one line for each profile.
    """
    verdicts = sorted((judge(profile, facts) for profile in profiles), key=lambda v: v.profile.id)
    verdicts.sort(key=lambda v: (v.fits, v.specificity), reverse=True)
    if not verdicts or not verdicts[0].fits:
        raise ConfigError(
            f"no device profile fits this machine ({facts.board or facts.cpu or 'unknown'}, {facts.arch})",
            reasons=tuple(f"{v.profile.id}: {v.reason}" for v in verdicts),
            hint="edgekit runs on 64-bit ARM and x86; a board is added with one TOML, see docs/hardware.md",
        )
    best = verdicts[0]
    tied = tuple(v.profile.id for v in verdicts[1:] if v.fits and v.specificity == best.specificity)
    return ChosenProfile(best.profile, tuple(verdicts), tied)


def judge(profile: Profile, facts: Facts) -> Verdict:
    """Return whether one profile's rules hold on a machine."""
    match = profile.match
    globs = {
        "board": ((*match.compatible, *match.model), (facts.board, *facts.compatible)),
        "usb": (match.usb, facts.usb),
        "pci": (match.pci, facts.pci),
        "nodes": (match.nodes, facts.nodes),
        "cpu": (match.cpu, (facts.cpu,)),
        "cpu_features": (match.cpu_features, facts.cpu_features),
        "arch": (match.arch, (facts.arch,)),
    }
    globs |= {f"dmi.{key}": ((pattern,), (facts.dmi.get(key, ""),)) for key, pattern in match.dmi.items()}
    rules = [_glob_rule(name, *both) for name, both in globs.items() if both[0]]
    if match.memory_mb is not None:
        least, most = match.memory_mb
        holds = least <= facts.memory_mb <= most
        rules.append(Rule("memory_mb", holds, f"{facts.memory_mb}, wanted {least} to {most}"))
    present = {accelerator.kind for accelerator in facts.accelerators} - {"cpu"}
    used = present & {backend.accelerator for backend in profile.backend}
    weight = sum(_WEIGHTS[rule.name.partition(".")[0]] for rule in rules)
    return Verdict(profile, tuple(rules), (len(used), weight))


def _glob_rule(name: str, patterns: tuple[str, ...], values: tuple[str, ...]) -> Rule:
    hit = next((v for p in patterns for v in values if v and fnmatchcase(v, p)), None)
    if hit is not None:
        return Rule(name, holds=True, detail=hit)
    got = ", ".join(v for v in values[:4] if v) or "none"
    return Rule(name, holds=False, detail=f"want {' or '.join(patterns)}, found {got}")
