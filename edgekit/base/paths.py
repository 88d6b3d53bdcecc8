"""Folders for caches, state and device profiles."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for what can be recreated: proofs, measured costs, unpacked bundles."""
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
    """Return the folder for board profiles that are not part of this installation."""
    return Path(os.environ.get("EDGEKIT_PROFILES") or "/etc/edgekit/device_profiles")
