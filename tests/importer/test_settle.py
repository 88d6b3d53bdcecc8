"""What pictures may decide: the scale from one, colour from sixteen, and nothing that was stated."""

import msgspec
import pytest

from edgekit.core.errors import UsageError
from edgekit.core.spec import Finding, Manifest, Post, Pre, Provenance, TensorSpec, Variant
from edgekit.importer.labelled import Labelled, agreement, read_truth
from edgekit.importer.settle import COLOR_PICTURES, GEOMETRY_PICTURES, settled


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


def test_no_way_of_feeding_is_run_twice():
    scores = {("RGB", 255.0): 0.02, ("RGB", 1.0): 0.4, ("BGR", 1.0): 0.9}
    by_colour = scored(scores)
    fed = []

    def run(candidate):
        fed.append((candidate.pre.std, candidate.pre.color, candidate.pre.resize))
        share = 0.9 if candidate.pre.resize == "stretch" else 0.5
        rows = by_colour(candidate)
        return [[{"box": (0, 0, 10 * share, 10), "index": 0, **item} for item in row] for row in rows]

    rows = (*manifest().provenance.conclusions, Finding("resize", "letterbox", "assumed"))
    given = manifest(resize="letterbox")
    given = msgspec.structs.replace(given, provenance=Provenance(conclusions=rows))
    made = settled(given, 64, run, truth(64))
    assert (made.pre.std, made.pre.color, made.pre.resize) == ((1.0,), "BGR", "stretch")
    assert len(fed) == len(set(fed)) == 4


def boxed(candidate):
    return msgspec.structs.replace(
        manifest(),
        pre=Pre(resize=candidate, std=(255.0,)),
        provenance=Provenance(conclusions=(Finding("resize", candidate, "assumed"),)),
    )


def by_geometry(overlaps):
    """Return a run that finds the box of each picture by so much, by the way of bringing it to size."""

    def run(candidate):
        rows = overlaps[candidate.pre.resize]
        return [[{"box": (0, 0, 10 * share, 10), "index": 0, "score": 1.0}] for share in rows]

    return run


def truth(count):
    return [[Labelled(0, (0, 0, 10, 10))] for _ in range(count)]


UNEVEN = [0.5 + 0.01 * (at % 7) for at in range(GEOMETRY_PICTURES)]
BETTER = [share + 0.1 + 0.01 * (at % 5) for at, share in enumerate(UNEVEN)]


@pytest.mark.parametrize(("here", "there"), [("letterbox", "stretch"), ("stretch", "letterbox")])
def test_labelled_pictures_decide_geometry_either_way(here, there):
    run = by_geometry({here: UNEVEN, there: BETTER})
    made = settled(boxed(here), GEOMETRY_PICTURES, run, truth(GEOMETRY_PICTURES))
    assert made.pre.resize == there
    assert source_of(made, "resize") == "tried"
    made = settled(boxed(there), GEOMETRY_PICTURES, run, truth(GEOMETRY_PICTURES))
    assert made.pre.resize == there
    assert source_of(made, "resize") == "tried"


def test_labels_that_both_geometries_meet_as_well_leave_the_convention():
    apart = [share + 0.2 * (-1) ** at for at, share in enumerate(UNEVEN)]
    run = by_geometry({"letterbox": UNEVEN, "stretch": apart})
    made = settled(boxed("letterbox"), GEOMETRY_PICTURES, run, truth(GEOMETRY_PICTURES))
    assert made == boxed("letterbox")


def test_too_few_labelled_pictures_decide_no_geometry():
    run = by_geometry({"letterbox": UNEVEN, "stretch": BETTER})
    labels = [*truth(GEOMETRY_PICTURES - 1), None]
    assert settled(boxed("letterbox"), GEOMETRY_PICTURES, run, labels) == boxed("letterbox")


def test_agreement_is_overlap_times_score_of_the_best_item_of_the_class():
    wanted = [Labelled(1, (0, 0, 10, 10)), Labelled(2, (20, 20, 30, 30))]
    items = [
        {"box": (0, 0, 10, 5), "index": 1, "score": 0.8},
        {"box": (0, 0, 10, 10), "index": 2, "score": 0.9},  # another class
        {"index": 2, "score": 0.9},
    ]
    assert agreement(items, wanted) == pytest.approx((0.5 * 0.8 + 0) / 2)


@pytest.mark.parametrize("inside", [True, False])
def test_labels_lie_beside_a_picture_or_in_the_folder_of_labels(tmp_path, inside):
    picture = tmp_path / "images" / "train" / "a.jpg"
    folder = picture.parent if inside else tmp_path / "labels" / "train"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("3 0.5 0.5 0.5 1\n\n1 0 0 1 0 1 0.5 0 0.5\n")
    assert read_truth(picture, 100, 200) == [
        Labelled(3, (50.0, 0.0, 150.0, 100.0)),
        Labelled(1, (0.0, 0.0, 200.0, 50.0)),
    ]
    assert read_truth(picture.with_name("b.jpg"), 100, 200) is None


@pytest.mark.parametrize(
    "line", ["a street", "1 0.5 0.5 0.5", "0.5 0 0 1 1", "-1 0 0 1 1", "1 0 0 nan 1", "1e999 0 0 1 1"]
)
def test_a_line_that_is_no_labelled_box_is_named(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(UsageError, match="a.txt, line 2: is no labelled box"):
        read_truth(tmp_path / "a.jpg", 10, 10)
