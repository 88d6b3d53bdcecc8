import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_parts import files_of, write_folder, write_tar

from edgekit.core.errors import BundleError, HashMismatchError
from edgekit_fleet.registry.bundle import read_bundle


def contents(bundle):
    return {f.path: b"".join(bundle.chunks(f)) for f in bundle.manifest.every_file()}


def expected(files):
    return {path: data for path, data in files.items() if path != "bundle.json"}


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_a_bundle_is_read_from_a_folder_and_from_a_tar(tmp_path, write):
    files = files_of()
    bundle = read_bundle(write(tmp_path / "b.ekb", files))
    assert (bundle.manifest.model, bundle.manifest_bytes) == ("motion", files["bundle.json"])
    assert contents(bundle) == expected(files)


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path, write):
    with pytest.raises(BundleError) as error:
        read_bundle(write(tmp_path / "b", {**files_of(), "v/extra.so": b"\x7fELF"}))
    assert "v/extra.so" in str(error.value.reasons)


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_a_listed_file_that_is_missing_is_named(tmp_path, write):
    files = files_of()
    del files["labels.txt"]
    with pytest.raises(BundleError) as error:
        read_bundle(write(tmp_path / "b", files))
    assert "labels.txt" in str(error.value.reasons)


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_a_file_of_the_same_size_but_other_bytes_is_refused(tmp_path, write):
    files = files_of()
    files["v/model.onnx"] = files["v/model.onnx"][:-1] + b"!"
    with pytest.raises(HashMismatchError) as error:
        read_bundle(write(tmp_path / "b", files))
    assert "v/model.onnx" in str(error.value.reasons)


def test_a_link_in_a_folder_is_refused(tmp_path):
    folder = write_folder(tmp_path / "b", files_of())
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="link"):
        read_bundle(folder)


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path):
    folder = write_folder(tmp_path / "b", files_of())
    os.mkfifo(folder / "pipe")
    with pytest.raises(BundleError, match="special file"):
        read_bundle(folder)


def test_a_file_that_changes_after_the_check_is_noticed_while_it_is_read(tmp_path):
    folder = write_folder(tmp_path / "b", files_of())
    bundle = read_bundle(folder)
    (folder / "labels.txt").write_bytes(b"still\nMOVING\n")
    with pytest.raises(HashMismatchError):
        contents(bundle)


@pytest.mark.parametrize("name", ["../labels.txt", "/etc/labels.txt", "v/../labels.txt", "a\\b", "v//x"])
def test_a_tar_whose_names_leave_the_bundle_is_refused(tmp_path, name):
    with pytest.raises(BundleError):
        read_bundle(write_tar(tmp_path / "b.ekb", {**files_of(), name: b"x"}))


def test_something_that_is_no_bundle_is_told_with_a_way_out(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"TFL3" * 200)
    for path in (tmp_path / "model.tflite", tmp_path / "absent", tmp_path):
        with pytest.raises(BundleError):
            read_bundle(path)


def tar_bytes():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files_of(weights=b"w" * 700).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


TAR = tar_bytes()


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    cut=st.integers(0, len(TAR)),
    changes=st.lists(st.tuples(st.integers(0, 4096), st.binary(min_size=1, max_size=12)), max_size=4),
)
def test_a_mutated_tar_is_read_as_it_was_or_refused(tmp_path, cut, changes):
    """Whatever happens to a tar, nothing but the listed bytes ever comes out of it."""
    data = bytearray(TAR)
    for at, patch in changes:
        data[at : at + len(patch)] = patch
    path = tmp_path / "m.ekb"
    path.write_bytes(data[:cut] if len(changes) % 2 else data)
    try:
        bundle = read_bundle(path)
    except (BundleError, HashMismatchError):
        return
    for file in bundle.manifest.every_file():
        assert len(b"".join(bundle.chunks(file))) == file.bytes  # chunks checks the hash
