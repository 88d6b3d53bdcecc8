"""EfficientDet, heat maps of centres, MoveNet, PoseNet: what is drawn into their outputs comes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline.test_detectors import LABELS, LETTERBOX, SIZE, boxes, centred, decode, to_source

from edgekit.core.errors import BundleError
from edgekit.core.spec import Post
from edgekit.pipeline.decoders import Setup, make_decoder

# -- EfficientDet


def levels(fill=-9.0):
    arrays = {}
    for number, stride in enumerate((8, 16)):
        shape = (SIZE[1] // stride, SIZE[0] // stride)
        arrays[f"scores{number}"] = np.full((1, 9 * 3, *shape), fill)
        arrays[f"boxes{number}"] = np.zeros((1, 9 * 4, *shape))
    return arrays


@given(box=boxes, which=st.integers(0, 2), level=st.integers(0, 1), each=st.integers(0, 8))
def test_a_box_drawn_into_a_level_comes_back(box, which, level, each):
    x, y, width, height = centred(box)
    stride = (8, 16)[level]
    row, column = int(y // stride), int(x // stride)
    wide, high = ((1, 1), (1.4, 0.7), (0.7, 1.4))[each % 3]
    size = 3 * stride * 2 ** (each // 3 / 3) * np.array([high, wide])  # effdet: octaves first, then aspects
    centre = (np.array([row, column]) + 0.5) * stride
    arrays = levels()
    arrays[f"scores{level}"][0, each * 3 + which, row, column] = 2.0
    offsets = [*(([y, x] - centre) / size), *np.log(np.array([height, width]) / size)]
    arrays[f"boxes{level}"][0, each * 4 : each * 4 + 4, row, column] = offsets
    (item,) = decode("efficientdet", {"anchor_scale": 3}, placement=LETTERBOX, **arrays)
    assert (item.label, item.score) == (LABELS[which], pytest.approx(0.8808, abs=1e-4))
    assert item.box == pytest.approx(to_source(box), abs=0.01)


def test_an_anchor_may_be_two_things_unless_only_its_best_is_asked_for():
    arrays = levels()
    arrays["scores0"][0, :2, 3, 3] = 2.0, 1.0
    assert [item.label for item in decode("efficientdet", {"anchor_scale": 3}, **arrays)] == ["cat", "dog"]
    options = {"anchor_scale": 3, "multi_label": False}
    assert [item.label for item in decode("efficientdet", options, **arrays)] == ["cat"]


# -- centres


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("size", ["cells", "log"])
@given(box=boxes, which=st.integers(0, 2))
def test_a_box_drawn_round_a_peak_comes_back_with_its_landmarks(order, size, box, which):
    x, y, width, height = centred(box)
    row, column = int(y // 4), int(x // 4)
    turn = slice(None) if order == "xy" else slice(None, None, -1)
    arrays = {name: np.zeros((1, count, 16, 24)) for name, count in (("heatmap", 3), ("size", 2))}
    arrays |= {"offset": np.zeros((1, 2, 16, 24)), "landmarks": np.zeros((1, 4, 16, 24))}
    arrays["heatmap"][0, which, row, column] = 0.8
    arrays["heatmap"][0, which, row, column - 1] = 0.6  # its neighbour is no peak
    cells = np.array([width, height]) / 4
    arrays["size"][0, :, row, column] = (np.log(cells) if size == "log" else cells)[turn]
    arrays["offset"][0, :, row, column] = np.array([x / 4 - column - 0.5, y / 4 - row - 0.5])[turn]
    arrays["landmarks"][0, :, row, column] = [*np.array([0.25, 0.5])[turn], *np.array([0.75, 1.0])[turn]]
    options = {"order": order, "size": size, "shift": 0.5, "landmarks": 2}
    (item,) = decode("centre", options, placement=LETTERBOX, **arrays)
    assert (item.label, item.score) == (LABELS[which], pytest.approx(0.8))
    assert item.box == pytest.approx(to_source(box), abs=0.01)
    left, top, right, bottom = item.box
    assert item.points[0] == pytest.approx((left + (right - left) / 4, (top + bottom) / 2), abs=0.01)
    assert item.points[1] == pytest.approx((right - (right - left) / 4, bottom), abs=0.01)


def test_without_peaks_suppression_leaves_the_best_of_a_group():
    heat, size = np.zeros((1, 1, 16, 24)), np.full((1, 2, 16, 24), 6.0)
    heat[0, 0, 5, 5:8] = 0.7, 0.9, 0.8
    items = decode("centre", {"peaks": False}, ("face",), heatmap=heat, size=size)
    assert [item.score for item in items] == [pytest.approx(0.9)]
    logits = decode("centre", {"activation": "sigmoid"}, ("face",), heatmap=heat * 20 - 9, size=size)
    assert [item.score for item in logits] == [pytest.approx(1 / (1 + np.exp(-9)))]


# -- people


def person(places, scores):
    return np.concatenate([np.array(places)[:, ::-1] / SIZE[::-1], np.array(scores)[:, None]], axis=1)


def test_one_persons_points_come_back_and_its_box_goes_round_the_sure_ones():
    places = [(10 + 4 * n, 12 + 2 * n) for n in range(17)]
    scores = [0.9] * 16 + [0.1]
    (item,) = decode(
        "movenet", {}, ("person",), people=person(places, scores)[None, None], placement=LETTERBOX
    )
    assert item.score == pytest.approx(np.mean(scores))
    assert item.points[3] == pytest.approx((44, 20))
    assert item.box == pytest.approx(to_source((10, 12, 70, 42)))
    nobody = person(places, [0.1] * 17)[None, None]
    assert decode("movenet", {}, ("person",), people=nobody) == ()


def test_of_several_people_those_over_the_threshold_come_back_with_their_own_boxes():
    people = np.zeros((1, 6, 56))
    for number, score in ((0, 0.4), (3, 0.9), (4, 0.1)):
        people[0, number, :51] = person([(10 * (number + 1), 20)] * 17, [0.5] * 17).reshape(-1)
        people[0, number, 51:] = [0.25, 0.1 * number, 0.75, 0.1 * number + 0.1, score]
    first, second = decode("movenet", {}, ("person",), people=people)
    assert (first.score, second.score) == (pytest.approx(0.9), pytest.approx(0.4))
    assert first.box == pytest.approx((0.3 * 96, 16, 0.4 * 96, 48))
    assert first.points[0] == pytest.approx((40, 20))


def posenet_maps(people, points=3, edges=2, shape=(5, 7)):
    """Maps on cells 16 pixels apart: each person's points with their offsets, and the way along each edge."""
    heat = np.full((1, *shape, points), -9.0)
    offsets = np.zeros((1, *shape, 2 * points))
    moves = {name: np.zeros((1, *shape, 2 * edges)) for name in ("forward", "backward")}
    for places in people:
        cells = [(round(y / 15.75), round(x * 6 / 95)) for x, y in places]
        for point, ((x, y), (row, column)) in enumerate(zip(places, cells, strict=True)):
            heat[0, row, column, point] = 3.0
            offsets[0, row, column, [point, point + points]] = y - row * 63 / 4, x - column * 95 / 6
        for edge in range(edges):
            for name, start, end in (("forward", edge, edge + 1), ("backward", edge + 1, edge)):
                step = np.array(places[end]) - np.array(places[start])
                moves[name][0, cells[start][0], cells[start][1], [edge, edge + edges]] = step[::-1]
    return {"heatmaps": heat, "offsets": offsets, **moves}


def test_two_people_are_followed_along_their_edges_and_not_mixed():
    people = [[(8, 6), (22, 20), (30, 46)], [(80, 10), (70, 30), (66, 56)]]
    options = {"edges": [[0, 1], [1, 2]], "radius": 5, "point_names": ["a", "b", "c"]}
    items = decode("posenet", options, ("person",), **posenet_maps(people))
    found = sorted(item.points for item in items)
    assert np.array(found) == pytest.approx(np.array(people), abs=0.01)
    assert items[0].score == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-3)
    assert items[0].point_names == ("a", "b", "c")


def test_nothing_over_the_threshold_is_nothing_seen():
    maps = {
        name: np.zeros((1, count, 4, 6)) for name, count in (("heatmap", 1), ("size", 2), ("landmarks", 4))
    }
    assert decode("centre", {"landmarks": 2}, ("face",), **maps) == ()
    assert decode("efficientdet", {"anchor_scale": 3}, **levels()) == ()
    assert decode("movenet", {}, ("person",), people=np.zeros((1, 6, 56))) == ()
    assert decode("posenet", {"edges": [[0, 1], [1, 2]]}, ("person",), **posenet_maps([])) == ()


# -- landmarks of what fills the picture


@pytest.mark.parametrize("units", ["pixels", "shares"])
def test_landmarks_come_back_in_the_picture_with_how_sure_each_is(units):
    wide, high = SIZE if units == "shares" else (1, 1)
    table = [[12 / wide, 24 / high, 5, 3, 0], [30 / wide, 40 / high, 5, -3, 0], [90, 60, 0, 0, 0]]
    options = {"points": 2, "numbers": 5, "units": units, "activation": "sigmoid"}
    arrays = {"landmarks": [np.ravel(table)], "flag": [[2.0]]}
    (item,) = decode("landmarks", options, ("hand",), placement=LETTERBOX, **arrays)
    assert (item.label, item.score) == ("hand", pytest.approx(0.8808, abs=1e-4))
    assert item.points == (pytest.approx((24, 32)), pytest.approx((60, 64)))
    assert item.point_scores == pytest.approx((0.9526, 0.0474), abs=1e-4)
    assert item.box == pytest.approx((24, 32, 60, 64))
    assert decode("landmarks", options, ("hand",), **arrays | {"flag": [[-2.0]]}) == ()


def test_landmarks_in_parts_follow_each_other():
    arrays = {"landmarks1": [[30, 40, 0]], "landmarks0": [[12, 24, 5, 20, 28, 5]]}
    (item,) = decode("landmarks", {"points": 3}, ("eye",), **arrays)
    assert item.points == (pytest.approx((12, 24)), pytest.approx((20, 28)), pytest.approx((30, 40)))


@pytest.mark.parametrize("parts", [{"landmarks0": (1, 6)}, {"landmarks0": (1, 8), "landmarks1": (1, 4)}, {}])
def test_landmarks_that_are_too_few_or_cut_in_a_point_are_refused(parts):
    with pytest.raises(BundleError, match="want at least 3 points of 3 numbers"):
        decode("landmarks", {"points": 3}, ("eye",), **{name: np.zeros(s) for name, s in parts.items()})


# -- any numbers, and what a manifest may get wrong


@given(st.integers(0, 2**32 - 1))
def test_no_finite_outputs_break_a_decoder(seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(0, 30)
    hostile = {
        "efficientdet": ({"anchor_scale": 3}, levels()),
        "centre": ({"size": "log"}, {"heatmap": np.zeros((1, 3, 4, 6)), "size": np.zeros((1, 2, 4, 6))}),
        "movenet": ({}, {"people": np.zeros((1, 6, 56))}),
        "posenet": ({"edges": [[0, 1], [1, 2]]}, posenet_maps([])),
    }
    for decoder, (options, arrays) in hostile.items():
        noise = {name: rng.normal(0, scale, array.shape) for name, array in arrays.items()}
        for item in decode(decoder, options, (), placement=LETTERBOX, **noise):
            assert 0.3 - 1e-6 <= item.score <= 1
            assert np.isfinite(item.box).all()


@pytest.mark.parametrize(
    ("decoder", "options", "shapes", "message"),
    [
        ("efficientdet", {"anchor_scale": 3}, {"other": (1, 2)}, "needs outputs scores0"),
        ("efficientdet", {"anchor_scale": 3}, {"scores0": (1, 28, 8, 12), "boxes0": (1, 36, 8, 12)}, "9 x"),
        ("efficientdet", {}, {"scores0": (1, 27, 8, 12), "boxes0": (1, 36, 8, 12)}, "anchor_scale"),
        ("centre", {}, {"heatmap": (1, 3, 4, 6), "size": (1, 3, 4, 6)}, "output 'size'"),
        ("centre", {"landmarks": 2}, {"heatmap": (1, 3, 4, 6), "size": (1, 2, 4, 6)}, "'landmarks'"),
        ("movenet", {}, {"people": (1, 1, 16, 3)}, "output 'people'"),
        ("posenet", {}, {"heatmaps": (1, 4, 6, 17), "offsets": (1, 4, 6, 17)}, "output 'offsets'"),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_the_outputs_is_refused(decoder, options, shapes, message):
    with pytest.raises(BundleError, match=message) as caught:
        make_decoder(Setup(Post(decoder=decoder, options=options), LABELS, shapes, SIZE))
    assert caught.value.exit_code == 4


# -- one object, seen twice


def seen_twice_by_ssd():
    scores = np.tile([0.9, 0.1], (1, 48, 1))
    scores[0, 20:22] = [[0.2, 0.8], [0.3, 0.7]]
    raw = np.zeros((1, 48, 4))
    raw[0, 20, 2:], raw[0, 21, 2:] = np.log(30 / 16) / 0.2, np.log(30 / 32) / 0.2  # two sizes of one cell
    options = {"strides": [16], "min_sizes": [[16, 32]], "variances": [0.1, 0.2], "box_order": "xywh"}
    return options | {"activation": "none"}, {"boxes": raw, "scores": scores}


def seen_twice_by_efficientdet():
    arrays = levels()
    arrays["scores0"][0, [0, 9], 3, 3] = 2.0, 1.0  # the first two octaves of one cell
    return {"anchor_scale": 3}, arrays


def seen_twice_by_detr():
    logits = np.full((1, 5, 3), -9.0)
    logits[0, 1:3, 0] = 2.0, 1.0
    return {"nms": "class"}, {"logits": logits, "boxes": np.full((1, 5, 4), 0.5)}


def seen_twice_by_bins():
    scores = np.zeros((1, 96, 3))
    scores[0, 40:42, 0] = 0.8, 0.7  # two cells side by side
    return {"strides": [8]}, {"scores0": scores, "boxes0": np.zeros((1, 96, 32))}


def seen_twice_by_a_grid():
    grid = np.zeros((1, 8, 4, 6))
    grid[0, :, 2, 2], grid[0, :, 2, 3] = [0.8, 0, 0, 1, 1, 0.9, 0, 0], [0.7, 0, 0, 1, 1, 0.9, 0, 0]
    return {"head": "fastestdet", "strides": [16]}, {"grid0": grid}


def seen_twice_by_blazeface():
    anchors = {"layers": 1, "strides": [16], "min_scale": 0.2, "max_scale": 0.2, "aspect_ratios": [1.0]}
    anchors |= {"interpolated_scale_aspect_ratio": 0.0, "fixed_anchor_size": True}
    raw, logits = np.zeros((1, 24, 16)), np.full((1, 24, 1), -9.0)
    raw[0, :, 2:4] = 60
    logits[0, 7:9, 0] = 2.0, 1.0
    return {"anchors": anchors, "box_scale": 96}, {"regressors": raw, "classifiers": logits}


@pytest.mark.parametrize(
    ("decoder", "seen_twice"),
    [
        ("ssd", seen_twice_by_ssd),
        ("efficientdet", seen_twice_by_efficientdet),
        ("detr", seen_twice_by_detr),
        ("bins", seen_twice_by_bins),
        ("yolo-grid", seen_twice_by_a_grid),
        ("blazeface", seen_twice_by_blazeface),
    ],
)
def test_of_two_boxes_of_one_class_that_overlap_the_better_stays(decoder, seen_twice):
    options, arrays = seen_twice()
    labels = ("face",) if decoder in ("ssd", "blazeface") else LABELS
    (best,) = decode(decoder, options, labels, **arrays)
    both = decode(decoder, options, labels, {"iou_threshold": 1.0}, **arrays)
    assert best.score == max(item.score for item in both)
    assert len(both) == 2
