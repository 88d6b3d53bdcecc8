"""A box drawn into a detector's outputs comes back, and suppression leaves one where there was one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import BundleError
from edgekit.core.spec import Post, corners
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.decoders.items import DetectOptions, Finish
from edgekit.pipeline.decoders.nms import overlap
from edgekit.pipeline.decoders.oriented import shared_area
from edgekit.pipeline.masks import cells_of
from edgekit.pipeline.pre import place

SIZE = (96, 64)
"""Width and height of the input: not square, so that x and y cannot be swapped unnoticed."""
LABELS = ("cat", "dog", "owl")
LETTERBOX = place("letterbox", (192, 96), SIZE)  # half the size, 8 pixels of grey above and below


def decode(decoder, options, labels=LABELS, post=None, placement=None, **arrays):
    tensors = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in tensors.items()}
    post = Post(decoder=decoder, options=options, **{"score_threshold": 0.3, **(post or {})})
    return make_decoder(Setup(post, labels, shapes, SIZE))(Outcome(tensors, placement))


def centred(box):
    left, top, right, bottom = box
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def as_numbers(box, order="cxcywh", units="pixels"):
    left, top, right, bottom = box
    numbers = {"cxcywh": centred(box), "xyxy": box, "yxyx": (top, left, bottom, right)}[order]
    sides = np.array([*SIZE, *SIZE][:: -1 if order == "yxyx" else 1])
    return np.array(numbers) / (sides if units == "shares" else 1)


def to_source(box):
    left, top, right, bottom = box
    return (left * 2, (top - 8) * 2, right * 2, (bottom - 8) * 2)


boxes = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h), st.integers(1, 40), st.integers(9, 30), *[st.integers(8, 25)] * 2
)


# -- yolo


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("order", ["cxcywh", "xyxy", "yxyx"])
@pytest.mark.parametrize("units", ["pixels", "shares"])
@given(box=boxes, which=st.integers(0, 2), row=st.integers(0, 6))
def test_a_box_drawn_into_dense_outputs_comes_back(layout, order, units, box, which, row):
    table = np.zeros((7, 7), np.float32)
    table[row, :4], table[row, 4 + which] = as_numbers(box, order, units), 0.75
    predictions = (table if layout == "rows" else table.T)[None]
    options = {"layout": layout, "box": order, "units": units}
    (item,) = decode("yolo", options, placement=LETTERBOX, predictions=predictions)
    assert (item.label, item.index, item.score) == (LABELS[which], which, 0.75)
    assert item.box == pytest.approx(to_source(box), abs=1e-3)


def test_boxes_and_scores_may_be_two_outputs():
    scores = np.zeros((1, 2, 3))
    scores[0, 1, 2] = 0.9
    (item,) = decode("yolo", {"box": "xyxy"}, boxes=[[[0, 0, 1, 1], [4, 8, 20, 30]]], scores=scores)
    assert (item.label, item.box) == ("owl", (4, 8, 20, 30))


def with_objectness(objectness, classes):
    return [[[*as_numbers((10, 10, 30, 40)), objectness, *classes]]]


def test_objectness_and_class_are_multiplied():
    items = decode("yolo", {"objectness": True}, predictions=with_objectness(0.8, [0.1, 0.5, 0.2]))
    assert [(item.label, round(item.score, 6)) for item in items] == [("dog", 0.4)]
    assert not decode("yolo", {"objectness": True}, predictions=with_objectness(0.5, [0.1, 0.5, 0.2]))


def test_logits_become_probabilities_and_a_percentage_a_share():
    options = {"objectness": True, "activation": "sigmoid"}
    (item,) = decode("yolo", options, predictions=with_objectness(2.0, [-9, 1.0, -9]))
    assert item.score == pytest.approx(1 / (1 + math.exp(-2)) / (1 + math.exp(-1)))
    (item,) = decode("yolo", {"activation": "sigmoid"}, predictions=[[[*as_numbers((1, 1, 9, 9)), 0, 2, 1]]])
    assert (item.label, item.score) == ("dog", pytest.approx(1 / (1 + math.exp(-2))))
    options = {"objectness": True, "score_scale": 100}
    (item,) = decode("yolo", options, predictions=with_objectness(80, [10, 50, 20]))
    assert item.score == pytest.approx(0.4)


@given(box=boxes, cell=st.integers(0, 12 * 8 + 6 * 4 - 1))
def test_a_box_written_as_offsets_from_yolox_cells_comes_back(box, cell):
    stride, number, columns = (8, cell, 12) if cell < 96 else (16, cell - 96, 6)
    x, y, width, height = centred(box)
    table = np.zeros((120, 8))
    offsets = [x / stride - number % columns, y / stride - number // columns]
    table[cell, :4] = [*offsets, math.log(width / stride), math.log(height / stride)]
    table[cell, 4], table[cell, 6] = 0.9, 0.9
    options = {"objectness": True, "strides": [8, 16]}
    (item,) = decode("yolo", options, placement=LETTERBOX, predictions=table[None])
    assert (item.label, item.score) == ("dog", pytest.approx(0.81))
    assert item.box == pytest.approx(to_source(box), abs=1e-2)


def test_a_row_may_give_every_class_that_passes():
    predictions = [[[*as_numbers((1, 1, 9, 9)), 0.5, 0.1, 0.6]]]
    assert [item.label for item in decode("yolo", {}, predictions=predictions)] == ["owl"]
    items = decode("yolo", {"multi_label": True}, predictions=predictions)
    assert [item.label for item in items] == ["owl", "cat"]


def test_a_background_column_is_no_class_wherever_it_stands():
    row = [*as_numbers((1, 1, 9, 9)), 0.9, 0.1, 0.6]
    (item,) = decode("yolo", {"background": "first"}, ("a", "b"), predictions=[[row]])
    assert (item.label, item.index) == ("b", 2)
    (item,) = decode("yolo", {"background": "last"}, ("a", "b"), predictions=[[row]])
    assert (item.label, item.index) == ("a", 0)


def test_a_class_may_have_its_own_threshold():
    predictions = [[[*as_numbers((1, 1, 9, 9)), 0.2, 0, 0], [*as_numbers((40, 20, 60, 40)), 0, 0.6, 0]]]
    options = {"class_thresholds": {"cat": 0.1, "dog": 0.7}}
    assert [item.label for item in decode("yolo", options, predictions=predictions)] == ["cat"]
    with pytest.raises(BundleError, match="class_thresholds: want labels of the model, got 'cow'"):
        decode("yolo", {"class_thresholds": {"cow": 0.1}}, predictions=predictions)


# -- suppression, in every decoder that has it


def random_predictions(seed):
    rng = np.random.default_rng(seed)
    table = np.concatenate([rng.uniform(5, 60, (60, 4)), rng.uniform(0, 1, (60, 3))], axis=1)
    return table[None].astype(np.float32)


@pytest.mark.parametrize("nms", ["class", "agnostic"])
@given(st.integers(0, 2**32 - 1))
def test_no_two_boxes_of_one_class_overlap_more_than_allowed(nms, seed):
    items = decode("yolo", {"nms": nms}, post={"iou_threshold": 0.4}, predictions=random_predictions(seed))
    assert items
    found = np.array([item.box for item in items], np.float32).T
    shared = overlap(found[:, :, None], found[:, None])
    np.fill_diagonal(shared, 0)
    classes = np.array([item.index for item in items])
    rivals = (classes[:, None] == classes) | (nms == "agnostic")
    assert (shared[rivals] <= 0.4 + 1e-5).all()
    assert [item.score for item in items] == sorted((item.score for item in items), reverse=True)


def test_without_suppression_every_row_that_passes_is_an_item():
    predictions = random_predictions(1)
    passing = int((predictions[0, :, 4:].max(axis=1) >= 0.3).sum())
    assert len(decode("yolo", {"nms": "none"}, predictions=predictions)) == passing


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_no_finite_outputs_break_a_detector(seed, threshold):
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 10.0 ** rng.integers(0, 30), (1, 40, 12))
    post = {"score_threshold": threshold}
    placement = place("stretch", (640, 480), SIZE)
    for decoder, options, arrays in (
        (
            "yolo",
            {"activation": "sigmoid", "keypoints": 2, "point_size": 2, "objectness": True},
            "predictions",
        ),
        ("yolo", {"activation": "sigmoid", "strides": [8], "nms": "agnostic"}, "predictions"),
        ("yolo", {"angle": True, "units": "shares"}, "predictions"),
        ("detections", {"keypoints": 2}, "rows"),
    ):
        wide = np.resize(table, (1, 96, 12)) if "strides" in options else table
        for item in decode(decoder, options, (), post, placement, **{arrays: wide}):
            assert threshold - 1e-6 <= item.score <= 1
            if item.box is not None:
                left, top, right, bottom = item.box
                assert 0 <= left <= 640
                assert 0 <= right <= 640
                assert 0 <= top <= 480
                assert 0 <= bottom <= 480


# -- keypoints, angles, masks


@pytest.mark.parametrize("size", [2, 3])
def test_keypoints_come_back_in_the_picture(size):
    row = [
        *as_numbers((10, 10, 30, 40), units="shares"),
        0.9,
        *(12 / 96, 24 / 64, 0.8)[:size],
        *(0.25, 0.75, 0.1)[:size],
    ]
    options = {"units": "shares", "keypoints": 2, "point_size": size, "point_names": ["nose", "tail"]}
    (item,) = decode("yolo", options, ("cat",), placement=LETTERBOX, predictions=[[row]])
    assert item.points == (pytest.approx((24, 32)), pytest.approx((48, 80)))
    assert item.point_names == ("nose", "tail")
    assert item.point_scores == (pytest.approx((0.8, 0.1)) if size == 3 else ())


@given(st.floats(-10, 10), boxes)
def test_an_oriented_box_comes_back_with_the_same_corners(angle, box):
    row = [*centred(box), 0, 0.9, angle]
    (item,) = decode("yolo", {"angle": True}, ("a", "b"), placement=LETTERBOX, predictions=[[row]])
    assert (item.label, item.box) == ("b", None)
    wanted = [to_source((x, y, x, y))[:2] for x, y in corners((*centred(box), angle))]
    found = np.array(corners(item.oriented_box))
    for corner in wanted:  # half a turn makes the same rectangle
        assert np.abs(found - corner).max(axis=1).min() < 1e-2
    assert -math.pi / 2 <= item.oriented_box[4] <= math.pi / 2


def test_a_stretched_oriented_box_keeps_its_sides_where_they_were():
    row = [48, 32, 20, 10, 0.9, math.pi / 2]
    placement = place("stretch", (96, 128), SIZE)  # twice as high as in the input
    (item,) = decode("yolo", {"angle": True}, ("a",), placement=placement, predictions=[[row]])
    assert np.abs(item.oriented_box) == pytest.approx((48, 64, 40, 10, math.pi / 2), abs=1e-3)


@given(st.tuples(boxes, st.floats(-3, 3)), st.tuples(boxes, st.floats(-3, 3)))
def test_what_oriented_boxes_share_is_1_with_itself_and_the_same_both_ways(one, other):
    first, second = (np.float32([*centred(box), angle])[:, None] for box, angle in (one, other))
    assert shared_area(first, first)[0] == pytest.approx(1, abs=2e-3)
    assert shared_area(first, second)[0] == pytest.approx(shared_area(second, first)[0], abs=1e-5)
    turned = second + np.float32([0, 0, 0, 0, math.pi])[:, None]
    assert shared_area(first, turned)[0] == pytest.approx(shared_area(first, second)[0], abs=1e-3)
    assert shared_area(first, first + np.float32([200, 0, 0, 0, 0])[:, None])[0] < 0.01


def test_of_two_oriented_boxes_at_one_place_the_better_stays():
    rows = [[40, 30, 30, 10, 0.8, 0.5], [41, 30, 30, 10, 0.9, 0.5], [41, 30, 30, 10, 0.7, 2.1]]
    items = decode("yolo", {"angle": True}, ("a",), predictions=[rows])
    assert [round(item.score, 2) for item in items] == [0.9, 0.7]  # across the others: another thing


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_mask_covers_what_its_prototypes_say_inside_the_box(layout):
    prototypes = np.full((1, 2, 16, 24), -1.0, np.float32)
    prototypes[0, 1, 4:10, 2:8] = 3.0  # pixels 8..32 by 16..40 of the input
    row = [*as_numbers((16, 12, 40, 44)), 0.9, 0.0, 1.0]
    arrays = {"predictions": [[row]], "prototypes": prototypes}
    if layout == "NHWC":
        arrays["prototypes"] = prototypes.transpose(0, 2, 3, 1)
    options = {"masks": 2, "prototype_layout": layout}
    (item,) = decode("yolo", options, ("a",), placement=LETTERBOX, **arrays)
    assert item.mask.area == (32, 8, 80, 72)
    cells = cells_of(item.mask)
    assert cells.shape == (32, 24)
    expected = np.zeros((32, 24), bool)
    expected[4:28, :17] = True  # rows 16 to 40 of the input, from the box's top at 12; columns 16 to 33
    assert (cells != expected).mean() < 0.06  # the edge is where the interpolation crosses 0
    assert item.mask.extent() == pytest.approx((32, 16, 64, 64), abs=4)


def test_an_item_without_a_pixel_of_mask_is_dropped_and_one_in_the_border_stays_without():
    prototypes = np.full((1, 1, 16, 24), -1.0, np.float32)
    prototypes[0, 0, :2] = 1.0  # the 8 rows of grey above the picture
    rows = [[*as_numbers((10, 30, 40, 60)), 0.9, 1.0], [*as_numbers((10, 0, 40, 30)), 0.8, 1.0]]
    arrays = {"predictions": [rows], "prototypes": prototypes}
    (item,) = decode("yolo", {"masks": 1}, ("a",), placement=LETTERBOX, **arrays)
    assert (round(item.score, 2), item.mask) == (0.8, None)


# -- detections


@pytest.mark.parametrize(
    "columns",
    [
        ["left", "top", "right", "bottom", "score", "class"],
        ["class", "score", "left", "top", "right", "bottom"],
        ["skip", "class", "score", "left", "top", "right", "bottom"],
        ["cx", "cy", "width", "height", "score", "class"],
    ],
)
@pytest.mark.parametrize("units", ["pixels", "shares"])
@given(box=boxes, which=st.integers(0, 2))
def test_a_listed_detection_comes_back_whatever_its_columns(columns, units, box, which):
    order = "cxcywh" if "cx" in columns else "xyxy"
    names = ["cx", "cy", "width", "height"] if "cx" in columns else ["left", "top", "right", "bottom"]
    numbers = dict(zip(names, as_numbers(box, order, units), strict=True))
    numbers |= {"score": 0.75, "class": which, "skip": 0}
    rows = [[[0] * len(columns), [numbers[name] for name in columns]]]
    (item,) = decode("detections", {"columns": columns, "units": units}, placement=LETTERBOX, rows=rows)
    assert (item.label, item.score) == (LABELS[which], 0.75)
    assert item.box == pytest.approx(to_source(box), abs=1e-3)


def test_rows_may_lack_the_batch_and_end_with_keypoints():
    row = [4, 8, 20, 30, 0.9, 1, 5, 6, 0.7]
    (item,) = decode("detections", {"keypoints": 1}, rows=[row])
    assert (item.label, item.points) == ("dog", ((5, 6),))
    assert item.point_scores == (pytest.approx(0.7),)


def test_rows_may_end_with_the_angle_of_an_oriented_box():
    row = [40, 30, 20, 10, 0.9, 2, 0.5]
    options = {"columns": ["cx", "cy", "width", "height", "score", "class"], "angle": True}
    (item,) = decode("detections", options, placement=LETTERBOX, rows=[[row]])
    assert (item.label, item.box) == ("owl", None)
    assert item.oriented_box == pytest.approx((80, 44, 40, 20, 0.5))


LISTS = {
    "boxes": [[[0.1, 0.2, 0.5, 0.4], [0.2, 0.2, 0.9, 0.3], [0.5, 0.5, 0.9, 0.9]]],
    "scores": [[0.9, 0.8, 0.7]],
    "classes": [[2, 1, 1]],
}


def test_four_lists_end_at_their_count():
    options = {"box": "yxyx", "units": "shares"}
    items = decode("detections", options, count=[2], **LISTS)
    assert [item.label for item in items] == ["owl", "dog"]
    assert items[0].box == pytest.approx((0.2 * 96, 0.1 * 64, 0.4 * 96, 0.5 * 64))
    assert len(decode("detections", options, **LISTS)) == 3


def test_classes_may_begin_at_1_and_padding_is_no_item():
    lists = {**LISTS, "classes": [[2, 1, -1]]}
    assert [item.label for item in decode("detections", {"first_class": 1}, **lists)] == ["dog", "cat"]
    assert len(decode("detections", {}, **lists)) == 2


def test_selected_rows_of_onnx_suppression_name_class_and_box():
    scores = [[[0.9, 0.1], [0.2, 0.8], [0, 0.4]]]
    arrays = {"boxes": [[[1, 2, 9, 12], [20, 22, 39, 42]]], "scores": scores}
    items = decode("detections", {}, selected=[[0, 0, 0], [0, 1, 1], [0, 2, 1]], **arrays)
    assert [(item.label, item.box[0], round(item.score, 2)) for item in items] == [
        ("cat", 1, 0.9),
        ("dog", 20, 0.8),
        ("owl", 20, 0.4),
    ]


@pytest.mark.parametrize("shape", [(1, 0, 6), (0, 6)])
def test_no_detections_are_no_items(shape):
    assert decode("detections", {}, rows=np.zeros(shape)) == ()


def test_detections_are_suppressed_where_the_model_does_not():
    rows = [[10, 10, 30, 30, 0.8, 1], [11, 10, 30, 30, 0.9, 1], [11, 10, 30, 30, 0.7, 2]]
    assert len(decode("detections", {}, rows=rows)) == 3
    assert [round(i.score, 2) for i in decode("detections", {"nms": "class"}, rows=rows)] == [0.9, 0.7]
    assert len(decode("detections", {"nms": "agnostic"}, rows=rows)) == 1


# -- detr


@given(box=boxes, which=st.integers(0, 2), query=st.integers(0, 4))
def test_a_box_drawn_into_a_query_comes_back(box, which, query):
    logits, numbers = np.full((1, 5, 3), -9.0), np.full((1, 5, 4), 0.5)
    logits[0, query, which], numbers[0, query] = 1.0, as_numbers(box, units="shares")
    (item,) = decode("detr", {}, placement=LETTERBOX, logits=logits, boxes=numbers)
    assert (item.label, item.score) == (LABELS[which], pytest.approx(1 / (1 + math.exp(-1))))
    assert item.box == pytest.approx(to_source(box), abs=1e-3)


def test_one_query_may_be_two_things_and_as_many_are_taken_as_there_are_queries():
    logits, numbers = [[[1.0, -9, 2.0], [0.5, -9, -9]]], np.full((1, 2, 4), 0.5)
    items = decode("detr", {}, logits=logits, boxes=numbers)
    assert [item.label for item in items] == ["owl", "cat"]


def test_softmax_leaves_out_the_queries_that_see_no_object():
    logits = np.log([[[0.2, 0.1, 0.1, 0.6], [0.1, 0.7, 0.1, 0.1]]])
    options = {"activation": "softmax", "background": "last"}
    (item,) = decode(
        "detr", options, post={"score_threshold": 0.15}, logits=logits[:, 1:], boxes=[[[0.5] * 4]]
    )
    assert (item.label, item.score) == ("dog", pytest.approx(0.7))
    items = decode(
        "detr", options, post={"score_threshold": 0.5}, logits=logits, boxes=np.full((1, 2, 4), 0.5)
    )
    assert [item.label for item in items] == ["dog"]


def test_a_query_may_have_a_mask_over_the_whole_picture():
    masks = np.full((1, 1, 16, 24), -1.0)
    masks[0, 0, 8:, :12] = 1.0
    (item,) = decode(
        "detr", {}, placement=LETTERBOX, logits=[[[3.0, -9, -9]]], boxes=[[[0.5] * 4]], masks=masks
    )
    assert item.mask.extent() == pytest.approx((0, 48, 96, 96), abs=4)


# -- bins


@pytest.mark.parametrize(("centre", "shift"), [("half", 8), ("pixel", 7.5), ("corner", 0)])
@pytest.mark.parametrize("is_apart", [True, False])
@given(box=boxes, which=st.integers(0, 2))
def test_a_box_drawn_into_distances_from_a_cell_comes_back(centre, shift, is_apart, box, which):
    """The second grid has cells of 16 pixels; distances are whole and half bins of 8."""
    row, column = int(centred(box)[1] // 16), int(centred(box)[0] // 16)
    x, y = column * 16 + shift, row * 16 + shift
    sides = np.full((24, 4, 8), -60.0)
    for side, reach in enumerate((x - box[0], y - box[1], box[2] - x, box[3] - y)):
        whole, part = divmod(min(max(reach / 16, 0), 6.99), 1)
        sides[row * 6 + column, side, int(whole) : int(whole) + 2] = np.log([1 - part + 1e-9, part + 1e-9])
    scores = np.zeros((24, 3))
    scores[row * 6 + column, which] = 0.8
    tables = {"scores0": np.zeros((1, 96, 3)), "boxes0": np.zeros((1, 96, 32))}
    tables |= {"scores1": scores[None], "boxes1": sides.reshape(1, 24, 32)}
    if not is_apart:
        both = [
            np.concatenate([tables[f"{name}{grid}"] for grid in (0, 1)], axis=1)
            for name in ("scores", "boxes")
        ]
        tables = {"predictions": np.concatenate(both, axis=2)}
    options = {"strides": [8, 16], "centre": centre}
    (item,) = decode("bins", options, placement=LETTERBOX, **tables)
    assert (item.label, item.score) == (LABELS[which], pytest.approx(0.8))
    reached = (
        min(box[0], x),
        max(min(box[1], y), 8),
        max(box[2], x),
        max(box[3], y),
    )  # 8: the picture's edge
    assert item.box == pytest.approx(to_source(reached), abs=0.05)


def test_the_scores_of_distances_may_be_logits():
    scores = np.full((1, 96, 3), -9.0)
    scores[0, 40, 2] = 1.0
    options = {"strides": [8], "activation": "sigmoid"}
    (item,) = decode("bins", options, scores0=scores, boxes0=np.zeros((1, 96, 32)))
    assert (item.label, item.score) == ("owl", pytest.approx(1 / (1 + math.exp(-1))))


# -- grids with anchors

ANCHORS = [[10, 14, 20, 12], [30, 40, 28, 50]]


def drawn_grids(box, which, formula):
    """Return the raw row of the second anchor of the box's cell in the grid of 16 pixels, and the cell."""
    x, y, width, height = centred(box)
    row, column = int(y // 16), int(x // 16)
    part_x, part_y = x / 16 - column, y / 16 - row

    def logit(p):
        return math.log(p / (1 - p)) if 0 < p < 1 else (-60 if p <= 0 else 60)

    if formula == "v3":
        numbers = [logit(part_x), logit(part_y), math.log(width / 28), math.log(height / 50)]
    else:
        numbers = [logit((part_x + 0.5) / 2), logit((part_y + 0.5) / 2)]
        numbers += [logit(math.sqrt(width / 28) / 2), logit(math.sqrt(height / 50) / 2)]
    return [*numbers, 2.0, *(3.0 if index == which else -9.0 for index in range(3))], row, column


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "split"])
@pytest.mark.parametrize("formula", ["v3", "v5"])
@given(box=boxes, which=st.integers(0, 2))
def test_a_box_drawn_into_an_anchors_grid_comes_back(layout, formula, box, which):
    numbers, row, column = drawn_grids(box, which, formula)
    grids = [np.full((2, rows, columns, 8), -60.0) for rows, columns in ((8, 12), (4, 6))]
    grids[1][1, row, column] = numbers
    if layout != "split":
        grids = [grid.transpose(1, 2, 0, 3).reshape(*grid.shape[1:3], 16) for grid in grids]
    if layout == "NCHW":
        grids = [grid.transpose(2, 0, 1) for grid in grids]
    options = {"strides": [8, 16], "anchors": ANCHORS, "formula": formula, "layout": layout}
    (item,) = decode("yolo-grid", options, placement=LETTERBOX, grid0=grids[0][None], grid1=grids[1][None])
    assert item.label == LABELS[which]
    assert item.score == pytest.approx(1 / (1 + math.exp(-2)) / (1 + math.exp(-3)))
    assert item.box == pytest.approx(to_source(box), abs=0.01)


@given(box=boxes, which=st.integers(0, 2))
def test_anchors_of_one_cell_may_share_their_classes(box, which):
    x, y, width, height = centred(box)
    row, column = int(y // 16), int(x // 16)
    table = np.zeros((96 + 24, 2 * 5 + 3))
    shares = [(x / 16 - column + 0.5) / 2, (y / 16 - row + 0.5) / 2]
    shares += [math.sqrt(width / 28) / 2, math.sqrt(height / 50) / 2]
    cell = 96 + row * 6 + column
    table[cell, 4:8], table[cell, 9], table[cell, 10 + which] = shares, 0.8, 0.9
    options = {"head": "fastestv2", "strides": [8, 16], "anchors": ANCHORS, "activation": "none"}
    (item,) = decode("yolo-grid", options, placement=LETTERBOX, predictions=table)
    assert (item.label, item.score) == (LABELS[which], pytest.approx(0.72))
    assert item.box == pytest.approx(to_source(box), abs=0.01)


@given(box=boxes, which=st.integers(0, 2))
def test_one_grid_without_anchors_has_boxes_as_shares_of_the_picture(box, which):
    x, y, width, height = centred(box)
    row, column = int(y // 16), int(x // 16)
    grid = np.zeros((1, 8, 4, 6))
    offsets = np.arctanh(np.clip([x / 16 - column, y / 16 - row], 0, 0.9999))
    sizes = [math.log(share / (1 - share)) for share in (width / 96, height / 64)]
    grid[0, :, row, column] = [0.8, *offsets, *sizes, *(0.9 * (index == which) for index in range(3))]
    options = {"head": "fastestdet", "strides": [16]}
    (item,) = decode("yolo-grid", options, placement=LETTERBOX, grid0=grid)
    assert (item.label, item.score) == (LABELS[which], pytest.approx(0.8**0.6 * 0.9**0.4, rel=1e-4))
    assert item.box == pytest.approx(to_source(box), abs=0.05)


# -- stated priors with landmarks


@given(box=boxes)
def test_a_face_drawn_into_priors_comes_back_with_its_landmarks(box):
    x, y, width, height = centred(box)
    row, column = int(y // 16), int(x // 16)
    prior = 2 * (row * 6 + column) + 1  # the second size of the cell: 32 pixels
    centre = np.array([column * 16 + 8, row * 16 + 8])
    raw, points = np.zeros((1, 48, 4)), np.zeros((1, 48, 4))
    raw[0, prior, :2] = (np.array([x, y]) - centre) / 32 / 0.1
    raw[0, prior, 2:] = np.log(np.array([width, height]) / 32) / 0.2
    points[0, prior] = ((np.array([[x, y], [x + 4, y - 2]]) - centre) / 32 / 0.1).reshape(-1)
    scores = np.tile([0.9, 0.1], (1, 48, 1))
    scores[0, prior] = [0.2, 0.8]
    options = {
        "strides": [16],
        "min_sizes": [[16, 32]],
        "variances": [0.1, 0.2],
        "landmarks": 2,
        "box_order": "xywh",
        "activation": "none",
    }
    arrays = {"boxes": raw, "scores": scores, "landmarks": points}
    (item,) = decode("ssd", options, ("face",), placement=LETTERBOX, **arrays)
    assert (item.label, item.score) == ("face", pytest.approx(0.8))
    assert item.box == pytest.approx(to_source(box), abs=0.01)
    assert item.points[1] == pytest.approx((2 * x + 8, 2 * (y - 2 - 8)), abs=0.01)


# -- fomo


def test_touching_cells_of_one_class_are_one_item():
    cells = np.zeros((1, 8, 12, 3))
    cells[..., 0] = 1.0
    for y, x, which, score in ((1, 2, 1, 0.7), (2, 3, 1, 0.9), (2, 4, 2, 0.6), (6, 9, 1, 0.8)):
        cells[0, y, x] = 0
        cells[0, y, x, which] = score
    items = decode("fomo", {}, ("cat", "dog"), cells=cells)
    assert [(item.label, item.index, round(item.score, 2)) for item in items] == [
        ("cat", 1, 0.9),
        ("cat", 1, 0.8),
        ("dog", 2, 0.6),
    ]
    assert items[0].box == (16, 8, 32, 24)
    assert items[2].box == (32, 16, 40, 24)
    assert decode("fomo", {}, ("cat", "dog"), post={"score_threshold": 0.95}, cells=cells) == ()


# -- what a manifest may get wrong


@pytest.mark.parametrize(
    ("decoder", "options", "shapes", "message"),
    [
        ("yolo", {"layout": "columns"}, {"predictions": (1, 4, 8400)}, "no class is left"),
        ("yolo", {}, {"other": (1, 2)}, "needs an output 'predictions'"),
        ("yolo", {"strides": [8, 16]}, {"predictions": (1, 99, 7)}, "make 120 rows at 96x64"),
        ("yolo", {"strides": [8], "units": "shares"}, {"predictions": (1, 96, 7)}, "want box cxcywh"),
        ("yolo", {"keypoints": 2, "angle": True}, {"predictions": (1, 9, 14)}, "want only one of"),
        ("yolo", {"keypoints": 2, "point_names": ["a"]}, {"predictions": (1, 9, 14)}, "want 2 names, got 1"),
        ("yolo", {"masks": 2}, {"predictions": (1, 9, 9)}, "needs an output 'prototypes'"),
        ("yolo", {}, {"predictions": (1, 9, 7), "prototypes": (1, 2, 4, 4)}, "of no use without"),
        ("yolo", {"objectness": True}, {"boxes": (1, 9, 4), "scores": (1, 9, 3)}, "without objectness"),
        ("yolo", {}, {"predictions": (1, 9, 12)}, "want 8 labels, one for each class, got 3"),
        ("detections", {"columns": ["left", "score"]}, {"rows": (1, 9, 6)}, "want score, class and"),
        ("detections", {"angle": True}, {"rows": (1, 9, 7)}, "angle: want the columns cx"),
        ("detections", {}, {"rows": (1, 9, 7)}, r"want shape \[1, -1, 6\]"),
        ("detections", {"keypoints": 1}, {"boxes": (1, 9, 4)}, "need an output 'rows'"),
        ("detections", {}, {"boxes": (1, 9, 4), "scores": (1, 9)}, "needs an output 'classes'"),
        ("detr", {}, {"logits": (1, 9, 3), "boxes": (1, 8, 4)}, "output 'boxes'"),
        ("ssd", {}, {"boxes": (1, 9, 4), "scores": (1, 9, 3)}, "anchors: want these, or strides"),
        ("bins", {"strides": [8]}, {"scores0": (1, 95, 3)}, r"want shape \[1, 96, -1\]"),
        ("bins", {"strides": [8]}, {"predictions": (1, 96, 32)}, "no class is left"),
        ("yolo-grid", {"strides": [8]}, {"grid0": (1, 16, 8, 12)}, "want 1 lists, one for each stride"),
        ("yolo-grid", {"strides": [8], "anchors": [[1, 2, 3]]}, {"grid0": (1, 16, 8, 12)}, "as many pairs"),
        ("yolo-grid", {"strides": [8], "anchors": [[1, 2]]}, {"grid0": (1, 5, 8, 12)}, "have no box"),
        ("fomo", {}, {"cells": (1, 8, 4)}, "output 'cells'"),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_the_outputs_is_refused(decoder, options, shapes, message):
    setup = Setup(Post(decoder=decoder, options=options), LABELS, shapes, SIZE)
    with pytest.raises(BundleError, match=message):
        make_decoder(setup)


@pytest.mark.parametrize("decoder", ["yolo", "detections", "detr"])
def test_a_detector_without_an_image_is_refused(decoder):
    shapes = {"predictions": (1, 9, 7), "rows": (1, 9, 6), "logits": (1, 9, 3), "boxes": (1, 9, 4)}
    with pytest.raises(BundleError, match="needs an image model"):
        make_decoder(Setup(Post(decoder=decoder), LABELS, shapes, None))


@given(st.integers(0, 12), st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_the_rows_with_a_score_that_counts_are_found_however_the_scores_lie_in_memory(
    n, classes, seed, across
):
    scores = np.random.default_rng(seed).integers(0, 5, (n, classes)).astype(np.float32) / 4
    held = np.asfortranarray(scores) if across else scores
    finish = Finish(Setup(Post(decoder="ssd"), (), {}, SIZE), DetectOptions(), classes)
    rows, which, best = finish.best(held, 0.75)
    assert rows.tolist() == [row for row in range(n) if scores[row].max() >= 0.75]
    assert which.tolist() == scores[rows].argmax(axis=1).tolist()
    assert best.tolist() == scores[rows].max(axis=1).tolist()
