"""The kit's cache: complete or absent, keyed by content."""

import errno
import os

import pytest

from edgekit.core.errors import StorageError
from edgekit_optimize.cache import (
    Cache,
    code_digest,
    digest_of,
    digest_of_files,
    digest_of_module,
    versions_of,
)


def test_an_entry_is_made_once(tmp_path):
    cache, calls = Cache(tmp_path), []

    def fill(folder):
        calls.append(folder)
        (folder / "file").write_text("x")
        return {"answer": (1, 2)}

    first = cache.make("kind", "key", fill)
    second = cache.make("kind", "key", fill)
    assert first[1] == second[1] == {"answer": [1, 2]}
    assert (first[2], second[2]) == (False, True)
    assert (second[0] / "file").read_text() == "x"
    assert len(calls) == 1


def test_a_failed_fill_leaves_nothing_behind(tmp_path):
    cache = Cache(tmp_path)

    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.make("kind", "key", fail)
    assert cache.find("kind", "key") is None
    assert list((tmp_path / "kind").iterdir()) == []


def test_an_entry_without_its_result_does_not_count(tmp_path):
    cache = Cache(tmp_path)
    (tmp_path / "kind" / "key").mkdir(parents=True)
    assert cache.find("kind", "key") is None
    (tmp_path / "kind" / "key" / "entry.json").write_text("{half")
    assert cache.find("kind", "key") is None
    assert cache.make("kind", "key", lambda _: {"n": 1})[1] == {"n": 1}


def fill_file(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"whole" * 100)
    return {"n": 1}


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "record"])
def test_a_damaged_entry_is_made_again(tmp_path, harm, caplog):
    cache = Cache(tmp_path)
    entry, _, _ = cache.make("kind", "key", fill_file)
    file = entry / "deep" / "file"
    if harm == "cut":
        file.write_bytes(b"who")
    elif harm == "flipped":
        file.write_bytes(b"whale" * 100)
    elif harm == "gone":
        file.unlink()
    else:
        (entry / "entry.json").write_bytes(b'{"files": 1}')
    assert cache.find("kind", "key") is None
    assert "made again" in caplog.text
    again, result, was_there = cache.make("kind", "key", fill_file)
    assert (again, result, was_there) == (entry, {"n": 1}, False)
    assert file.read_bytes() == b"whole" * 100
    assert cache.find("kind", "key") is not None
    assert [path.name for path in (tmp_path / "kind").iterdir()] == ["key"]
    assert sorted(path.name for path in entry.iterdir()) == ["deep", "entry.json"]


def test_an_entry_that_another_run_made_meanwhile_is_left_as_it_is(tmp_path):
    inodes = []

    def fill(folder):
        other, _, _ = Cache(tmp_path).make("kind", "key", fill_file)
        inodes.append((other / "deep" / "file").stat().st_ino)  # that run may be reading it
        return fill_file(folder)

    entry, _, _ = Cache(tmp_path).make("kind", "key", fill)
    assert (entry / "deep" / "file").stat().st_ino == inodes[0]
    assert [path.name for path in (tmp_path / "kind").iterdir()] == ["key"]


def test_a_full_disk_is_an_error_with_the_folder_and_a_hint(tmp_path):
    def fill(_folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        Cache(tmp_path).make("make", "key", fill)
    assert str(tmp_path) in caught.value.message
    assert "--cache" in caught.value.hint
    assert list((tmp_path / "make").iterdir()) == []


def test_entries_are_filled_in_the_scratch_folder(tmp_path):
    home = tmp_path / "run"
    home.mkdir()
    seen = []
    Cache(tmp_path, home).make("kind", "key", lambda folder: {"n": len(seen.append(folder) or "")})
    assert seen[0].parent == home
    assert list(home.iterdir()) == []


def test_the_least_recently_used_entries_are_removed_first(tmp_path):
    cache = Cache(tmp_path)
    for number, name in enumerate(("old", "middle", "new")):
        entry, _, _ = cache.make("kind", name, lambda folder: {"n": (folder / "x").write_bytes(b"x" * 1000)})
        os.utime(entry, (number, number))
    assert cache.find("kind", "old") is not None  # used again
    assert cache.trim(2500) == 1
    assert cache.find("kind", "middle") is None
    assert cache.find("kind", "old") is not None
    assert cache.find("kind", "new") is not None
    assert cache.trim(10_000) == 0


def test_digests_depend_on_content_and_nothing_else(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"same")
    other.write_bytes(b"same")
    assert digest_of_files(one) == digest_of_files(other)
    assert digest_of_files(one, other) != digest_of_files(one)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert len(code_digest()) == 64


def test_a_module_digest_does_not_import_the_module(tmp_path, monkeypatch):
    package = tmp_path / "dear_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    whole, part = digest_of_module("dear_package"), digest_of_module("dear_package.part")
    assert part == digest_of_files(package / "part.py")
    (package / "part.py").write_text("raise KeyError")
    digest_of_module.cache_clear()
    assert digest_of_module("dear_package") != whole
    with pytest.raises(ModuleNotFoundError):
        digest_of_module("dear_package.none")


def test_versions_are_those_installed():
    assert versions_of("numpy", "no-such-distribution-here").keys() == {"numpy"}
