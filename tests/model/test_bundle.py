import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from edgekit.core.errors import BundleError, HashMismatchError, StorageError
from edgekit.model.bundle import open_bundle

MODEL = b"a model" * 1000


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "net-1.0.0"
    (root / "v").mkdir(parents=True)
    (root / "v" / "m.tflite").write_bytes(MODEL)
    (root / "labels.txt").write_text("cat\ndog\n", "utf-8")
    listed = [(p, (root / p).read_bytes()) for p in ("v/m.tflite", "labels.txt")]
    model, labels = ({"path": p, "bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for p, b in listed)
    document = {
        "format": 1,
        "model": "net",
        "version": "1.0.0",
        "task": "raw",
        "inputs": [],
        "outputs": [],
        "labels": "labels.txt",
        "files": [labels],
        "variants": [{"id": "v", "backend": "litert", "files": [model]}],
    }
    (root / "bundle.json").write_text(json.dumps(document), "utf-8")
    return root


@pytest.fixture
def archive(folder, tmp_path):
    path = tmp_path / "net.ekb"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=".")
    return path


def test_a_folder_and_its_tar_are_the_same_bundle(folder, archive):
    first, second = open_bundle(folder), open_bundle(archive)
    assert first.manifest == second.manifest
    assert first.digest == second.digest
    assert second.path(second.manifest.variants[0]).read_bytes() == MODEL
    assert second.labels() == ("cat", "dog")


def test_a_tar_is_unpacked_once(archive):
    model = open_bundle(archive).root / "v" / "m.tflite"
    before = model.stat().st_ino
    open_bundle(archive)
    assert model.stat().st_ino == before


def test_a_missing_file_is_named(folder):
    (folder / "v" / "m.tflite").unlink()
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert "v/m.tflite: missing" in caught.value.render()


def test_a_changed_byte_is_found_by_its_hash(folder):
    (folder / "v" / "m.tflite").write_bytes(b"X" + MODEL[1:])
    bundle = open_bundle(folder)
    with pytest.raises(HashMismatchError, match="m.tflite"):
        bundle.check_hashes()


def test_a_tar_with_a_changed_byte_leaves_nothing_behind(archive, tmp_path):
    data = archive.read_bytes()
    position = data.index(MODEL)
    archive.write_bytes(data[:position] + b"X" + data[position + 1 :])
    with pytest.raises(HashMismatchError):
        open_bundle(archive, tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_an_unpacked_bundle_has_its_name_only_once_all_its_folders_are_synced(archive, tmp_path, monkeypatch):
    """Else a power cut may leave a folder without its files, which is taken for the bundle ever after."""
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
    )
    root = open_bundle(archive, tmp_path / "unpacked").root
    last = synced.pop()
    assert last == root.parent
    assert {path.relative_to(synced[-1]).as_posix() for path in synced} == {
        ".", "bundle.json", "labels.txt", "v", "v/m.tflite",
    }  # fmt: skip
    assert synced[-1] != root


def test_a_full_disk_is_told_and_leaves_nothing_behind(archive, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        open_bundle(archive, tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []


@pytest.mark.parametrize("name", ["nothing", "junk.ekb"])
def test_what_is_no_bundle_is_told(tmp_path, name):
    (tmp_path / "junk.ekb").write_bytes(b"junk" * 1000)
    with pytest.raises(BundleError, match=name):
        open_bundle(tmp_path / name)


def test_a_bare_model_file_is_a_bundle_of_raw_tensors(tmp_path):
    path = tmp_path / "My Model (1).onnx"
    path.write_bytes(b"x")
    bundle = open_bundle(path)
    assert bundle.manifest.task == "raw"
    assert [v.backend for v in bundle.manifest.variants] == ["onnxruntime", "openvino"]
    assert bundle.path(bundle.manifest.variants[0]) == path


def test_a_bare_file_is_of_the_precision_its_layers_compute_in(tmp_path):
    (tmp_path / "net.xml").write_bytes(b'<net><layer type="FakeQuantize"/></net>')
    (tmp_path / "float.xml").write_bytes(b"<net/>")
    assert [v.precision for v in open_bundle(tmp_path / "net.xml").manifest.variants] == ["int8"]
    assert [v.precision for v in open_bundle(tmp_path / "float.xml").manifest.variants] == ["fp32"]


def test_the_case_of_a_files_suffix_does_not_matter(tmp_path):
    (tmp_path / "NET.TFLITE").write_bytes(b"x")
    assert [v.backend for v in open_bundle(tmp_path / "NET.TFLITE").manifest.variants] == [
        "litert",
        "openvino",
    ]


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("net.pt2", "edgekit optimize net.pt2 --data DATA"),
        ("net.Keras", "edgekit optimize net.Keras --data DATA"),
        ("net.h5", "edgekit optimize net.h5 --data DATA"),
        ("net.pt", "export the model"),
        ("net.pb", "export the model"),
        ("net.engine", "export the model"),
    ],
)
def test_a_model_that_no_runtime_opens_is_named_with_the_way_out(tmp_path, name, way_out):
    (tmp_path / name).write_bytes(b"PK weights")
    with pytest.raises(BundleError, match="no runtime of edgekit opens a .* file") as caught:
        open_bundle(tmp_path / name)
    assert "edgekit optimize" in caught.value.hint
    assert way_out in caught.value.hint
