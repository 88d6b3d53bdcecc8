"""Installs a bundle from this machine's disk as a model's first version."""

from __future__ import annotations

from pathlib import Path

from edgekit.base.disk import sync_path
from edgekit.base.files import copy_durably
from edgekit.core.errors import BundleError, StorageError
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.update.slots import Installed, Slots


def install_initial(slots: Slots, model: str, source: Path, unpack_to: Path) -> Installed:
    """Install a bundle into the active slot of a model that has none; safe to repeat.

    Every hash is checked. No publisher's signature is needed: whoever may write the agent's configuration
    may choose what it runs.

    Raises:
        BundleError: It is not a bundle of this model.
        HashMismatchError: A file differs from the one its manifest lists.
        StorageError: The disk is full or broken.
    """
    bundle = open_bundle(source, unpack_to)
    if bundle.is_bare or bundle.manifest.model != model:
        kind = "a bare model file" if bundle.is_bare else f"a bundle of {bundle.manifest.model!r}"
        raise BundleError(f"{source}: want a bundle of {model!r}, got {kind}")
    bundle.check_hashes()
    blobs = slots.state_dir / "blobs"
    try:
        _store(bundle, blobs)
    except OSError as cause:
        raise StorageError(f"{source} cannot be installed below {blobs}: {cause.strerror}") from cause
    version = bundle.manifest.version
    slots.stage(model, version, bundle.digest)
    active = slots.commit(model, version).active
    assert active is not None
    return active


def _store(bundle: Bundle, blobs: Path) -> None:
    blobs.mkdir(parents=True, exist_ok=True)
    files = [(file.path, file.sha256) for file in bundle.manifest.every_file()]
    for path, sha256 in (*files, ("bundle.json", bundle.digest)):
        if not (blobs / sha256).exists():
            copy_durably(bundle.root / path, blobs / sha256)
    sync_path(blobs)
