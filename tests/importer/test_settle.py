"""What pictures may decide: the scale from one, colour from sixteen, and nothing that was stated."""

import msgspec
import pytest

from edgekit.core.spec import Finding, Manifest, Post, Pre, Provenance, TensorSpec, Variant
from edgekit.importer.settle import COLOR_PICTURES, settled


def manifest(source="assumed", **pre):
    return Manifest(
        format=1,
        model="m",
        version="1.0.0",
        task="detect",
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(1, 8, 8, 3)),),
        outputs=(),
        pre=Pre(std=(255.0,), **pre),
        post=Post(decoder="yolo"),
        variants=(Variant(id="v", backend="null"),),
        provenance=Provenance(conclusions=(Finding("std", 255, source), Finding("color", "RGB", source))),
    )


def scored(scores):
    """Return a run whose best score is by (colour, std), one number or one for each picture."""

    def run(candidate):
        best = scores[candidate.pre.color, candidate.pre.std[0]]
        rows = best if isinstance(best, list) else [best] * 64
        return [[{"score": score}] if score else [] for score in rows]

    return run


def source_of(made, key):
    return next(row.source for row in made.provenance.conclusions if row.key == key)


def test_one_picture_decides_the_scale_if_only_the_other_one_sees():
    made = settled(manifest(), 1, scored({("RGB", 255.0): 0.02, ("RGB", 1.0): 0.8}))
    assert made.pre.std == (1.0,)
    assert source_of(made, "std") == "tried"


def test_one_picture_decides_no_scale_where_both_see():
    made = settled(manifest(), 1, scored({("RGB", 255.0): 0.5, ("RGB", 1.0): 0.8}))
    assert made == manifest()


@pytest.mark.parametrize("pictures", [1, COLOR_PICTURES - 1])
def test_fewer_than_sixteen_pictures_never_decide_colour(pictures):
    scores = {("RGB", 255.0): 0.4, ("BGR", 255.0): 0.9, ("RGB", 1.0): 0.4}
    made = settled(manifest(), pictures, scored(scores))
    assert made.pre.color == "RGB"
    assert source_of(made, "color") == "assumed"


def test_sixteen_pictures_that_agree_decide_colour_either_way():
    for best, other in (("BGR", "RGB"), ("RGB", "BGR")):
        scores = {(best, 255.0): 0.9, (other, 255.0): 0.4, ("RGB", 1.0): 0.4}
        made = settled(manifest(), COLOR_PICTURES, scored(scores))
        assert made.pre.color == best
        assert source_of(made, "color") == "tried"


def test_sixteen_pictures_that_do_not_agree_leave_the_convention():
    even = [0.9, 0.4] * 8
    scores = {("RGB", 255.0): even, ("BGR", 255.0): even[::-1], ("RGB", 1.0): 0.4}
    made = settled(manifest(), COLOR_PICTURES, scored(scores))
    assert source_of(made, "color") == "assumed"


def test_what_a_flag_or_the_metadata_say_is_never_tried():
    scores = {("RGB", 255.0): 0.02, ("BGR", 255.0): 0.9, ("RGB", 1.0): 0.9}
    for source in ("flag", "metadata"):
        assert settled(manifest(source), 64, scored(scores)) == manifest(source)


def test_geometry_is_decided_by_no_number_of_pictures():
    seen = set()

    def run(candidate):
        seen.add(candidate.pre.resize)
        return [[{"score": 0.5}]] * 64

    settled(msgspec.structs.replace(manifest(), pre=Pre(resize="letterbox", std=(255.0,))), 64, run)
    assert seen == {"letterbox"}
