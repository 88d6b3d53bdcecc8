"""What is installed: per model the slots ``active``, ``previous``, ``staged``, switched atomically.

Blobs are shared by content hash below ``blobs/``; a slot names a manifest's hash, and the manifest
names its files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

SlotName = Literal["active", "previous", "staged"]


class Installed(msgspec.Struct, frozen=True):
    """One installed version: its number and its manifest's SHA-256, the blob it lies in."""

    version: str
    sha256: str


class Slot(msgspec.Struct, frozen=True):
    """``slots/<model>.json``."""

    active: Installed | None = None
    previous: Installed | None = None
    staged: Installed | None = None


class Slots:
    """The installed versions below a state directory. Every change is durable when it returns."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def models(self) -> tuple[str, ...]:
        """Return the names of all models that have a slot file."""
        raise NotImplementedError

    def load(self, model: str) -> Slot:
        """Return a model's slots; all empty where it has none.

        Raises:
            StorageError: The file is there and cannot be read.
        """
        raise NotImplementedError

    def holds(self, model: str, version: str, sha256: str) -> bool:
        """Say whether some slot of a model holds this very bundle, whole on disk."""
        raise NotImplementedError

    def stage(self, model: str, version: str, sha256: str) -> Path:
        """Put a fetched bundle into ``staged`` and return its folder; safe to do twice.

        The folder ``bundles/<model>-<version>/`` has ``bundle.json`` with those variants whose blobs
        are on disk, and hard links to the blobs.

        Raises:
            BundleError: A blob that it needs is missing.
            StorageError: The disk is full or broken.
        """
        raise NotImplementedError

    def commit(self, model: str, version: str) -> Slot:
        """Make ``staged`` active and the active one ``previous``; safe to do twice."""
        raise NotImplementedError

    def abandon(self, model: str, version: str) -> Slot:
        """Make sure that a version is neither active nor staged; safe to do twice.

        A staged one is dropped; an active one and ``previous`` change places.

        Raises:
            StorageError: It is active and there is no previous version.
        """
        raise NotImplementedError

    def folder(self, model: str, slot: SlotName = "active") -> Path | None:
        """Return the folder of the bundle in a slot, which ``open_bundle`` opens; None if it is empty."""
        raise NotImplementedError

    def collect_garbage(self, *, keep_partial: bool = True) -> int:
        """Delete blobs and folders that no slot names; return the bytes freed."""
        raise NotImplementedError
