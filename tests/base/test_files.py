"""Durable files: old or new after a power cut, and nothing half-written after a full disk."""

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from power_cut import PowerCutDisk, PowerCutError

from edgekit.base import files
from edgekit.base.files import copy_durably, replace_file, sha256_of, sync_tree, write_durably
from edgekit.core.errors import StorageError

PATH = Path("/state/floor.json")


@pytest.mark.parametrize("kept", range(16))
@pytest.mark.parametrize("cut_at", range(4))
def test_a_file_whose_replacement_loses_power_is_the_old_one_or_the_new_one(cut_at, kept):
    """Whichever of the four operations fails, and whichever names the file system wrote out by itself."""
    disk = PowerCutDisk({PATH: b"old"}, cut_at, kept)
    with pytest.raises(PowerCutError):
        replace_file(disk, PATH, b"new")
    assert disk.after_reboot().read(PATH) in (b"old", b"new")


@pytest.mark.parametrize("kept", range(16))
def test_a_file_that_was_replaced_stays_replaced(kept):
    disk = PowerCutDisk({PATH: b"old"}, 4, kept)
    replace_file(disk, PATH, b"new")
    assert disk.after_reboot().read(PATH) == b"new"


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    with pytest.raises(StorageError, match="No space"):
        replace_file(files.LocalDisk(), path, b"new")
    with pytest.raises(OSError, match="No space"):
        copy_durably(path, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_of_threads_that_replace_one_file_at_once_the_last_one_wins_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    path, both = tmp_path / "kept.json", threading.Barrier(2)

    def write(letter):
        for length in range(100, 200):
            both.wait(60)
            write_durably(path, letter * length)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, (b"a", b"b")))
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_readable_by_its_owner_only_from_its_first_byte_on(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: modes.append(os.fstat(descriptor).st_mode & 0o777))
    write_durably(tmp_path / "new" / "key", b"secret", mode=0o600)
    assert modes[0] == (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600


def test_a_copy_replaces_and_its_hash_is_that_of_the_source(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 3_000_000)
    target.write_bytes(b"old")
    copy_durably(source, target)
    assert sha256_of(target) == sha256_of(source) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert sha256_of(source, target) == hashlib.sha256(b"x" * 6_000_000).hexdigest()


def test_a_tree_is_synced_with_the_names_in_every_folder_of_it(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "link").symlink_to("nothing")
    synced = set()
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
    )
    sync_tree(tmp_path)
    assert synced == {tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"}
