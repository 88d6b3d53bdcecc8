import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import BundleError
from edgekit.core.spec import parse_manifest, path_problem, version_key


def manifest(**changes):
    document = {
        "format": 1,
        "model": "net",
        "version": "1.0.0",
        "task": "raw",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4]}],
        "variants": [
            {"id": "v", "backend": "litert", "files": [{"path": "v.tflite", "bytes": 3, "sha256": "0" * 64}]}
        ],
    }
    return json.dumps(document | changes).encode()


def test_a_manifest_as_in_the_design_is_read():
    assert parse_manifest(manifest()).variants[0].id == "v"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format: want 1"),
        ({"model": "../x"}, "model: want"),
        ({"version": "1"}, "version: want MAJOR.MINOR.PATCH"),
        ({"variants": []}, "variants: want at least one"),
        ({"labels": "labels.txt"}, "'labels.txt' is named but not listed"),
    ],
)
def test_a_wrong_field_is_named(changes, said):
    with pytest.raises(BundleError) as caught:
        parse_manifest(manifest(**changes))
    assert said in caught.value.render()


def test_an_unknown_key_is_an_error():
    with pytest.raises(BundleError, match="surprise"):
        parse_manifest(manifest(surprise=1))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../b", "a//b", "", ".", "a\\b", "a\nb", "bundle.json"]
)
def test_a_path_that_leaves_the_bundle_is_refused(path):
    assert path_problem(path) is not None
    files = [{"path": path, "bytes": 1, "sha256": "0" * 64}]
    with pytest.raises(BundleError):
        parse_manifest(manifest(variants=[{"id": "v", "backend": "litert", "files": files}]))


def test_a_path_that_is_a_file_and_a_folder_is_refused():
    files = [{"path": path, "bytes": 1, "sha256": "0" * 64} for path in ("a", "a/b/c")]
    with pytest.raises(BundleError) as caught:
        parse_manifest(manifest(variants=[{"id": "v", "backend": "litert", "files": files}]))
    assert "'a': is a file and a folder" in caught.value.render()


@pytest.mark.parametrize(("size", "sha"), [(-1, "0" * 64), (1 << 50, "0" * 64), (1, "0" * 63), (1, "G" * 64)])
def test_sizes_and_hashes_out_of_range_are_refused(size, sha):
    files = [{"path": "a", "bytes": size, "sha256": sha}]
    with pytest.raises(BundleError):
        parse_manifest(manifest(variants=[{"id": "v", "backend": "litert", "files": files}]))


@given(st.binary(max_size=300))
def test_junk_is_a_bundle_error_and_nothing_else(data):
    with pytest.raises(BundleError):
        parse_manifest(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_manifest_is_read_or_refused(position, value):
    data = bytearray(manifest())
    data[position % len(data)] = value
    try:
        parse_manifest(bytes(data))
    except BundleError:
        pass


def test_versions_sort_by_number():
    assert sorted(["1.10.0", "1.9.0", "1.9.10"], key=version_key) == ["1.9.0", "1.9.10", "1.10.0"]
