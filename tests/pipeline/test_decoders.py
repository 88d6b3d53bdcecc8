"""Decoders find what was put into the tensors, and NMS does what the naive one does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Post
from edgekit.pipeline.decoders import DECODERS, Outcome, Setup, make_decoder
from edgekit.pipeline.decoders.anchors import AnchorOptions, make_anchors
from edgekit.pipeline.decoders.nms import best_first, blend, overlap, suppress
from edgekit.pipeline.pre import place

ANCHORS = {
    "kind": "ssd",
    "layers": 2,
    "strides": [16, 32],
    "min_scale": 0.2,
    "max_scale": 0.9,
    "aspect_ratios": [1.0, 2.0, 0.5],
}
FACE_ANCHORS = {
    "layers": 4,
    "strides": [8, 16, 16, 16],
    "min_scale": 0.1484375,
    "max_scale": 0.75,
    "aspect_ratios": [1.0],
    "fixed_anchor_size": True,
}
SSD_OIDV4 = {
    "layers": 6,
    "strides": [16, 32, 64, 128, 256, 512],
    "min_scale": 0.2,
    "max_scale": 0.95,
    "aspect_ratios": [1.0, 2.0, 0.5, 3.0, 0.3333],
    "reduce_boxes_in_lowest_layer": True,
}


def anchors(options, width=64, height=64):
    return make_anchors(AnchorOptions(**{**options, "strides": tuple(options["strides"])}), width, height)


def build(decoder, shapes, options=None, labels=(), size=None, **post):
    outputs = {name: tuple(shape) for name, shape in shapes.items()}
    return make_decoder(
        Setup(Post(decoder=decoder, options=options or {}, **post), tuple(labels), outputs, size)
    )


def tensors(**arrays):
    return Outcome({name: np.asarray(array, np.float32) for name, array in arrays.items()})


# -- classify


def test_a_classifier_tells_the_best_first_and_none_below_the_threshold():
    decode = build("classify", {"scores": (1, 4)}, labels="abcd", score_threshold=0.2)
    items = decode(tensors(scores=[[0.1, 0.5, 0.2, 0.2]]))
    assert [(item.label, item.index) for item in items] == [("b", 1), ("c", 2), ("d", 3)]


def test_logits_become_probabilities():
    decode = build("classify", {"scores": (1, 2)}, {"activation": "softmax"}, score_threshold=0.0)
    assert [item.score for item in decode(tensors(scores=[[0.0, math.log(3)]]))] == pytest.approx(
        [0.75, 0.25]
    )


def test_a_sigmoid_judges_each_class_by_itself():
    decode = build("classify", {"scores": (1, 3)}, {"activation": "sigmoid"}, labels="abc")
    items = decode(tensors(scores=[[math.log(9), math.log(4), -1.0]]))
    assert [(item.label, round(item.score, 4)) for item in items] == [("a", 0.9), ("b", 0.8)]


def test_a_temperature_divides_the_logits_before_their_activation():
    shapes, options = {"scores": (1, 2)}, {"activation": "softmax", "temperature": 2.0}
    best = build("classify", shapes, options)(tensors(scores=[[2 * math.log(3), 0.0]]))[0]
    assert best.score == pytest.approx(0.75)
    with pytest.raises(BundleError, match=r"post\.options\.temperature: want an activation"):
        build("classify", shapes, {"temperature": 2.0})


def test_a_model_of_several_heads_gives_the_best_of_each_under_its_outputs_name():
    heads = [
        {"output": "age", "labels": ["young", "old"], "activation": "softmax"},
        {"output": "hat", "labels": ["hat"]},
    ]
    shapes = {"age": (1, 2), "hat": (1, 1)}
    decode = build("classify", shapes, {"activation": "sigmoid", "heads": heads})
    items = decode(tensors(age=[[0.0, math.log(3)]], hat=[[math.log(4)]]))
    assert [(item.label, item.index, round(item.score, 4)) for item in items] == [
        ("age: old", 1, 0.75),
        ("hat: hat", 0, 0.8),
    ]
    with pytest.raises(BundleError, match="needs an output 'age'"):
        build("classify", {"hat": (1, 1)}, {"heads": heads})
    with pytest.raises(BundleError, match="want 3 labels"):
        build("classify", shapes | {"age": (1, 3)}, {"heads": heads})


def test_smoothed_probabilities_are_the_mean_of_the_last_frames_until_a_reset():
    setup = Setup(Post(decoder="classify", options={"smoothing": 2}), ("a", "b"), {"scores": (1, 2)})
    decode = make_decoder(setup)
    frames = [tensors(scores=[row]) for row in ([1.0, 0.0], [0.0, 1.0], [0.1, 0.9])]
    best = [decode(frame)[0] for frame in frames]
    assert [(item.label, round(item.score, 4)) for item in best] == [("a", 1.0), ("a", 0.5), ("b", 0.95)]
    for forget in setup.on_reset:
        forget()
    assert decode(frames[0])[0].score == 1.0


@pytest.mark.parametrize("labels", [("none", "x", "y"), ("x", "y")])
def test_the_background_is_never_told_with_or_without_a_label_for_it(labels):
    decode = build("classify", {"scores": (1, 3)}, {"background": True}, labels, score_threshold=0.0)
    items = decode(tensors(scores=[[0.9, 0.02, 0.08]]))
    assert [(item.label, item.index) for item in items] == [("y", 2), ("x", 1)]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 40))
def test_of_equal_scores_the_lower_index_is_the_better(values, count):
    scores = np.array(values, np.float32)
    wanted = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert best_first(scores, count).tolist() == wanted


def test_a_wrong_number_of_labels_is_refused():
    with pytest.raises(BundleError, match="want 4 labels, one for each class, got 2"):
        build("classify", {"scores": (1, 4)}, labels=("a", "b"))


# -- what a manifest may get wrong


def test_an_unknown_decoder_names_the_known_ones():
    with pytest.raises(BundleError, match=f"want one of {', '.join(sorted(DECODERS))}, got 'yolo99'"):
        build("yolo99", {})


def test_every_wrong_option_is_told():
    with pytest.raises(BundleError) as caught:
        build(
            "ssd",
            {"boxes": (1, 8, 4), "scores": (1, 8, 2)},
            {"anchors": {"layers": 0}, "colour": 1},
            size=(64, 64),
        )
    assert caught.value.message.startswith("bundle.json: post.options.colour: want one of ")
    assert {"post.options.anchors.layers", "post.options.anchors.strides"} <= {
        reason.split(":")[0] for reason in caught.value.reasons
    }


@pytest.mark.parametrize("decoder", ["classify", "ssd", "blazeface", "anomaly", "vad"])
def test_a_decoder_without_its_output_is_refused(decoder):
    options = {
        "ssd": {"anchors": ANCHORS},
        "blazeface": {"anchors": ANCHORS, "box_scale": 64},
        "anomaly": {"threshold": 1.0},
    }
    with pytest.raises(BundleError, match="needs an output"):
        build(decoder, {"other": (1, 2)}, options.get(decoder), size=(64, 64))


def test_another_number_of_anchors_than_outputs_is_refused():
    with pytest.raises(BundleError, match="make 80 anchors, the model has 9"):
        build("ssd", {"boxes": (1, 9, 4), "scores": (1, 9, 3)}, {"anchors": ANCHORS}, size=(64, 64))


# -- anchors


def test_the_documented_settings_make_the_documented_number_of_anchors():
    assert len(anchors(SSD_OIDV4, 300, 300)) == 1917
    assert len(anchors(FACE_ANCHORS, 128, 128)) == 896
    full_range = {**FACE_ANCHORS, "layers": 1, "strides": [4], "interpolated_scale_aspect_ratio": 0.0}
    assert len(anchors(full_range, 192, 192)) == 2304


def test_anchors_stand_in_the_order_of_the_models_outputs():
    made = anchors(FACE_ANCHORS, 128, 128)
    np.testing.assert_allclose(made[0], [0.5 / 16, 0.5 / 16, 1, 1])
    np.testing.assert_allclose(made[2], [1.5 / 16, 0.5 / 16, 1, 1])
    np.testing.assert_allclose(made[512], [0.5 / 8, 0.5 / 8, 1, 1])


def test_the_lowest_layer_may_have_its_own_three_boxes():
    made = anchors(SSD_OIDV4, 300, 300)
    np.testing.assert_allclose(made[:3, 2], [0.1, 0.2 * 2**0.5, 0.2 * 0.5**0.5], rtol=1e-6)
    np.testing.assert_allclose(made[:3, 3], [0.1, 0.2 / 2**0.5, 0.2 / 0.5**0.5], rtol=1e-6)
    scale, following = 0.2 + 0.75 / 5, 0.2 + 0.75 * 2 / 5
    np.testing.assert_allclose(made[19 * 19 * 3 + 5, 2:], [(scale * following) ** 0.5] * 2, rtol=1e-6)


def test_an_input_that_is_not_square_has_its_own_grid():
    made = anchors(ANCHORS, 64, 32)
    assert len(made) == (4 * 2 + 2 * 1) * 4
    np.testing.assert_allclose(made[4, :2], [1.5 / 4, 0.5 / 2])


# -- ssd


def ssd_case(order="yxhw", box_scale=(10.0, 10.0, 5.0, 5.0)):
    """Encode two boxes of 64 x 64 pixels the way a model is trained to."""
    grid = anchors(ANCHORS)
    raw, scores = np.zeros((len(grid), 4), np.float32), np.full((len(grid), 3), -9.0, np.float32)
    for anchor, box, column, score in ((5, (8, 8, 24, 40), 1, 3.0), (70, (30, 20, 60, 50), 2, 1.0)):
        left, top, right, bottom = np.array(box) / 64
        cx, cy, w, h = grid[anchor]
        x, y = ((left + right) / 2 - cx) / w, ((top + bottom) / 2 - cy) / h
        offsets = [y, x, math.log((bottom - top) / h), math.log((right - left) / w)]
        if order == "xywh":
            offsets = [offsets[i] for i in (1, 0, 3, 2)]
        raw[anchor] = np.array(offsets) * box_scale
        scores[anchor, column] = score
    return raw[None], scores[None]


@pytest.mark.parametrize("order", ["yxhw", "xywh"])
def test_a_detector_finds_the_boxes_that_were_encoded(order):
    raw, scores = ssd_case(order)
    options = {"anchors": ANCHORS, "box_order": order}
    decode = build(
        "ssd", {"boxes": raw.shape, "scores": scores.shape}, options, ("?", "cat", "dog"), (64, 64)
    )
    outcome = tensors(boxes=raw, scores=scores)
    outcome.placement = place("letterbox", (128, 64), (64, 64))  # half size, 16 pixels of grey above
    cat, dog = decode(outcome)
    assert (cat.label, cat.index, dog.label, dog.index) == ("cat", 1, "dog", 2)
    assert cat.score == pytest.approx(1 / (1 + math.exp(-3)))
    assert cat.box == pytest.approx((16, 0, 48, 48), abs=1e-3)  # its top lies in the grey, and is cut
    assert dog.box == pytest.approx((60, 8, 120, 64), abs=1e-3)


@pytest.mark.parametrize(("activation", "to_output"), [("none", lambda p: p), ("softmax", np.log)])
def test_other_activations_give_the_same_scores(activation, to_output):
    raw, _ = ssd_case()
    probability = np.full((80, 3), 0.05, np.float32)
    probability[:, 0] = 0.9
    probability[5] = [0.2, 0.7, 0.1]
    options = {"anchors": ANCHORS, "activation": activation}
    decode = build("ssd", {"boxes": raw.shape, "scores": (1, 80, 3)}, options, (), (64, 64))
    (item,) = decode(tensors(boxes=raw, scores=to_output(probability)[None]))
    assert (item.index, item.score) == (1, pytest.approx(0.7))


def test_nothing_over_the_threshold_is_nothing_found():
    raw, scores = ssd_case()
    decode = build("ssd", {"boxes": raw.shape, "scores": scores.shape}, {"anchors": ANCHORS}, (), (64, 64))
    assert decode(tensors(boxes=raw, scores=np.full_like(scores, -9))) == ()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_no_finite_outputs_break_a_detector(seed, threshold):
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 10.0 ** rng.integers(0, 30), (1, 80, 4))
    scores = rng.normal(0, 10.0 ** rng.integers(0, 30), (1, 80, 3))
    decode = build(
        "ssd",
        {"boxes": raw.shape, "scores": scores.shape},
        {"anchors": ANCHORS},
        (),
        (64, 64),
        score_threshold=threshold,
    )
    outcome = tensors(boxes=raw, scores=scores)
    outcome.placement = place("stretch", (640, 480), (64, 64))
    for item in decode(outcome):
        left, top, right, bottom = item.box
        assert 0 <= left <= right <= 640
        assert 0 <= top <= bottom <= 480
        assert threshold - 1e-6 <= item.score <= 1


# -- blazeface


def face_case():
    grid = anchors(FACE_ANCHORS, 128, 128)
    raw, logits = np.zeros((1, 896, 16), np.float32), np.full((1, 896, 1), -100.0, np.float32)
    cx, cy = grid[100, :2] * 128
    raw[0, 100] = [
        40 - cx,
        60 - cy,
        32,
        48,
        *(offset for i in range(6) for offset in (30 + i - cx, 50 + i - cy)),
    ]
    logits[0, 100] = 2.0
    return raw, logits


@pytest.mark.parametrize("weighted", [False, True])
def test_a_face_and_its_landmarks_are_found_where_they_were_encoded(weighted):
    raw, logits = face_case()
    options = {"anchors": FACE_ANCHORS, "box_scale": 128, "weighted": weighted}
    decode = build(
        "blazeface", {"regressors": raw.shape, "classifiers": logits.shape}, options, (), (128, 128)
    )
    outcome = tensors(regressors=raw, classifiers=logits)
    outcome.placement = place("stretch", (256, 256), (128, 128))
    (face,) = decode(outcome)
    assert face.label == "face"
    assert face.score == pytest.approx(1 / (1 + math.exp(-2)))
    assert face.box == pytest.approx((48, 72, 112, 168), abs=1e-3)
    assert face.points[5] == pytest.approx((70, 110), abs=1e-3)


REGIONS = [
    ({}, (10, 10), (10, 4), (20, 20, 24, 24, 0)),  # upright: the head is above
    ({}, (10, 10), (16, 10), (20, 20, 24, 24, math.pi / 2)),  # lies with the head to the right
    ({}, (10, 10), (10, 10), (20, 20, 0, 0, 0)),
    ({"around": "box", "shift": 0.5}, (10, 10), (10, 4), (80, 72, 192, 192, 0)),
    ({"around": "box", "shift": 0.5}, (10, 10), (4, 10), (32, 120, 192, 192, -math.pi / 2)),
]


@pytest.mark.parametrize(("more", "foot", "head", "square"), REGIONS)
def test_a_region_is_a_square_that_stands_on_its_foot(more, foot, head, square):
    raw, logits = face_case()
    cx, cy = anchors(FACE_ANCHORS, 128, 128)[100, :2] * 128
    raw[0, 100, 4:8] = foot[0] - cx, foot[1] - cy, head[0] - cx, head[1] - cy
    options = {
        "anchors": FACE_ANCHORS,
        "box_scale": 128,
        "region": {"foot": 0, "head": 1, "scale": 2 if more else 1, **more},
    }
    shapes = {"regressors": raw.shape, "classifiers": logits.shape}
    outcome = tensors(regressors=raw, classifiers=logits)
    outcome.placement = place("stretch", (256, 256), (128, 128))
    (item,) = build("blazeface", shapes, options, (), (128, 128))(outcome)
    assert item.oriented_box == pytest.approx(square, abs=1e-3)
    assert item.box == pytest.approx((48, 72, 112, 168), abs=1e-3)


def test_a_region_of_keypoints_that_are_not_there_is_refused():
    options = {"anchors": FACE_ANCHORS, "box_scale": 128, "region": {"foot": 0, "head": 6, "scale": 1}}
    shapes = {"regressors": (1, 896, 16), "classifiers": (1, 896, 1)}
    with pytest.raises(BundleError, match="want keypoints below 6, got 0, 6"):
        build("blazeface", shapes, options, (), (128, 128))


def test_weighted_faces_lie_between_those_that_overlap():
    boxes = np.float32([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    scores = np.float32([0.9, 0.3, 0.5])
    kept = suppress(boxes, scores, np.zeros(3, np.intp), 0.3)
    np.testing.assert_allclose(blend(boxes, scores, kept, 0.3), [[0.5, 0, 10.5, 10], [50, 50, 60, 60]])


# -- nms


def naive_iou(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    union = sum(max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)) - both
    return both / union if union > 0 else 0.0


def naive_suppress(boxes, scores, classes, threshold, limit):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i))[:limit]:
        if all(classes[i] != classes[k] or naive_iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


corners = st.tuples(*[st.integers(0, 12)] * 4)


@given(
    st.lists(st.tuples(corners, st.integers(0, 5), st.integers(0, 2)), max_size=40),
    st.sampled_from([0.0, 0.3137, 0.4513, 0.7129, 1.0]),
    st.integers(1, 50),
)
def test_suppression_equals_the_naive_one(candidates, threshold, limit):
    boxes = np.array([c[0] for c in candidates], np.float32).reshape(-1, 4)
    scores = np.array([c[1] for c in candidates], np.float32)
    classes = np.array([c[2] for c in candidates], np.intp)
    wanted = naive_suppress(boxes.tolist(), scores.tolist(), classes.tolist(), np.float32(threshold), limit)
    assert suppress(boxes, scores, classes, threshold, limit).tolist() == wanted


@given(st.lists(corners, min_size=1, max_size=12))
def test_overlap_is_the_naive_intersection_over_union(boxes):
    wanted = [[naive_iou(a, b) for b in boxes] for a in boxes]
    columns = np.array(boxes, np.float32).T
    np.testing.assert_allclose(overlap(columns[:, :, None], columns[:, None]), wanted, atol=1e-6)


# -- windows


def test_an_anomaly_is_an_error_over_the_threshold_smoothed():
    decode = build("anomaly", {"reconstruction": (1, 4, 1)}, {"threshold": 1.0, "smoothing": 2})

    def step(error):
        return decode(
            Outcome(
                {"reconstruction": np.full((1, 4, 1), error, np.float32)}, fed=np.zeros((4, 1), np.float32)
            )
        )[0]

    assert (step(0).label, step(1).label) == ("normal", "normal")  # the mean of 0 and 1 is below 1
    anomaly = step(2)
    assert (anomaly.label, anomaly.value) == ("anomaly", 2.5)
    assert anomaly.score == pytest.approx(1 - 2**-2.5)


@pytest.mark.parametrize(("error", "value"), [("mse", 2.5), ("mae", 1.5), ("max", 2.0)])
def test_the_error_is_the_one_that_is_named(error, value):
    decode = build("anomaly", {"reconstruction": (1, 2, 1)}, {"threshold": 9.0, "error": error})
    outcome = Outcome({"reconstruction": np.float32([[[1], [-2]]])}, fed=np.zeros((2, 1), np.float32))
    assert decode(outcome)[0].value == value


def test_a_reconstruction_of_another_size_is_refused():
    decode = build("anomaly", {"reconstruction": (1, -1)}, {"threshold": 1.0})
    with pytest.raises(TensorError, match="want the window's size"):
        decode(Outcome({"reconstruction": np.zeros((1, 3), np.float32)}, fed=np.zeros((4, 1), np.float32)))


@pytest.mark.parametrize(
    ("p", "label", "score"), [(0.5, "speech", 0.5), (0.9, "speech", 0.9), (0.1, "silence", 0.9)]
)
def test_speech_is_a_probability_at_the_threshold_or_over_it(p, label, score):
    (item,) = build("vad", {"probability": (1, 1)})(tensors(probability=[[p]]))
    assert (item.label, item.score, item.value) == (label, pytest.approx(score), pytest.approx(p))
