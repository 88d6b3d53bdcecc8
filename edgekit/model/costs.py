"""What each variant cost on this very machine, measured by ``edgekit bench``; selection reads it."""

from __future__ import annotations

import fcntl
import hashlib
import logging

import msgspec

from edgekit.backends import backend_version
from edgekit.base.files import write_durably
from edgekit.base.paths import cache_dir
from edgekit.core.spec import Manifest, Variant

logger = logging.getLogger(__name__)


class MeasuredCost(msgspec.Struct, frozen=True):
    """One measurement: milliseconds for one inference, process memory, when; p50 is of quiet rounds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    rss_mb: float
    unix_ms: int


def cost_key(variant: Variant, threads: int) -> str:
    """Return what a measurement belongs to: these files, in this library's version, with these threads."""
    parts = [file.sha256 for file in variant.files]
    parts += [variant.backend, backend_version(variant.backend) or "", variant.accelerator]
    parts += [variant.precision, str(threads)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_costs() -> dict[str, MeasuredCost]:
    """Return every measurement of this machine; empty where none was made or the file is damaged."""
    path = cache_dir() / "costs.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, MeasuredCost])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as cause:
        logger.warning("measured costs in %s are not used: %s; run edgekit bench again", path, cause)
        return {}


def save_costs(new: dict[str, MeasuredCost]) -> None:
    """Add measurements to this machine's; processes that do so at once wait for one another.

    Raises:
        OSError: The cache folder cannot be written.
    """
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "costs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_durably(folder / "costs.json", msgspec.json.encode(load_costs() | new))


def measured_here(manifest: Manifest, threads: int) -> dict[str, float]:
    """Return the median milliseconds of each variant that was measured on this machine."""
    costs = load_costs()
    found = ((variant.id, costs.get(cost_key(variant, threads))) for variant in manifest.variants)
    return {name: cost.p50_ms for name, cost in found if cost is not None}
