"""Measured costs of each variant on this machine: written by ``edgekit bench``, read by selection."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from edgekit.backends import backend_version
from edgekit.base.files import write_durably
from edgekit.base.kept import read_kept
from edgekit.base.paths import cache_dir
from edgekit.core.spec import Manifest, Variant


class MeasuredCost(msgspec.Struct, frozen=True):
    """One measurement: milliseconds per inference (p50 of quiet rounds), the process's MB, and when."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    rss_mb: float
    unix_ms: int


class MeasuredFailure(msgspec.Struct, frozen=True):
    """Why and when a variant that belongs on this machine failed while it was measured."""

    error: str
    unix_ms: int


FAILURE_KEPT_MS = 24 * 3600 * 1000
"""A failure may be temporary (memory, heat): after this the variant may be chosen again."""


class _Costs(msgspec.Struct, frozen=True):
    costs: dict[str, MeasuredCost] = {}
    failures: dict[str, MeasuredFailure] = {}


def cost_key(variant: Variant, threads: int) -> str:
    """Return a measurement's key: a hash of files, options, the library's version, and threads."""
    parts = [file.sha256 for file in variant.files]
    parts += [variant.backend, backend_version(variant.backend) or "", variant.accelerator]
    parts += [variant.precision, str(threads), msgspec.json.encode(variant.options, order="sorted").decode()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_costs() -> dict[str, MeasuredCost]:
    """Return every measurement of this machine."""
    return _load().costs


def _load() -> _Costs:
    return read_kept(cache_dir() / "measured.json", _Costs, _Costs(), "run edgekit bench again")


def save_costs(
    costs: Mapping[str, MeasuredCost], failures: Mapping[str, MeasuredFailure] = MappingProxyType({})
) -> None:
    """Add measurements to this machine's, under a lock between processes.

    The latest result of a variant counts: a cost removes its failure, and a failure its cost.

    Raises:
        OSError: The cache folder cannot be written.
    """
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "costs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _load()
        merged = _Costs(
            {key: cost for key, cost in (known.costs | dict(costs)).items() if key not in failures},
            {key: failed for key, failed in (known.failures | dict(failures)).items() if key not in costs},
        )
        write_durably(folder / "measured.json", msgspec.json.encode(merged))


def measured_here(manifest: Manifest, threads: int) -> dict[str, float]:
    """Return the median milliseconds of each variant that was measured on this machine."""
    costs = load_costs()
    rows = ((variant.id, costs.get(cost_key(variant, threads))) for variant in manifest.variants)
    return {name: cost.p50_ms for name, cost in rows if cost is not None}


def failed_here(manifest: Manifest, threads: int) -> dict[str, str]:
    """Return the variants whose last measurement here failed, within a day, and why."""
    failures, now_ms = _load().failures, time.time() * 1e3
    rows = ((variant.id, failures.get(cost_key(variant, threads))) for variant in manifest.variants)
    return {
        name: f"failed when measured here: {failed.error}"
        for name, failed in rows
        if failed is not None and now_ms - failed.unix_ms < FAILURE_KEPT_MS
    }
