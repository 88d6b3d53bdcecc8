"""Where edgekit keeps what it can make again, and what it cannot."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for what can be made again: proofs, measured costs, unpacked bundles."""
    if chosen := os.environ.get("EDGEKIT_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgekit"


def state_dir() -> Path:
    """Return the folder for a device's identity, slots and outbox."""
    if chosen := os.environ.get("EDGEKIT_STATE"):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "edgekit"


def profiles_dir() -> Path:
    """Return the folder for profiles of boards that this installation does not come with."""
    return Path(os.environ.get("EDGEKIT_PROFILES") or "/etc/edgekit/device_profiles")
