"""The kit's cache: complete or absent, keyed by content."""

import os

import pytest

from edgekit.optimize.cache import Cache, code_digest, digest_of, digest_of_files, versions_of


def test_a_thing_is_made_once(tmp_path):
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


def test_a_failed_making_leaves_nothing_behind(tmp_path):
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
    (tmp_path / "kind" / "key" / "result.json").write_text("{half")
    assert cache.find("kind", "key") is None
    assert cache.make("kind", "key", lambda _: {"n": 1})[1] == {"n": 1}


def test_what_was_used_longest_ago_makes_room(tmp_path):
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


def test_digests_tell_content_apart_and_nothing_else(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"same")
    other.write_bytes(b"same")
    assert digest_of_files(one) == digest_of_files(other)
    assert digest_of_files(one, other) != digest_of_files(one)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert len(code_digest()) == 64


def test_versions_are_those_installed():
    assert versions_of("numpy", "no-such-distribution-here").keys() == {"numpy"}
