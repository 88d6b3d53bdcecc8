"""What a rollout shall do: which version, on which devices, in which waves, under which guards. Pure."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from edgekit.core.errors import UsageError
from edgekit.core.spec import DEVICE_ID, NAME, VERSION, Guards

MAX_WAVES = 50
MAX_SECONDS = 30 * 86_400
MAX_COUNT = 1_000_000_000
DEFAULT_GUARDS = Guards(error_ratio=0.02, p99_ratio=2.0)
_COUNT = re.compile(r"\d{1,9}")
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%")


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rollout as it was asked for.

    Args:
        model: Its name.
        version: A published version of it.
        waves: Each a number of devices, a share (``25%``), or device ids joined by ``+``. Numbers
            and shares count from the first device on: ``1,25%,100%`` is one device, then a quarter
            of all, then all.
        devices: Only these; empty for every device that runs the model.
        soak_s: How long each device tries the version, and how long the fleet watches a wave after
            its last device has committed, before the next wave begins.
        success_ratio: The share of a wave's devices that must have committed, failed ones left out.
        max_failures: Devices that may fail over all waves before the rollout halts.
        wave_timeout_s: A wave that is not done after this pauses the rollout.
        guards: ``error_ratio`` and ``p99_ratio`` are also judged by the fleet over all updated
            devices; each device applies all guards in its own trial. 0: guard off.
    """

    model: str
    version: str
    waves: tuple[str, ...] = ("1", "25%", "100%")
    devices: tuple[str, ...] = ()
    soak_s: int = 30
    success_ratio: float = 1.0
    max_failures: int = 0
    wave_timeout_s: int = 3600
    guards: Guards = DEFAULT_GUARDS

    @property
    def is_open_ended(self) -> bool:
        """Whether the last wave takes all devices, so that devices that enrol later join it."""
        return not self.devices and self.waves[-1] == "100%"


def make_spec(document: dict[str, Any]) -> Spec:
    """Return the rollout that a request describes; guards that it leaves out keep their defaults.

    Raises:
        UsageError: A field is unknown, missing, or out of range; ``reasons`` names each.
    """
    if isinstance(guards := document.get("guards", {}), dict):
        document = {**document, "guards": {**msgspec.structs.asdict(DEFAULT_GUARDS), **guards}}
    try:
        spec = msgspec.convert(document, type=Spec)
    except (msgspec.ValidationError, ValueError) as cause:
        raise UsageError(f"rollout: {cause}") from cause
    problems = [
        (not NAME.fullmatch(spec.model), f"model: {spec.model[:80]!r} is not a model's name"),
        (not VERSION.fullmatch(spec.version), f"version: {spec.version[:80]!r} is not MAJOR.MINOR.PATCH"),
        (not 1 <= len(spec.waves) <= MAX_WAVES, f"waves: want 1 to {MAX_WAVES}, got {len(spec.waves)}"),
        (not 0 <= spec.soak_s <= MAX_SECONDS, f"soak_s: want 0 to {MAX_SECONDS}, got {spec.soak_s}"),
        (
            not 0 < spec.success_ratio <= 1,
            f"success_ratio: want more than 0, at most 1, got {spec.success_ratio}",
        ),
        (
            not 0 <= spec.max_failures <= MAX_COUNT,
            f"max_failures: want 0 to {MAX_COUNT}, got {spec.max_failures}",
        ),
        (
            not 1 <= spec.wave_timeout_s <= MAX_SECONDS,
            f"wave_timeout_s: want 1 to {MAX_SECONDS}, got {spec.wave_timeout_s}",
        ),
        *(
            (not 0 <= value <= MAX_COUNT, f"guards.{name}: want 0 to {MAX_COUNT}, got {value}")
            for name, value in msgspec.structs.asdict(spec.guards).items()
        ),
        *(
            (not DEVICE_ID.fullmatch(device), f"devices: {device[:80]!r} is not a device's id")
            for device in spec.devices
        ),
        *((True, f"waves: {problem}") for wave in spec.waves if (problem := wave_problem(wave))),
        *((True, f"waves: {problem}") for problem in _falling(spec.waves)),
    ]
    wrong = tuple(text for is_wrong, text in problems if is_wrong)
    if wrong:
        raise UsageError("the rollout is not valid", reasons=wrong)
    return spec


def wave_problem(wave: str) -> str | None:
    """Return why a text is not a wave; None if it is a wave.

    >>> wave_problem("25%") is None
    True
    >>> wave_problem("120%")
    "'120%' is more than all"
    """
    if percent := _PERCENT.fullmatch(wave):
        share = float(percent.group(1))
        return None if 0 < share <= 100 else f"{wave!r} is {'nothing' if share == 0 else 'more than all'}"
    if _COUNT.fullmatch(wave):
        return None if int(wave) else "'0' is no device"
    if wave and all(DEVICE_ID.fullmatch(device) for device in _named(wave)):
        return None
    return f"{wave[:80]!r} is not a number, a share like 25%, or device ids joined by +"


def _falling(waves: Sequence[str]) -> list[str]:
    """Return what is wrong with the order of waves: they count from the first device on, so they rise.

    >>> _falling(("1", "50%", "10%", "100%"))
    ["'10%' takes no device after '50%': waves count from the first device on"]
    """
    problems: list[str] = []
    for pattern in (_PERCENT, _COUNT):
        sizes = [(float(wave.rstrip("%")), wave) for wave in waves if pattern.fullmatch(wave)]
        problems += [
            f"{wave!r} takes no device after {last!r}: waves count from the first device on"
            for (last_size, last), (size, wave) in itertools.pairwise(sizes)
            if size <= last_size
        ]
    return problems


def split_waves(text: str) -> tuple[str, ...]:
    """Return the waves of a command line.

    >>> split_waves("1, 25%,cam-1+cam-2")
    ('1', '25%', 'cam-1+cam-2')
    """
    return tuple(part.strip() for part in text.split(","))


def assign(waves: Sequence[str], candidates: Iterable[tuple[str, bool]], seed: str) -> dict[str, int]:
    """Return the wave of each device that takes part.

    The order is random but fixed by ``seed``, so that each rollout has another canary. Devices that
    are online come first, because an offline device gives no result.

    >>> assign(["b", "50%", "100%"], [("a", True), ("b", True), ("c", False), ("d", True)], "s")
    {'b': 0, 'd': 1, 'a': 2, 'c': 2}

    Args:
        waves: See ``Spec``.
        candidates: (device, whether it is online).
        seed: The rollout's id.
    """
    pool = sorted(candidates, key=lambda device: (not device[1], _rank(seed, device[0])))
    order = [device for device, _ in pool]
    waves_by_device: dict[str, int] = {}
    for number, wave in enumerate(waves):
        if _is_named(wave):
            waves_by_device.update(
                {
                    device: number
                    for device in _named(wave)
                    if device in order and device not in waves_by_device
                }
            )
            continue
        missing = _size(wave, len(order)) - len(waves_by_device)
        rest = [device for device in order if device not in waves_by_device]
        waves_by_device.update(dict.fromkeys(rest[: max(missing, 0)], number))
    return waves_by_device


def named_devices(waves: Iterable[str]) -> tuple[str, ...]:
    """Return the devices that waves name by id."""
    return tuple(device for wave in waves if _is_named(wave) for device in _named(wave))


def _is_named(wave: str) -> bool:
    return not (_PERCENT.fullmatch(wave) or _COUNT.fullmatch(wave))


def _named(wave: str) -> list[str]:
    return wave.removeprefix("+").split("+")


def _size(wave: str, total: int) -> int:
    if percent := _PERCENT.fullmatch(wave):
        return math.ceil(total * float(percent.group(1)) / 100)
    return int(wave)


def _rank(seed: str, device: str) -> bytes:
    return hashlib.sha256(f"{seed}/{device}".encode()).digest()
