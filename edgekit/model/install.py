"""Put a bundle that lies on this machine into a model's slots, as its first version."""

from __future__ import annotations

from pathlib import Path

from edgekit.base.files import copy_durably, sync_folder
from edgekit.core.errors import BundleError, StorageError
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.update.slots import Installed, Slots


def install_initial(slots: Slots, model: str, source: Path, unpack_to: Path) -> Installed:
    """Install a bundle into the active slot of a model that has none; safe to do twice.

    Every hash is checked. The bundle needs no publisher's signature: whoever may write the agent's
    configuration may choose what it runs.

    Args:
        slots: The device's slots.
        model: The model's name, which the bundle must have.
        source: Bundle folder or ``.ekb`` file.
        unpack_to: Where a tar is unpacked.

    Raises:
        BundleError: It is not a bundle of this model.
        HashMismatchError: A file is not the one its manifest lists.
        StorageError: The disk is full or broken.
    """
    bundle = open_bundle(source, unpack_to)
    if bundle.is_bare or bundle.manifest.model != model:
        found = "a bare model file" if bundle.is_bare else f"a bundle of {bundle.manifest.model!r}"
        raise BundleError(f"{source}: want a bundle of {model!r}, got {found}")
    bundle.check_hashes()
    blobs = slots.state_dir / "blobs"
    try:
        _store(bundle, blobs)
    except OSError as cause:
        raise StorageError(f"{source} cannot be installed below {blobs}: {cause.strerror}") from cause
    version = bundle.manifest.version
    slots.stage(model, version, bundle.digest)
    active = slots.commit(model, version).active
    assert active is not None, "commit has just made it so"
    return active


def _store(bundle: Bundle, blobs: Path) -> None:
    blobs.mkdir(parents=True, exist_ok=True)
    for file in bundle.manifest.every_file():
        _keep(bundle.root / file.path, blobs / file.sha256)
    _keep(bundle.root / "bundle.json", blobs / bundle.digest)
    sync_folder(blobs)


def _keep(source: Path, blob: Path) -> None:
    if not blob.exists():
        copy_durably(source, blob)
