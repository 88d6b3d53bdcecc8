"""Detectors with a second input, lists, levels, heat maps and people's points, by signature and answers."""

from dataclasses import replace

import numpy as np
import pytest
from importer.test_detector_families import foreign, sole

from edgekit.core.errors import BundleError
from edgekit.importer.decide import conclude
from edgekit.importer.families import conclusions_of
from edgekit.importer.model_file import FileTensor, image_of

SCALE = FileTensor("scale_factor", "FP32", (1, 2))
HEADS = {(32, 96, 1, 1): 4, (80, 96, 1, 1): 4, (1, 96, 1, 1): 4, (96, 96, 1, 1): 20}


def paddle(kernels, answers=((85, 6), (3, 6))):
    file = foreign(320, {"nms": (2125, 6), "count": (1,)}, kernels=kernels)
    count = replace(file.outputs[1], datatype="INT32")
    tried = {"nms": tuple(np.zeros(shape, np.float32) for shape in answers)}
    return replace(file, inputs=(*file.inputs, SCALE), outputs=(file.outputs[0], count), tried=tried)


def test_picodets_last_convolutions_say_how_many_classes_its_rows_have():
    conclusion, values = sole(paddle(HEADS))
    assert (conclusion.family, len(values["labels"]), values["mean"][0]) == ("picodet", 80, 123.675)
    assert conclusion.constants == {"scale_factor": (1.0,)}
    assert conclusion.outputs["rows"].shape == (-1, 6)  # whatever the file declares
    assert conclusion.takes_image
    three = {(32, 96, 1, 1): 4, (3, 96, 1, 1): 4, (1, 96, 1, 1): 4}
    assert list(sole(paddle(three))[0].asks) == ["labels"]


def test_labels_are_asked_for_where_no_convolution_says_the_number_of_classes():
    for kernels in ({}, {(32, 96, 1, 1): 4, (80, 96, 1, 1): 4, (20, 96, 1, 1): 4}):
        conclusion, _ = sole(paddle(kernels))
        assert (conclusion.family, conclusion.no_real_file) == ("paddle", True)
        assert set(conclusion.asks) == {"labels", "mean", "std"}


def test_a_shape_that_differs_between_pictures_is_free():
    file = paddle(HEADS)
    assert file.shape_of(file.outputs[0]) == (-1, 6)
    assert file.shape_of(file.outputs[1]) == (1,)


def test_rt_detr_with_the_pictures_size_as_an_input_is_given_its_own():
    shapes = {"labels": (1, 300), "boxes": (1, 300, 4), "scores": (1, 300)}
    file = foreign(64, shapes, layout="NHWC")
    sizes = FileTensor("orig_target_sizes", "INT64", (-1, 2))
    outputs = (replace(file.outputs[0], datatype="INT64"), *file.outputs[1:])
    images = FileTensor("images", "FP32", (1, 3, 48, 64))
    conclusion, values = sole(replace(file, inputs=(images, sizes), outputs=outputs))
    assert conclusion.constants == {"orig_target_sizes": (64.0, 48.0)}  # width first
    assert (conclusion.family, values["resize"], list(conclusion.asks)) == ("rt-detr", "stretch", ["labels"])


def test_torchvisions_picture_has_no_batch_and_its_lists_no_length():
    file = foreign(64, {"boxes": (-1, 4), "scores": (-1,), "labels": (-1,)})
    outputs = (*file.outputs[:2], replace(file.outputs[2], datatype="INT64"))
    image = FileTensor("image", "FP32", (3, 48, 64))
    conclusion, _ = sole(replace(file, inputs=(image,), outputs=outputs))
    assert (conclusion.family, conclusion.outputs["boxes"].shape) == ("torchvision", (-1, 4))
    assert "background" in conclusion.asks["labels"]


@pytest.mark.parametrize(
    ("shape", "layout"), [((3, 90, 150), "NCHW"), ((90, 150, 3), "NHWC"), ((1, 128, 3), ""), ((3, 9, 9), "")]
)
def test_three_axes_are_a_picture_where_they_are_no_window(shape, layout):
    image = image_of(FileTensor("x", "FP32", shape))
    assert (image.layout if image else "") == layout
    if image:
        assert (image.height, image.width, image.channels) == (90, 150, 3)


def test_efficientnms_units_are_seen_in_its_answers():
    shapes = {"num_dets": (1, 1), "det_boxes": (1, 100, 4), "det_scores": (1, 100), "det_classes": (1, 100)}
    _, values = sole(foreign(64, shapes, {"det_boxes": np.full((1, 100, 4), 0.5)}))
    assert values["units"] == "shares"


def test_efficientdets_levels_are_paired_by_their_size_whatever_their_order():
    sizes = (16, 8, 4, 2, 1)
    scores = {f"s{side}": (1, 45, side, side) for side in sizes}
    boxes = {f"b{side}": (1, 36, side, side) for side in sizes}
    conclusion, _ = sole_with_scale(foreign(128, {**boxes, **dict(reversed(scores.items()))}))
    assert conclusion.outputs["scores0"].tensor == "s16"
    assert conclusion.outputs["boxes4"].tensor == "b1"
    assert set(conclusion.asks) == {"anchor_scale", "labels"}
    four = {name: (1, 36, *shape[2:]) for name, shape in scores.items()}
    conclusion, _ = sole_with_scale(foreign(128, {**four, **boxes}))
    assert conclusion.outputs["scores0"].tensor == "s16"


def sole_with_scale(file):
    (conclusion,) = [row for row in conclusions_of(file) if row.findings]
    return conclusion, {row.key: row.value for row in conclusion.findings}


def test_centerface_is_a_heat_map_two_pairs_and_five_landmarks():
    shapes = {"1": (1, 1, 16, 16), "2": (1, 2, 16, 16), "3": (1, 2, 16, 16), "4": (1, 10, 16, 16)}
    conclusion, values = sole(foreign(64, shapes))
    assert (conclusion.family, values["size"], values["order"]) == ("centerface", "log", "yx")
    assert (conclusion.outputs["size"].tensor, conclusion.outputs["offset"].tensor) == ("2", "3")


def test_centernets_scores_are_logits_where_they_are_below_0():
    shapes = {"hm": (1, 80, 16, 16), "wh": (1, 2, 16, 16), "reg": (1, 2, 16, 16)}
    conclusion, values = sole(foreign(64, shapes, {"hm": np.full((1, 80, 16, 16), -4.0)}))
    assert (conclusion.family, values["activation"], conclusion.no_real_file) == (
        "centernet",
        "sigmoid",
        True,
    )
    assert set(conclusion.asks) == {"mean", "std"}


def test_movenet_and_posenet_are_known_by_17_points():
    for shape in ((1, 1, 17, 3), (1, 6, 56)):
        conclusion, values = sole(foreign(192, {"o": shape}, layout="NHWC"))
        assert (conclusion.family, values["task"], values["resize"]) == ("movenet", "pose", "letterbox")
    shapes = {"h": (1, 15, 23, 17), "o": (1, 15, 23, 34), "bwd": (1, 15, 23, 32), "fwd": (1, 15, 23, 32)}
    conclusion, _ = sole(foreign(353, shapes, layout="NHWC"))
    assert conclusion.family == "posenet"
    assert conclusion.outputs["forward"].tensor == "fwd"


def test_ultrafaces_priors_name_it():
    file = foreign(64, {"scores": (1, 4420, 2), "boxes": (1, 4420, 4)})
    file = replace(file, inputs=(FileTensor("input", "FP32", (1, 3, 240, 320)),))
    (conclusion,) = conclusions_of(file)
    values = {row.key: row.value for row in conclusion.findings}
    assert (conclusion.family, values["background"], values["mean"]) == ("ultraface", "first", 127)
    assert not conclusions_of(replace(file, outputs=(file.outputs[0],)))


def test_what_only_the_user_knows_is_asked_for_by_name():
    with pytest.raises(BundleError, match="only you know") as caught:
        conclude(paddle({}))
    assert {reason.split(":")[0] for reason in caught.value.reasons} == {
        "--labels",
        "mean=VALUE",
        "std=VALUE",
    }
