import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item, Mask, Parent, parse_manifest, path_problem, version_key


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


def test_what_an_item_covers_is_the_box_around_all_that_has_a_place():
    turned = (20.0, 20.0, 8.0, 4.0, math.pi / 2)
    points = ((0.0, 50.0), (60.0, 1.0))
    assert Item(label="walk").extent() is None
    assert Item(box=(1, 2, 3, 4), points=points).extent() == (1, 2, 3, 4)
    assert Item(points=points).extent() == (0, 1, 60, 50)
    assert Item(oriented_box=turned).extent() == pytest.approx((18, 16, 22, 24))
    assert Item(oriented_box=turned, box=(19, 1, 30, 20)).extent() == pytest.approx((18, 1, 30, 24))
    empty = Mask(area=(0, 0, 8, 8), width=2, height=2, runs=(4,))
    assert Item(mask=empty).extent() is None
    assert Item(mask=empty, points=points).extent() == (0, 1, 60, 50)


def test_a_document_of_an_item_has_no_field_that_the_item_lacks():
    assert msgspec.json.encode(Item(label="walk", score=0.0)) == b'{"label":"walk","score":0.0}'
    everything = Item(
        label="a", score=0.5, index=1, box=(1, 2, 3, 4), points=((1, 2),), value=0.0,
        oriented_box=(1, 2, 3, 4, 5),
        point_names=("n",), point_scores=(1,), mask=Mask(area=(0, 0, 1, 1), width=1, height=1, runs=(0, 1)),
        text="t", vector=(1,), track=0, parent=Parent(stage="s", item=0), stage="s",
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(everything), type=Item) == everything
    assert msgspec.to_builtins(everything).keys() == set(Item.__struct_fields__)
