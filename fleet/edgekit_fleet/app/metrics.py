"""The fleet's metrics for Prometheus: devices, models, versions, rollouts, and the fleet manager itself.

The number of series is bounded, whatever devices send: no series is about one device, and of models,
versions, profiles and rollouts the largest or newest have one of their own and the rest share ``other``.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from edgekit_fleet import __version__
from edgekit_fleet.app.services import Services
from edgekit_fleet.store.overview import Overview
from edgekit_fleet.web.throttle import Throttle

MAX_SERIES = 200
"""Of each metric whose labels come from devices or people."""
_MAX_LABEL = 100
_OTHER = "other"

Key = TypeVar("Key", bound="tuple[str, ...]")
Family = tuple[str, str, str, Mapping[str, float]]
"""Name, kind, what it means, and the value by the text of its labels."""


def render(parts: Services, throttle: Throttle) -> str:
    """Return the metrics' text.

    Source: Prometheus, "Exposition formats", text format 0.0.4.
    """
    families = (*_devices(parts), *_rollouts(parts), *_messages(parts), *_itself(parts, throttle))
    lines: list[str] = []
    for name, kind, text, values in families:
        lines += [f"# HELP edgekit_fleet_{name} {text}", f"# TYPE edgekit_fleet_{name} {kind}"]
        lines += [f"edgekit_fleet_{name}{label} {value:.15g}" for label, value in values.items()]
    return "\n".join(lines) + "\n"


def _devices(parts: Services) -> Iterable[Family]:
    overview = Overview(parts.database)
    rates = parts.rates.by_version()
    names = ("model", "version")
    yield "devices", "gauge", "Devices by state.", _by("state", parts.devices.counts())
    profiles = {(name,): count for name, count in overview.profiles().items()}
    yield "devices_by_profile", "gauge", "Devices by board.", _bounded(("profile",), profiles)
    running = _bounded(names, overview.running())
    yield "devices_running", "gauge", "Devices that run a version of a model.", running
    frames = {key: rate.frames for key, rate in rates.items()}
    yield "frames_per_second", "gauge", "Frames a second over the last two minutes.", _bounded(names, frames)
    errors = {key: rate.errors for key, rate in rates.items()}
    yield "errors_per_second", "gauge", "Failed frames a second.", _bounded(names, errors)
    dropped = {key: rate.dropped for key, rate in rates.items()}
    yield "dropped_per_second", "gauge", "Dropped frames a second.", _bounded(names, dropped)
    yield (
        "device_certificates",
        "gauge",
        "Devices whose certificate ends within three weeks, or has ended.",
        _by("state", parts.certificates.devices()),
    )


def _rollouts(parts: Services) -> Iterable[Family]:
    rows = parts.rollouts.engine.store.rows
    yield "rollouts", "gauge", "Rollouts by state.", _by("state", rows.counts())
    labels = ("rollout", "model", "version", "outcome")
    outcomes = _bounded(labels, rows.outcomes())
    yield "rollout_devices", "gauge", "Devices of the rollouts that are not over, by outcome.", outcomes


def _messages(parts: Services) -> Iterable[Family]:
    state = parts.health()
    yield "rows", "gauge", "Rows stored, by table.", _by("table", parts.messages.counts())
    yield "ingest_total", "counter", "What ingest counted.", _by("what", state.counters)
    yield "ingest_up", "gauge", "Whether messages are being stored.", {"": state.is_ingesting}
    yield "broker_up", "gauge", "Whether the broker is connected.", {"": state.is_connected}
    restarts = {"": state.broker_restarts}
    yield "broker_restarts_total", "counter", "Restarts of the embedded broker.", restarts


def _itself(parts: Services, throttle: Throttle) -> Iterable[Family]:
    data = parts.settings.data
    refused = _by("kind", throttle.refused)
    yield "refused_secrets_total", "counter", "Wrong tokens, sign-ins and enrolments.", refused
    yield (
        "delayed_attempts_total",
        "counter",
        "Attempts that were not looked at, because their address had to wait.",
        {"": throttle.delayed},
    )
    yield "audit_entries", "gauge", "Entries of the audit log.", {"": parts.audit.count()}
    ends = {name: end // 1000 for name, end in parts.certificates.ends_ms().items()}
    yield (
        "certificate_end_seconds",
        "gauge",
        "When a certificate of the fleet ends, Unix time.",
        {_labels(of=name): end for name, end in ends.items()},
    )
    yield "live_watchers", "gauge", "Pages and clients that follow changes.", {"": parts.bus.watchers}
    yield "live_lost_total", "counter", "Changes that slow watchers did not get.", {"": parts.bus.lost}
    yield "disk_free_bytes", "gauge", "Free space below the data folder.", {"": shutil.disk_usage(data).free}
    yield "database_bytes", "gauge", "Size of the database's files.", {"": _size_of(parts.database.path)}
    yield "resident_bytes", "gauge", "Memory of this process.", {"": _resident_bytes()}
    yield (
        "open_files",
        "gauge",
        "Open files and connections.",
        {"": sum(1 for _ in Path("/proc/self/fd").iterdir())},
    )
    yield "build_info", "gauge", "The version that runs.", {_labels(version=__version__): 1}


def _by(label: str, values: Mapping[str, float]) -> dict[str, float]:
    return {_labels(**{label: key}): value for key, value in sorted(values.items())}


def _bounded(names: tuple[str, ...], values: Mapping[Key, float]) -> dict[str, float]:
    """Return the largest series, and the sum of the others as one.

    >>> _bounded(("model", "version"), {("a", "1.0.0"): 2})
    {'{model="a",version="1.0.0"}': 2}
    """
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    found = {_labels(**dict(zip(names, key, strict=True))): value for key, value in ranked[:MAX_SERIES]}
    if len(ranked) > MAX_SERIES:
        other = _labels(**dict.fromkeys(names, _OTHER))
        found[other] = found.get(other, 0) + sum(value for _, value in ranked[MAX_SERIES:])
    return found


def _labels(**pairs: str) -> str:
    def escaped(text: str) -> str:
        return text[:_MAX_LABEL].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in pairs.items()) + "}"


def _size_of(database: str) -> int:
    files = (Path(f"{database}{suffix}") for suffix in ("", "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
