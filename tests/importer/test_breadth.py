"""What a file's answers say: the same head written in many ways is read rightly, asked back, or refused.

Each case draws one object into the outputs as an exporter writes them, and looks whether it comes back.
"""

import numpy as np
import pytest
from importer.test_detector_families import foreign

from edgekit.core.errors import BundleError
from edgekit.core.spec import Post, Quantization
from edgekit.importer.decide import conclude
from edgekit.importer.findings import OWN_KEYS, POST_KEYS, pre_keys_of
from edgekit.importer.flags import checked_flags
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder

SIZE = 320
BOX = (96.0, 64.0, 160.0, 192.0)
CENTRE = (128.0, 128.0, 64.0, 128.0)
COCO, CLASS = 80, 15
NAMES = tuple("abcde")


def cells(strides=(8, 16, 32), anchors=1, size=SIZE):
    """Each cell's centre and stride, in pixels."""
    parts = []
    for stride in strides:
        y, x = np.mgrid[: -(-size // stride), : -(-size // stride)]
        middle = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride
        parts += [np.concatenate([middle, np.full((len(middle), 1), stride)], 1)] * anchors
    return np.concatenate(parts)


def dense(classes=COCO, *, anchors=1, strides=(8, 16, 32)):
    """Boxes (centre and size, of each cell) and scores, with one object in the cell at its middle."""
    grid, random = cells(strides, anchors), np.random.default_rng(1)
    boxes = np.concatenate([grid[:, :2], grid[:, 2:] * random.uniform(1, 3, (len(grid), 2))], 1)
    scores = random.uniform(0, 0.02, (len(grid), classes))
    row = int(np.abs(grid[:, :2] - 128).sum(1).argmin())
    boxes[row], scores[row, CLASS % classes] = CENTRE, 0.9
    return boxes, scores


def corners(boxes):
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def logits(scores):
    return np.log(scores / (1 - scores))


def table(*parts, turned=False):
    rows = np.concatenate(parts, axis=1)[None]
    return rows.swapaxes(1, 2) if turned else rows


def seen(answers, *, size=SIZE, flags=None, **facts):
    """The conclusion of a file with these answers, its values, and what its decoder sees in pixels."""
    shapes = {name: np.shape(array) for name, array in answers.items()}
    file = foreign(size, shapes, answers, flags=checked_flags(flags or {}), **facts)
    conclusion = conclude(file)
    values = {row.key: row.value for row in conclusion.findings}
    known = pre_keys_of(values["decoder"]) | POST_KEYS | OWN_KEYS
    post = Post(
        decoder=values["decoder"],
        score_threshold=0.3,
        options={key: value for key, value in values.items() if key not in known},
    )
    tensors = {
        name: np.asarray(answers[row.tensor], np.float32).reshape([max(n, -1) for n in row.shape])
        if row.shape
        else np.asarray(answers[row.tensor], np.float32)
        for name, row in conclusion.outputs.items()
    }
    outputs = {name: array.shape for name, array in tensors.items()}
    decode = make_decoder(Setup(post, tuple(values.get("labels") or ()), outputs, (size, size)))
    return conclusion, values, decode(Outcome(tensors))


def asked(answers, **given):
    with pytest.raises(BundleError) as caught:
        seen(answers, **given)
    return [reason.split(":")[0].removeprefix("--").removesuffix("=VALUE") for reason in caught.value.reasons]


def check_object(items, label="cat"):
    assert [item.label for item in items] == [label]
    np.testing.assert_allclose(items[0].box, BOX, atol=0.6)
    assert items[0].score == pytest.approx(0.9, abs=0.01)


# -- one row a cell


BOXES, SCORES = dense()
LABEL = {"labels": "coco80"}
ANSWERS = {
    "columns in pixels": (table(BOXES, SCORES, turned=True), "yolov8"),
    "rows in pixels": (table(BOXES, SCORES), "yolov8"),
    "columns as shares": (table(BOXES / SIZE, SCORES, turned=True), "yolov8"),
    "logits": (table(BOXES, logits(SCORES), turned=True), "yolov8"),
    "decoded YOLOX": (table(BOXES, np.ones((len(BOXES), 1)) * 0.98, SCORES), "yolox"),
    "decoded YOLOX as shares": (table(BOXES / SIZE, np.ones((len(BOXES), 1)) * 0.98, SCORES), "yolox"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_one_head_is_read_rightly_however_it_was_exported(kind):
    answers, family = ANSWERS[kind]
    conclusion, _, items = seen({"o": answers})
    assert conclusion.family == family
    assert items[0].label == "cat"
    np.testing.assert_allclose(items[0].box, BOX, atol=0.6)
    assert 0.85 < items[0].score < 0.95


def test_corners_are_told_by_their_cells_and_their_padding_is_asked_for():
    answers = {"o": table(corners(BOXES), SCORES, turned=True)}
    assert asked(answers) == ["align"]
    _, values, items = seen(answers, flags={"align": "top-left"})
    assert (values["box"], values["align"]) == ("xyxy", "top-left")
    check_object(items)


def test_a_full_picture_in_every_cell_is_not_taken_for_corners():
    whole = np.tile([160.0, 160.0, 319.0, 319.0], (len(BOXES), 1))
    _, values, _ = seen({"o": table(whole, SCORES, turned=True)})
    assert values["box"] == "cxcywh"


def test_an_angle_is_told_by_that_only_the_last_number_goes_below_0():
    angle = np.random.default_rng(2).uniform(-0.7, 2.3, (len(BOXES), 1))
    boxes, scores = dense(5)
    answers = {"o": table(boxes, scores, angle, turned=True)}
    assert asked(answers) == ["labels"]
    conclusion, _, items = seen(answers, flags={"labels": NAMES})
    assert conclusion.value("task") == "oriented"
    assert [item.label for item in items] == ["a"]


def test_keypoints_are_no_classes_and_are_asked_for():
    boxes, scores = dense(1)
    points = np.tile([120.0, 130.0, 0.5] * 5, (len(boxes), 1))
    answers = {"o": table(boxes, scores, points, turned=True)}
    assert asked(answers) == ["keypoints"]
    _, _, items = seen(answers, flags={"keypoints": 5, "labels": ["face"]})
    check_object(items, "face")
    assert items[0].points[4] == (120.0, 130.0)


def test_52_classes_are_no_pose_although_they_are_as_many_numbers():
    boxes, scores = dense(52)
    names = [f"card {number}" for number in range(52)]
    assert asked({"o": table(boxes, scores, turned=True)}) == ["labels"]
    _, _, items = seen({"o": table(boxes, scores, turned=True)}, flags={"labels": names})
    check_object(items, "card 15")


def test_raw_yolox_rows_may_be_logits():
    grid = cells()
    raw = np.concatenate(
        [BOXES[:, :2] / grid[:, 2:] - (grid[:, :2] / grid[:, 2:] - 0.5), np.log(BOXES[:, 2:] / grid[:, 2:])],
        1,
    )
    raw[0, 2:] = -0.1
    objects = np.full((len(grid), 1), 0.999)
    for scores, activation in ((SCORES, "none"), (logits(SCORES), "sigmoid")):
        given = objects if activation == "none" else logits(objects)
        _, values, items = seen({"o": table(raw, given, scores)})
        assert values["activation"] == activation
        check_object(items)


def test_a_quantised_output_of_coarse_steps_holds_percentages_even_if_nothing_was_seen():
    shape = (1, 3 * len(cells()), 6)
    file = foreign(SIZE, {"o": shape}, {"o": np.zeros(shape)}, flags={"labels": ("person",)})
    coarse = FileTensor("o", "INT8", shape, Quantization(scale=1.85, zero_point=-122))
    conclusion = conclude(ModelFile(**{**vars(file), "outputs": (coarse,)}))
    assert conclusion.value("score_scale") == 100.0


# -- Ultralytics' metadata of other years


META = {"task": "detect", "stride": 32, "names": dict(enumerate(f"n{n}" for n in range(COCO)))}


def ends(rows=300):
    found = np.zeros((rows, 6))
    found[:, :4], found[:, 4] = [10.0, 10.0, 30.0, 40.0], np.linspace(0.02, 0.001, rows)
    found[0] = [*BOX, 0.9, CLASS]
    return found


def test_yolov10_without_the_key_end2end_is_known_by_its_rows():
    _, values, items = seen({"o": ends()[None]}, metadata=META)
    assert (values["decoder"], values["resize"]) == ("detections", "letterbox")
    check_object(items, "n15")


def test_rows_that_are_neither_stay_a_contradiction():
    rows = ends()
    rows[:, 5] = 0.5
    with pytest.raises(BundleError, match="metadata say detect"):
        seen({"o": rows[None]}, metadata=META)


def test_an_older_rt_detr_of_ultralytics_is_stretched_and_not_suppressed():
    boxes = np.tile([0.5, 0.5, 0.01, 0.01], (300, 1))
    boxes[7] = np.array(CENTRE) / SIZE
    scores = np.full((300, COCO), 0.01)
    scores[7, CLASS] = 0.9
    _, values, items = seen({"o": table(boxes, scores)}, metadata=META)
    assert (values["resize"], values["nms"], values["units"]) == ("stretch", "none", "shares")
    check_object(items, "n15")


# -- lists


def test_rows_of_a_list_say_by_their_values_which_number_is_what():
    rows, front = ends(20), np.zeros((20, 1))
    swapped = rows[:, [0, 1, 2, 3, 5, 4]]
    for answers in (rows[None], np.concatenate([front, rows], 1), np.concatenate([front, swapped], 1)):
        assert asked({"o": answers}) == ["labels"]
        _, values, items = seen({"o": answers}, flags=LABEL)
        assert values["resize"] == "letterbox"
        check_object(items)


def test_a_list_of_centres_as_shares_is_stretched_as_rt_detr_is():
    rows = ends(300)
    rows[:, :4] = [0.6, 0.6, 0.1, 0.1]
    rows[0, :4] = np.array(CENTRE) / SIZE
    _, values, items = seen({"o": rows[None]}, flags=LABEL)
    assert (values["resize"], values["units"]) == ("stretch", "shares")
    check_object(items)


def test_a_list_in_which_nothing_was_found_is_asked_for_its_columns():
    assert asked({"o": np.zeros((1, 100, 6))}) == ["labels", "columns"]


def test_detection_output_has_its_first_class_at_1_and_the_colours_of_opencv():
    rows = np.zeros((1, 1, 200, 7))
    rows[0, 0, 0] = [0, 1, 0.9, *(np.array(BOX) / SIZE)]
    _, values, items = seen({"o": rows}, flags={"labels": ["face"]})
    assert values["color"] == "BGR"
    check_object(items, "face")


@pytest.mark.parametrize("batch", [(1,), ()])
def test_mmdeploys_boxes_carry_their_score(batch):
    rows = ends(10)
    answers = {"dets": rows[:, :5].reshape(*batch, 10, 5), "labels": rows[:, 5].reshape(*batch, 10)}
    shapes = {name: array.shape for name, array in answers.items()}
    file = foreign(SIZE, shapes, answers, flags={"mean": 0, "std": 255, **checked_flags(LABEL)})
    outputs = tuple(
        FileTensor(t.name, "INT64" if t.name == "labels" else "FP32", t.shape) for t in file.outputs
    )
    conclusion = conclude(ModelFile(**{**vars(file), "outputs": outputs}))
    shapes = {name: row.shape for name, row in conclusion.outputs.items()}
    decode = make_decoder(Setup(Post(decoder="detections"), conclusion.value("labels"), shapes, (SIZE, SIZE)))
    tensors = {name: np.asarray(answers[row.tensor], np.float32) for name, row in conclusion.outputs.items()}
    check_object(decode(Outcome(tensors)))


@pytest.mark.parametrize("first", ["???", "background", ""])
def test_a_background_in_front_of_the_labels_is_not_counted_by_the_operator(first):
    scores, classes = np.full((1, 10), 0.01), np.zeros((1, 10))
    scores[0, 0], classes[0, 0] = 0.9, 2
    boxes = np.tile(np.array(BOX)[[1, 0, 3, 2]] / SIZE, (1, 10, 1))
    answers = {"b": boxes, "c": classes, "s": scores, "n": np.array([1.0])}
    facts = {"layout": "NHWC", "operators": {"TFLite_Detection_PostProcess": 1}}
    for labels, wanted in (((first, *NAMES), "c"), (NAMES, "c")):
        _, _, items = seen(answers, labels=labels, labels_from="labelmap.txt", **facts)
        check_object(items, wanted)
        _, _, items = seen(answers, flags={"labels": list(labels)}, **facts)
        check_object(items, wanted)


# -- boxes and scores apart


def test_yolo_nas_is_known_by_a_cells_corners():
    conclusion, values, items = seen({"a": corners(BOXES)[None], "b": SCORES[None]})
    assert (conclusion.family, values["resize"], values["color"]) == ("yolo-nas", "letterbox", "RGB")
    check_object(items)


def test_an_ssd_of_3000_priors_has_its_background_where_it_is_usual():
    random = np.random.default_rng(3)
    low = random.uniform(0, 0.8, (3000, 2))
    boxes, scores = np.concatenate([low, low + 0.1], 1), np.full((3000, 6), 0.01)
    scores[:, 0] = 0.95
    boxes[9], scores[9] = np.array(BOX) / 300, [0.06, 0.01, 0.9, 0.01, 0.01, 0.01]
    labels = ["background", *NAMES]
    conclusion, values, items = seen(
        {"boxes": boxes[None], "scores": scores[None]}, size=300, flags={"labels": labels}
    )
    assert (conclusion.family, values["background"], values["mean"]) == ("pytorch-ssd", "first", 127)
    check_object(items, "b")


def test_yolov4s_boxes_have_an_axis_more():
    boxes, scores = dense(anchors=3)
    answers = {"boxes": (corners(boxes) / SIZE)[None, :, None], "confs": scores[None]}
    conclusion, values, items = seen(answers)
    assert (conclusion.family, values["resize"]) == ("yolov4", "stretch")
    check_object(items)


def test_of_unknown_boxes_the_pixels_are_asked_for_and_offsets_are_not_read():
    random = np.random.default_rng(4)
    low = random.uniform(0, 0.8, (1917, 2))
    boxes, scores = np.concatenate([low, low + 0.1], 1), random.uniform(0, 0.02, (1917, 5))
    assert asked({"x": boxes[None], "y": scores[None]}) == ["mean", "std", "labels"]
    offsets = random.normal(0, 2, (1, 1917, 4))
    with pytest.raises(BundleError, match="no family"):
        seen({"x": offsets, "y": scores[None]})
    wanted = asked({"x": offsets, "y": scores[None]}, flags={"decoder": "ssd"})
    assert wanted == ["mean", "std", "labels", "anchors", "activation"]


# -- raw grids


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "split"])
def test_raw_grids_are_sorted_by_stride_and_asked_for_formula_and_anchors(layout):
    anchors = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [64, 128, 156, 198, 373, 326]]
    answers = {}
    for name, stride in (("z", 32), ("y", 16), ("x", 8)):
        grid = np.full((3, SIZE // stride, SIZE // stride, 10), -6.0)
        if stride == 32:  # the first anchor has the object's size: 2 * sigmoid(0) is 1
            grid[0, 3, 3, :4] = [np.log(3), np.log(3), 0, 0]  # 1.5 - .5 + 3 cells of 32 pixels
            grid[0, 3, 3, 4:] = [6, -6, -6, 6, -6, -6]
        turned = {"NCHW": (0, 3, 1, 2), "NHWC": (1, 2, 0, 3), "split": (0, 1, 2, 3)}[layout]
        grid = grid.transpose(turned)
        high = SIZE // stride
        shape = {"NCHW": (1, 30, high, high), "NHWC": (1, high, high, 30), "split": (1, 3, high, high, 10)}
        answers[name] = grid.reshape(shape[layout])
    assert asked(answers) == ["formula", "anchors", "labels"]
    _, values, items = seen(answers, flags={"formula": "v5", "anchors": anchors, "labels": NAMES})
    assert values["strides"] == (8, 16, 32)
    assert [item.label for item in items] == ["c"]
    np.testing.assert_allclose(items[0].box, BOX, atol=0.6)


def test_fastestdet_is_known_by_its_softmax_of_classes():
    grid = np.full((85, 20, 20), 0.0)
    grid[5:] = 1 / 80
    grid[0, 7, 7], grid[3:5, 7, 7] = 0.99, logits(np.array([0.2, 0.4]))
    grid[1:3, 7, 7] = np.arctanh(0.999)
    grid[5:, 7, 7], grid[5 + CLASS, 7, 7] = 0, 1.0
    conclusion, values, items = seen({"o": grid[None]})
    assert (conclusion.family, values["color"]) == ("fastestdet", "BGR")
    assert items[0].label == "cat"
    np.testing.assert_allclose(items[0].box, BOX, atol=0.6)


def test_nanodet_plus_has_a_fourth_stride_and_cells_at_their_corners():
    strides = (8, 16, 32, 64)
    grid = cells(strides)
    bins = np.full((len(grid), 4, 8), -9.0)
    scores = np.full((len(grid), COCO), 0.01)
    row = int(np.flatnonzero((grid[:, 2] == 32) & (grid[:, 0] == 144) & (grid[:, 1] == 144))[0])
    scores[row, CLASS] = 0.9
    for side, steps in enumerate((1, 2, 1, 2)):  # from the corner at 128, 128
        bins[row, side, steps] = 9.0
    conclusion, _, items = seen({"o": table(scores, bins.reshape(len(grid), 32))})
    assert conclusion.family == "nanodet-plus"
    check_object(items)


def test_a_map_of_logits_is_no_fomo():
    answers = {"o": np.random.default_rng(0).normal(size=(1, 40, 40, 6))}
    with pytest.raises(BundleError, match="no family"):
        seen(answers)


# -- landmarks


def test_landmarks_of_a_body_are_the_first_33_and_its_flag_may_be_a_logit():
    numbers = np.tile([120.0, 130.0, 0.0, 3.0, 3.0], 39)[None]
    conclusion, values, items = seen(
        {"a": numbers, "b": np.array([[2.0]]), "c": np.zeros((1, 117))}, size=256
    )
    assert (conclusion.family, values["activation"]) == ("blazepose-landmarks", "sigmoid")
    assert (len(items[0].points), items[0].point_names[0]) == (33, "nose")
    assert items[0].score == pytest.approx(0.8808, abs=1e-3)
    _, _, nothing = seen({"a": numbers, "b": np.array([[0.1]]), "c": np.zeros((1, 117))}, size=256)
    assert not nothing


def test_a_hands_landmarks_in_pixels_are_taken_and_not_those_in_metres():
    answers = {"far": np.full((1, 63), 0.1), "near": np.full((1, 63), 100.0), "flag": np.array([[0.9]])}
    conclusion, _, _ = seen(answers, size=224)
    assert conclusion.outputs["landmarks"].tensor == "near"


@pytest.mark.parametrize("order", [("eye", "iris"), ("iris", "eye")])
def test_an_eyes_contour_and_iris_are_one_item_whatever_the_order_of_the_outputs(order):
    numbers = {"eye": np.full((1, 213), 20.0), "iris": np.full((1, 15), 40.0)}
    conclusion, values, items = seen({name: numbers[name] for name in order}, size=64)
    assert (conclusion.family, conclusion.no_real_file) == ("iris-landmarks", False)
    assert (values["mean"], values["std"], values["labels"]) == (0, 255, ("eye",))
    (item,) = items
    by_name = dict(zip(item.point_names, item.points, strict=True))
    assert (len(by_name), by_name["lower lid 0"], by_name["iris"]) == (76, (20, 20), (40, 40))


def test_an_eye_without_its_iris_is_no_iris_network():
    answers = {"eye": np.full((1, 213), 20.0)}
    with pytest.raises(BundleError, match="only you know: decoder"):
        seen(answers, size=64)


def test_the_face_landmarkers_mesh_has_the_irises_and_no_real_file():
    answers = {"mesh": np.full((1, 1, 1, 1434), 20.0), "flag": np.full((1, 1), 3.0)}
    conclusion, values, _ = seen(answers, size=256)
    assert (conclusion.family, values["points"], conclusion.no_real_file) == ("face-landmarks", 478, True)
