"""A model's file is compared with its manifest when it is loaded."""

import os

import pytest

import edgekit
from edgekit.core.errors import HashMismatchError, NoVariantError
from edgekit.core.spec import VariantFile
from edgekit.model import verified
from edgekit.model.verified import check_files

HELLO = VariantFile(
    path="m", bytes=5, sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
)


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"hello")
    check_files(tmp_path, [HELLO], "net")
    with monkeypatch.context() as patch:
        patch.setattr(verified, "sha256_of", lambda _path: pytest.fail("an unchanged file is read again"))
        check_files(tmp_path, [HELLO], "net")
    status = (tmp_path / "m").stat()
    (tmp_path / "m").write_bytes(b"jello")
    os.utime(tmp_path / "m", ns=(status.st_atime_ns, status.st_mtime_ns))  # whoever hides the change
    with pytest.raises(HashMismatchError, match="net: m is not the file"):
        check_files(tmp_path, [HELLO], "net")


def test_a_cache_that_is_lost_or_damaged_costs_a_hash_and_nothing_else(tmp_path):
    (tmp_path / "m").write_bytes(b"hello")
    check_files(tmp_path, [HELLO], "net")
    (verified.cache_dir() / "verified.json").write_bytes(b"junk")
    check_files(tmp_path, [HELLO], "net")


def test_a_variant_whose_file_changed_on_the_disk_is_not_run(model_of_two):
    (model_of_two / "fast.tflite").write_bytes((model_of_two / "fast.tflite").read_bytes()[:-1] + b"X")
    with edgekit.load(model_of_two) as model:
        assert model.variant.id == "spare"
        assert "fast: could not be opened" in model.why
    (model_of_two / "spare.tflite").write_bytes((model_of_two / "spare.tflite").read_bytes()[:-1] + b"X")
    with pytest.raises(NoVariantError) as caught:
        edgekit.load(model_of_two)
    assert "spare.tflite is not the file that bundle.json lists" in caught.value.render()
