"""Installed bundles: each model's slots ``active``, ``previous``, ``staged``, switched atomically.

Blobs are shared by content hash below ``blobs/``; a slot names a manifest's hash, and the manifest its
files. ``bundles/`` has only views that can be rebuilt.
"""

from pathlib import Path
from typing import Literal

import msgspec

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import read_file, replace_file
from edgekit.core.errors import BundleError, StorageError
from edgekit.core.spec import NAME, VERSION, Manifest, VariantFile, parse_manifest

SlotName = Literal["active", "previous", "staged"]
SIGNED = "bundle.signed.json"


class Installed(msgspec.Struct, frozen=True):
    """One installed version, and its manifest's SHA-256."""

    version: str
    sha256: str


class Slot(msgspec.Struct, frozen=True):
    """``slots/<model>.json``."""

    active: Installed | None = None
    previous: Installed | None = None
    staged: Installed | None = None

    def filled(self) -> tuple[Installed, ...]:
        """Return what is installed, the active first."""
        return tuple(version for version in (self.active, self.previous, self.staged) if version is not None)


class Slots:
    """The installed versions below a state folder. Every change is durable when it returns."""

    def __init__(self, state_dir: Path, disk: LocalDisk | None = None) -> None:
        self.state_dir = state_dir
        self.blobs = state_dir / "blobs"
        self._bundles, self._slots = state_dir / "bundles", state_dir / "slots"
        self._disk = disk or LocalDisk()

    def models(self) -> tuple[str, ...]:
        """Return the models that have a slot file."""
        names = self._disk.names(self._slots)
        return tuple(n.removesuffix(".json") for n in names if n.endswith(".json") and not n.startswith("."))

    def load(self, model: str) -> Slot:
        """Return a model's slots; all empty where it has none.

        Raises:
            StorageError: The file cannot be read.
        """
        path = self._path(model)
        data = read_file(path, self._disk)
        try:
            return Slot() if data is None else msgspec.json.decode(data, type=Slot)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise StorageError(
                f"{path} is damaged: {cause}", hint="remove it; the fleet installs again"
            ) from cause

    def _path(self, model: str) -> Path:
        if not NAME.fullmatch(model):
            raise BundleError(f"{model[:100]!r} is not a model's name")
        return self._slots / f"{model}.json"

    def _save(self, model: str, slot: Slot) -> Slot:
        replace_file(self._disk, self._path(model), msgspec.json.encode(slot))
        return slot

    def holds(self, model: str, version: str, sha256: str) -> bool:
        """Return whether a slot of a model has this very bundle, complete on disk."""
        bundle = Installed(version, sha256)
        if bundle not in self.load(model).filled():
            return False
        try:
            self._present(bundle)
        except BundleError:
            return False
        return True

    def stage(self, model: str, version: str, sha256: str) -> Path:
        """Put a fetched bundle into ``staged`` and return its folder; safe to repeat.

        ``bundles/<model>-<version>/`` has links to the blobs, the variants whose blobs are on disk in
        ``bundle.json``, and the signed manifest as ``bundle.signed.json``.

        Raises:
            BundleError: A required blob is missing, or the version is installed with another content.
            StorageError: The disk is full or broken.
        """
        staged, slot = Installed(version, sha256), self.load(model)
        for installed in (slot.active, slot.previous):
            if installed is not None and installed.version == version and installed.sha256 != sha256:
                raise BundleError(
                    f"'{model} {version}' is installed with another content",
                    reasons=(f"installed {installed.sha256}", f"wanted {sha256}"),
                    hint="publish it under a new version",
                )
        folder = self._view(model, staged)
        self._save(model, msgspec.structs.replace(slot, staged=staged))
        return folder

    def commit(self, model: str, version: str) -> Slot:
        """Make ``staged`` active and the active one ``previous``; safe to repeat.

        Raises:
            StorageError: That version is neither staged nor active.
        """
        slot = self.load(model)
        if slot.staged is not None and slot.staged.version == version:
            previous = slot.active if slot.active != slot.staged else slot.previous
            return self._save(model, Slot(slot.staged, previous, None))
        if slot.active is None or slot.active.version != version:
            raise StorageError(f"'{model} {version}' is not staged, so it cannot be committed")
        return slot

    def abandon(self, model: str, version: str) -> Slot:
        """Ensure that a version is neither active nor staged; safe to repeat.

        A staged one is dropped; an active one is swapped with ``previous``.

        Raises:
            StorageError: It is active and there is no previous version.
        """
        slot = changed = self.load(model)
        if slot.staged is not None and slot.staged.version == version:
            changed = Slot(slot.active, slot.previous, None)
        if slot.active is not None and slot.active.version == version:
            if slot.previous is None:
                raise StorageError(f"'{model} {version}' has no version before it to go back to")
            changed = Slot(slot.previous, slot.active, changed.staged)
        return slot if changed == slot else self._save(model, changed)

    def forget(self, model: str) -> None:
        """Empty a model's slots, durably.

        Raises:
            StorageError: The disk is full or broken.
        """
        if self.load(model) != Slot():
            self._save(model, Slot())

    def folder(self, model: str, slot: SlotName = "active") -> Path | None:
        """Return the folder of a slot's bundle, for ``open_bundle``; None if the slot is empty.

        Raises:
            BundleError: Its blobs are gone.
            StorageError: The disk is full or broken.
        """
        installed: Installed | None = getattr(self.load(model), slot)
        return None if installed is None else self._view(model, installed)

    # -- views

    def _present(self, bundle: Installed) -> tuple[Manifest, bytes]:
        """Return the manifest with only the variants that are complete on disk, and its signed bytes."""
        if (signed := self._disk.read(self.blobs / bundle.sha256)) is None:
            raise BundleError(f"manifest {bundle.sha256} of version {bundle.version} is not on disk")
        manifest = parse_manifest(signed)
        here = {f.path for f in manifest.every_file() if self._disk.size(self.blobs / f.sha256) == f.bytes}
        missing = [f.path for f in manifest.files if f.path not in here]
        variants = tuple(v for v in manifest.variants if all(f.path in here for f in v.files))
        if missing or not variants:
            raise BundleError(
                f"'{manifest.model} {manifest.version}' is incomplete on disk",
                reasons=tuple(f"{path}: missing" for path in missing) or ("no variant has all its files",),
                hint="fetch it again",
            )
        return msgspec.structs.replace(manifest, variants=variants), signed

    def _view(self, model: str, bundle: Installed) -> Path:
        """Return a bundle's folder view, built where it is missing or out of date."""
        if not VERSION.fullmatch(bundle.version):
            raise BundleError(f"{bundle.version[:100]!r} is not a version")
        folder = self._bundles / f"{model}-{bundle.version}"
        with disk_errors(folder):
            manifest, signed = self._present(bundle)
            files, reduced = manifest.every_file(), msgspec.json.encode(manifest)
            is_made = (
                self._disk.read(folder / SIGNED) == signed
                and self._disk.read(folder / "bundle.json") == reduced
                and all(self._disk.size(folder / file.path) == file.bytes for file in files)
            )
            if not is_made:
                self._make_view(folder, reduced, signed, files)
        return folder

    def _make_view(self, folder: Path, reduced: bytes, signed: bytes, files: tuple[VariantFile, ...]) -> None:
        disk, draft = self._disk, folder.with_name(f".{folder.name}.new")
        disk.remove(draft)
        disk.make_folder(draft)
        folders = {draft}
        for file in files:
            target = draft / file.path
            disk.make_folder(target.parent)
            disk.link(self.blobs / file.sha256, target)
            folders |= {above for above in target.parents if draft in above.parents}
        disk.write(draft / "bundle.json", reduced)
        disk.write(draft / SIGNED, signed)
        for each in sorted(folders, reverse=True):
            disk.sync(each)
        disk.remove(folder)
        disk.rename(draft, folder)
        disk.sync(folder.parent)

    # -- what nobody needs any more

    def collect_garbage(self, *, keep_partial: bool = True) -> int:
        """Delete blobs and folders that no slot names; return the bytes freed.

        Must not run while an updater does: what it fetched is in no slot yet.

        Raises:
            StorageError: A slot file cannot be read (nothing is deleted), or the disk is broken.
        """
        keep_blobs: set[str] = set()
        keep_views: set[str] = set()
        for model in self.models():
            for installed in self.load(model).filled():
                keep_views.add(f"{model}-{installed.version}")
                keep_blobs.add(installed.sha256)
                if (signed := self._disk.read(self.blobs / installed.sha256)) is not None:
                    keep_blobs |= {f.sha256 for f in parse_manifest(signed).every_file()}
        with disk_errors(self.blobs):
            return self._sweep(keep_blobs, keep_views, keep_partial=keep_partial)

    def _sweep(self, keep_blobs: set[str], keep_views: set[str], *, keep_partial: bool) -> int:
        freed = 0
        for name in self._disk.names(self._bundles):
            if name not in keep_views:
                self._disk.remove(self._bundles / name)
        for name in self._disk.names(self.blobs):
            if name in keep_blobs or name.startswith("."):
                continue
            freed += self._disk.size(self.blobs / name) or 0
            self._disk.remove(self.blobs / name)
        if not keep_partial:
            self._disk.remove(self.blobs / ".partial")
        return freed
