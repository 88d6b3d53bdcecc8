"""What the rows of detectors conclude of a file's signature, metadata and answers."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.core.errors import BundleError
from edgekit.core.spec import Post
from edgekit.importer.decide import conclude
from edgekit.importer.families import conclusions_of
from edgekit.importer.findings import OWN_KEYS, POST_KEYS, PRE_KEYS
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.pipeline.decoders import Setup, make_decoder


def foreign(size, shapes, answers=None, layout="NCHW", **facts):
    shape = (1, 3, size, size) if layout == "NCHW" else (1, size, size, 3)
    answers = answers or {}
    return ModelFile(
        path=Path("m.onnx"),
        format="onnx",
        inputs=(FileTensor("images", "FP32", shape),),
        outputs=tuple(FileTensor(name, "FP32", tuple(shape)) for name, shape in shapes.items()),
        tried={name: (np.asarray(array, np.float32),) for name, array in answers.items()},
        **facts,
    )


def sole(file):
    """Return the only conclusion of a file, after its decoder took the options."""
    found = [row for row in conclusions_of(file) if row.findings]  # the rest only asks for --decoder
    (conclusion,) = [row for row in found if row.is_stated] or found
    values = {row.key: row.value for row in conclusion.findings}
    shapes = {t.name: file.shape_of(t) for t in file.outputs}
    outputs = {name: row.shape or shapes[row.tensor] for name, row in conclusion.outputs.items()}
    known = PRE_KEYS | POST_KEYS | OWN_KEYS
    options = {key: value for key, value in values.items() if key not in known}
    options |= {"min_sizes": [[16, 32]] * 3} if "min_sizes" in conclusion.asks else {}
    options |= {"anchors": [[1, 2] * 3] * 2} if "anchors" in conclusion.asks else {}
    size = file.inputs[0].shape[2]
    make_decoder(Setup(Post(decoder=values["decoder"], options=options), (), outputs, (size, size)))
    return conclusion, values


def test_yolov5_tells_its_units_and_scale_by_its_answers():
    table = np.zeros((1, 6300, 85))
    table[0, 3, :5] = [0.5, 0.5, 0.2, 0.2, 0.9]
    _, values = sole(foreign(320, {"o": (1, 6300, 85)}, {"o": table}))
    assert (values["decoder"], values["units"], values["score_scale"]) == ("yolo", "shares", 1.0)
    assert len(values["labels"]) == 80
    percent = np.zeros((1, 6300, 6))
    percent[0, 3] = [30, 40, 20, 20, 90, 80]
    conclusion, values = sole(foreign(320, {"o": (1, 6300, 6)}, {"o": percent}))
    assert (values["units"], values["score_scale"]) == ("pixels", 100.0)
    assert list(conclusion.asks) == ["labels"]


def test_yolox_rows_are_raw_decoded_or_yolov6_by_their_values():
    raw = np.random.default_rng(0).normal(0, 1, (1, 2100, 85))
    conclusion, values = sole(foreign(320, {"o": raw.shape}, {"o": raw}))
    assert (conclusion.family, values["strides"], values["align"]) == ("yolox", (8, 16, 32), "top-left")
    decoded = np.abs(raw) * 10
    conclusion, values = sole(foreign(320, {"o": raw.shape}, {"o": decoded}))
    assert conclusion.family == "yolox"
    assert "strides" not in values
    decoded[..., 4] = 1
    conclusion, values = sole(foreign(320, {"o": raw.shape}, {"o": decoded}))
    assert (conclusion.family, conclusion.no_real_file, values["color"]) == ("yolov6", True, "RGB")
    conclusion, _ = sole(foreign(320, {"o": (1, 2100, 7)}, {"o": np.abs(raw[..., :7])}))
    assert {"labels", "objectness"} == set(conclusion.asks)


def test_nanodet_is_matched_by_shape_whatever_the_order_of_its_outputs():
    shapes = {"a": (1, 4, 32), "b": (1, 64, 80), "c": (1, 16, 32), "d": (1, 64, 32), "e": (1, 16, 80)}
    conclusion, values = sole(foreign(64, {**shapes, "f": (1, 4, 80)}))
    assert {name: row.tensor for name, row in conclusion.outputs.items()} == {
        "scores0": "b", "boxes0": "d", "scores1": "e", "boxes1": "c", "scores2": "f", "boxes2": "a",
    }  # fmt: skip
    assert (values["color"], values["centre"], values["activation"]) == ("BGR", "pixel", "none")


def test_what_is_in_no_file_is_asked_for():
    conclusion, _ = sole(foreign(352, {"o": (605, 95)}))
    assert (conclusion.family, list(conclusion.asks)) == ("yolo-fastestv2", ["anchors"])
    shapes = {"a": (1, 168, 4), "b": (1, 168, 2), "c": (1, 168, 10)}
    conclusion, values = sole(foreign(64, shapes))
    assert (conclusion.family, values["landmarks"]) == ("retinaface", 5)
    assert set(conclusion.asks) == {"labels", "min_sizes"}
    conclusion, values = sole(foreign(96, {"o": (1, 12, 12, 2)}, layout="NHWC"))
    assert (conclusion.family, list(conclusion.asks)) == ("fomo", ["labels"])
    with pytest.raises(BundleError, match="only you know: labels"):
        conclude(foreign(96, {"o": (1, 12, 12, 2)}, layout="NHWC"))


def test_mediapipes_detectors_are_named_by_their_anchors_whole_or_in_parts():
    whole = foreign(128, {"r": (1, 896, 16), "c": (1, 896, 1)}, layout="NHWC")
    conclusion, values = sole(whole)
    assert (conclusion.family, values["task"]) == ("blazeface", "face")
    shapes = {"b": (1, 384, 1), "a": (1, 512, 16), "c": (1, 512, 1), "d": (1, 384, 16)}
    conclusion, _ = sole(foreign(128, shapes, layout="NHWC"))
    outputs = {name: row.tensor for name, row in conclusion.outputs.items()}
    assert outputs == {"regressors0": "a", "regressors1": "d", "classifiers0": "c", "classifiers1": "b"}
    _, values = sole(foreign(224, {"r": (1, 2254, 12), "c": (1, 2254, 1)}, layout="NHWC"))
    assert (values["task"], values["labels"], values["keypoints"]) == ("pose", ("person",), 4)
    assert values["region"] == {"foot": 0, "head": 1, "scale": 1.25}
    _, values = sole(foreign(256, {"r": (1, 896, 16), "c": (1, 896, 1)}, layout="NHWC"))
    assert values["anchors"]["strides"] == (16, 32, 32, 32)
    conclusion, values = sole(foreign(192, {"r": (1, 2016, 18), "c": (1, 2016, 1)}, layout="NHWC"))
    assert (conclusion.family, values["labels"]) == ("palm", ("palm",))
    assert (values["mean"], values["std"], conclusion.no_real_file) == (0, 255, False)  # not -1 to 1
    assert (values["region"]["around"], values["region"]["scale"]) == ("box", 2.6)
    older = foreign(128, {"r": (1, 896, 12), "c": (1, 896, 1)}, layout="NHWC")
    conclusion, values = sole(older)
    assert (conclusion.family, values["mean"], conclusion.no_real_file) == ("blazepose", 127.5, True)
    assert not conclusions_of(foreign(128, {"r": (1, 897, 16), "c": (1, 897, 1)}, layout="NHWC"))


def test_a_detr_is_asked_for_its_activation_and_rf_detr_is_not():
    conclusion, values = sole(foreign(64, {"logits": (1, 30, 80), "pred_boxes": (1, 30, 4)}))
    assert (values["decoder"], list(conclusion.asks)) == ("detr", ["activation"])
    shapes = {"dets": (1, 30, 4), "labels": (1, 30, 91), "masks": (1, 30, 16, 16)}
    conclusion, values = sole(foreign(64, shapes))
    assert (conclusion.family, values["task"], values["mean"][0]) == ("rf-detr", "instances", 123.675)
    assert values["labels"][1] == "person"


def libre(family, shapes, **more):
    names = {"0": "cat", "1": "dog"}
    meta = {"model_family": family, "libreyolo_version": "1.6.0", "task": "detect", "names": names, **more}
    return foreign(64, shapes, metadata=meta, metadata_from="metadata_props")


def test_libreyolos_metadata_name_the_family_and_what_its_shape_cannot_say():
    conclusion, values = sole(libre("yolo9", {"output": (1, 6, 84)}, letterbox_pad="center"))
    assert (values["box"], values["align"], values["labels"]) == ("xyxy", "centre", ("cat", "dog"))
    assert conclusion.is_stated
    pair = {"pred_logits": (1, 84, 4), "pred_boxes": (1, 84, 2)}
    conclusion, values = sole(libre("yolonas", pair))
    assert (values["decoder"], conclusion.outputs["boxes"].tensor) == ("yolo", "pred_logits")
    _, values = sole(libre("dfine", {"pred_logits": (1, 30, 2), "pred_boxes": (1, 30, 4)}))
    assert (values["decoder"], values["activation"]) == ("detr", "sigmoid")
    with pytest.raises(BundleError, match="its metadata say dfine"):
        conclusions_of(libre("dfine", {"output": (1, 30, 6)}))
    with pytest.raises(BundleError, match="metadata_props names 2 classes, its outputs have 3"):
        conclusions_of(libre("dfine", {"pred_logits": (1, 30, 3), "pred_boxes": (1, 30, 4)}))


@pytest.mark.parametrize("is_tf2", [False, True])
def test_the_lists_of_a_postprocess_are_told_apart_by_their_values(is_tf2):
    lists = {"b": [[[0.1, 0.2, 0.3, 0.4]] * 2], "c": [[3.0, 17.0]], "s": [[0.9, 0.4]], "n": [2.0]}
    order = "sbnc" if is_tf2 else "bcsn"
    answers = {name: np.array(lists[name]) for name in order}
    shapes = {name: array.shape for name, array in answers.items()}
    operators = {"TFLite_Detection_PostProcess": 1}
    conclusion, values = sole(foreign(64, shapes, answers, "NHWC", operators=operators))
    assert {name: row.tensor for name, row in conclusion.outputs.items()} == {
        "boxes": "b", "scores": "s", "classes": "c", "count": "n",
    }  # fmt: skip
    assert (values["box"], values["units"]) == ("yxyx", "shares")
    assert list(conclusion.asks) == ["labels"]
