from __future__ import annotations

import contextlib
import hashlib
import itertools
from pathlib import Path

import msgspec
import pytest
from power_cut import PowerCutDisk, PowerCutError

from edgekit.core.errors import BundleError, StorageError
from edgekit.core.spec import Golden, Manifest, Variant, VariantFile, parse_manifest
from edgekit.model.bundle import open_bundle
from edgekit.update.slots import Installed, Slot, Slots

ROOT = Path("/device")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bundle(version: str, model: str = "m", shared: bytes = b"labels") -> tuple[bytes, dict[str, bytes]]:
    """A manifest and the blobs of its files, by hash."""
    files = {
        "labels.txt": shared,
        "golden/0.npz": b"in " + version.encode(),
        "v/a.bin": b"a " + version.encode(),
        "v/b.bin": b"b " + version.encode(),
    }
    listed = {p: VariantFile(path=p, bytes=len(d), sha256=digest(d)) for p, d in files.items()}
    manifest = Manifest(
        format=1, model=model, version=version, task="raw", inputs=(), outputs=(), labels="labels.txt",
        golden=(Golden(inputs="golden/0.npz", outputs="golden/0.npz"),),
        variants=tuple(
            Variant(id=name, backend="onnxruntime", files=(listed[f"v/{name}.bin"],)) for name in "ab"
        ),
        files=(listed["labels.txt"], listed["golden/0.npz"]),
    )  # fmt: skip
    return msgspec.json.encode(manifest), {digest(d): d for d in files.values()}


def fetch(slots: Slots, version: str, *, without: str = "", model: str = "m") -> str:
    """Do what the updater does: put manifest and blobs below ``blobs``; returns the manifest's hash."""
    manifest, blobs = bundle(version, model)
    slots.blobs.mkdir(parents=True, exist_ok=True)
    for sha256, data in {**blobs, digest(manifest): manifest}.items():
        if not without or not data.startswith(without.encode()):
            (slots.blobs / sha256).write_bytes(data)
    return digest(manifest)


@pytest.fixture
def slots(tmp_path):
    return Slots(tmp_path)


def install(slots: Slots, version: str, model: str = "m") -> Path:
    folder = slots.stage(model, version, fetch(slots, version, model=model))
    slots.commit(model, version)
    return folder


def test_a_staged_bundle_is_a_folder_that_opens(slots):
    folder = slots.stage("m", "1.0.0", fetch(slots, "1.0.0"))
    opened = open_bundle(folder)
    opened.check_hashes()
    assert folder == slots.state_dir / "bundles" / "m-1.0.0"
    assert [v.id for v in opened.manifest.variants] == ["a", "b"]
    assert opened.labels() == ("labels",)
    assert slots.folder("m", "active") is None
    assert slots.folder("m", "staged") == folder


def test_variants_that_were_not_fetched_are_not_in_the_folder_and_the_signed_manifest_is(slots):
    sha256 = fetch(slots, "1.0.0", without="b ")
    folder = slots.stage("m", "1.0.0", sha256)
    assert [v.id for v in open_bundle(folder).manifest.variants] == ["a"]
    assert digest((folder / "bundle.signed.json").read_bytes()) == sha256


@pytest.mark.parametrize("missing", ["labels", "in ", "{"])
def test_a_bundle_without_a_file_that_all_variants_need_is_not_staged(slots, missing):
    sha256 = fetch(slots, "1.0.0", without=missing)
    with pytest.raises(BundleError):
        slots.stage("m", "1.0.0", sha256)
    assert slots.load("m") == Slot()


def test_a_blob_of_the_wrong_length_counts_as_missing(slots):
    sha256 = fetch(slots, "1.0.0")
    (slots.blobs / digest(b"a 1.0.0")).write_bytes(b"cut")
    assert [v.id for v in open_bundle(slots.stage("m", "1.0.0", sha256)).manifest.variants] == ["b"]


def test_commit_and_abandon_move_versions_through_the_slots(slots):
    install(slots, "1.0.0")
    install(slots, "2.0.0")
    names = [found.version for found in slots.load("m").filled()]
    assert names == ["2.0.0", "1.0.0"]
    slots.stage("m", "3.0.0", fetch(slots, "3.0.0"))
    slots.abandon("m", "3.0.0")
    assert [found.version for found in slots.load("m").filled()] == ["2.0.0", "1.0.0"]
    slots.abandon("m", "2.0.0")
    assert slots.load("m").active.version == "1.0.0"
    assert slots.load("m").previous.version == "2.0.0"


def test_every_step_is_safe_to_do_twice(slots):
    install(slots, "1.0.0")
    sha256 = fetch(slots, "2.0.0")
    slots.stage("m", "2.0.0", sha256)
    slots.stage("m", "2.0.0", sha256)
    slots.commit("m", "2.0.0")
    once = slots.commit("m", "2.0.0")
    assert [found.version for found in once.filled()] == ["2.0.0", "1.0.0"]
    slots.abandon("m", "2.0.0")
    assert slots.abandon("m", "2.0.0") == Slot(
        Installed("1.0.0", digest(bundle("1.0.0")[0])), Installed("2.0.0", sha256), None
    )


def test_the_only_version_cannot_be_abandoned(slots):
    install(slots, "1.0.0")
    with pytest.raises(StorageError, match="no version before"):
        slots.abandon("m", "1.0.0")
    assert slots.load("m").active.version == "1.0.0"


def test_a_version_published_twice_with_different_content_is_refused(slots):
    install(slots, "1.0.0")
    manifest, blobs = bundle("1.0.0", shared=b"other labels")
    for data in (*blobs.values(), manifest):
        (slots.blobs / digest(data)).write_bytes(data)
    with pytest.raises(BundleError, match="another content"):
        slots.stage("m", "1.0.0", digest(manifest))


def test_what_no_slot_names_is_deleted_and_shared_blobs_stay(slots):
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        install(slots, version)
    (slots.blobs / ".partial").mkdir()
    (slots.blobs / ".partial" / "half").write_bytes(b"x")
    before = len(list(slots.blobs.iterdir()))
    freed = slots.collect_garbage()
    assert freed > 0
    assert len(list(slots.blobs.iterdir())) == before - 4
    assert [p.name for p in sorted((slots.state_dir / "bundles").iterdir())] == ["m-2.0.0", "m-3.0.0"]
    assert (slots.blobs / ".partial" / "half").exists()
    open_bundle(slots.folder("m", "active")).check_hashes()
    open_bundle(slots.folder("m", "previous")).check_hashes()
    assert slots.collect_garbage() == 0


def test_holds_says_whether_nothing_needs_to_be_fetched(slots):
    install(slots, "1.0.0")
    sha256 = slots.load("m").active.sha256
    assert slots.holds("m", "1.0.0", sha256)
    assert not slots.holds("m", "1.0.0", "0" * 64)
    for name in "ab":
        (slots.blobs / digest(f"{name} 1.0.0".encode())).unlink()
    assert not slots.holds("m", "1.0.0", sha256)


def test_a_view_that_was_damaged_is_made_again(slots):
    folder = install(slots, "1.0.0")
    (folder / "v" / "a.bin").unlink()
    (folder / "bundle.json").write_bytes(b"{}")
    open_bundle(slots.folder("m")).check_hashes()


@pytest.mark.parametrize("model", ["../x", "", "a/b", "A" * 70])
def test_a_name_that_would_leave_the_folder_is_refused(slots, model):
    with pytest.raises(BundleError):
        slots.load(model)


def test_a_damaged_slot_file_is_an_error_that_names_it(slots):
    install(slots, "1.0.0")
    (slots.state_dir / "slots" / "m.json").write_bytes(b"\x00" * 10)
    with pytest.raises(StorageError, match=r"m\.json is damaged"):
        slots.load("m")


# -- power cuts


def device_with(*versions: str) -> dict[Path, bytes]:
    """The files of a device whose blobs are all there, the first of the versions installed."""
    files: dict[Path, bytes] = {}
    for version in versions:
        manifest, blobs = bundle(version)
        files |= {ROOT / "blobs" / name: data for name, data in blobs.items()}
        files[ROOT / "blobs" / digest(manifest)] = manifest
    disk = PowerCutDisk(files)
    slots = Slots(ROOT, disk)
    slots.stage("m", versions[0], digest(bundle(versions[0])[0]))
    slots.commit("m", versions[0])
    assert not disk.unsynced or all(folder == ROOT / "bundles" for folder, _, _ in disk.unsynced)
    return disk.files


def operations() -> int:
    disk = PowerCutDisk(device_with("1.0.0", "2.0.0", "3.0.0"), 10_000)
    update_twice(disk)
    return 10_000 - disk.left


def update_twice(disk: PowerCutDisk) -> None:
    slots = Slots(ROOT, disk)
    slots.stage("m", "2.0.0", digest(bundle("2.0.0")[0]))
    slots.commit("m", "2.0.0")
    slots.stage("m", "3.0.0", digest(bundle("3.0.0")[0]))
    slots.collect_garbage()
    slots.commit("m", "3.0.0")
    slots.collect_garbage()


@pytest.mark.parametrize("kept", range(16))
def test_after_any_power_cut_the_device_still_has_a_whole_model(kept):
    """Whichever operation fails, and whichever changes stick, the active bundle opens."""
    files = device_with("1.0.0", "2.0.0", "3.0.0")
    for cut_at in range(operations() + 1):
        disk = PowerCutDisk(files, cut_at, kept)
        with contextlib.suppress(PowerCutError):
            update_twice(disk)
        slots = Slots(ROOT, disk.after_reboot())
        slot = slots.load("m")
        assert slot.active.version in {"1.0.0", "2.0.0", "3.0.0"}
        folder = slots.folder("m")
        after = slots._disk.files
        manifest = parse_manifest(after[folder / "bundle.json"])
        assert manifest.version == slot.active.version
        for file in manifest.every_file():
            assert digest(after[folder / file.path]) == file.sha256
        if slot.previous is not None:
            slots.abandon("m", slot.active.version)
            assert slots.folder("m") is not None


def test_what_commit_promised_survives_any_power_cut_after_it():
    files = device_with("1.0.0", "2.0.0", "3.0.0")
    for kept, version in itertools.product(range(16), ("2.0.0",)):
        disk = PowerCutDisk(files, -1, kept)
        slots = Slots(ROOT, disk)
        slots.stage("m", version, digest(bundle(version)[0]))
        slots.commit("m", version)
        again = Slots(ROOT, disk.after_reboot())
        assert again.load("m").active.version == version
        assert again.folder("m") is not None


@pytest.mark.parametrize("fails_at", range(0, 60, 1))
def test_a_full_disk_at_any_moment_is_a_storage_error_and_the_old_version_stays(tmp_path, fails_at):
    from edgekit.base.disk import LocalDisk

    class FullDisk(LocalDisk):
        left = fails_at

        def _maybe(self):
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")

        def write(self, path, data):
            self._maybe()
            super().write(path, data)

        def link(self, source, target):
            self._maybe()
            super().link(source, target)

        def rename(self, source, target):
            self._maybe()
            super().rename(source, target)

        def sync(self, folder):
            self._maybe()
            super().sync(folder)

    install(Slots(tmp_path), "1.0.0")
    sha256 = fetch(Slots(tmp_path), "2.0.0")
    full = Slots(tmp_path, FullDisk())
    with contextlib.suppress(StorageError):
        full.stage("m", "2.0.0", sha256)
        full.commit("m", "2.0.0")
    slots = Slots(tmp_path)
    assert slots.load("m").active.version in ("1.0.0", "2.0.0")
    open_bundle(slots.folder("m")).check_hashes()
