"""What contradicts itself is refused with what to do, and never guessed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from imported_nets import classifier, detector, ultralytics
from importer.test_detector_families import foreign

from edgekit.core.errors import BundleError, ModelLoadError
from edgekit.importer.clamped import check_boxes
from edgekit.importer.decide import conclude
from edgekit.importer.importing import import_model
from edgekit.importer.model_file import FileTensor


def test_labels_of_another_number_than_the_classes_are_refused_whoever_states_them(tmp_path):
    stated = detector(tmp_path / "stated.onnx", ultralytics("detect"))
    bare = detector(tmp_path / "bare.onnx")
    for number, file in enumerate((stated, bare)):
        with pytest.raises(BundleError, match="2 labels|got 2") as caught:
            import_model(file, tmp_path / str(number), flags={"labels": "red,green"})
        assert caught.value.exit_code == 4
        assert not (tmp_path / str(number)).exists()


def newer(file, operator=""):
    model = onnx.load(file)
    model.opset_import[0].version = 99
    if operator:
        model.graph.node[0].op_type = operator
    onnx.save(model, file)
    return file


def test_a_runtime_that_does_not_know_a_files_opset_is_left_out_with_that_reason(tmp_path):
    file = newer(classifier(tmp_path / "m.onnx", ultralytics("classify")))
    manifest = import_model(file, tmp_path / "b").manifest
    assert [variant.backend for variant in manifest.variants] == ["openvino"]
    assert "opset" in manifest.provenance.excluded["onnxruntime-fp32"].lower()


def test_a_file_of_an_opset_that_no_runtime_knows_says_to_export_an_older_one(tmp_path):
    file = newer(classifier(tmp_path / "m.onnx", ultralytics("classify")), "OfTheFuture")
    with pytest.raises(ModelLoadError, match="no runtime here runs it") as caught:
        import_model(file, tmp_path / "b")
    assert "older opset" in caught.value.hint
    assert len(caught.value.reasons) == 2


def test_a_size_that_is_not_the_files_is_refused(tmp_path):
    file = classifier(tmp_path / "m.onnx", ultralytics("classify"))
    with pytest.raises(BundleError, match="its input is 32 x 32"):
        import_model(file, tmp_path / "b", flags={"size": [640, 640]})


@pytest.mark.parametrize("name", ["m.tflite", "m.xml"])
def test_a_file_whose_name_says_another_format_is_told_the_right_one(name, tmp_path):
    file = classifier(tmp_path / "m.onnx", ultralytics("classify"))
    with pytest.raises(BundleError, match="its content is onnx, its name says") as caught:
        import_model(file.rename(tmp_path / name), tmp_path / "b")
    assert caught.value.hint == "rename it to m.onnx"


@pytest.mark.parametrize("task", ["pose", "segment"])
def test_metadata_of_a_task_whose_outputs_the_file_lacks_are_a_contradiction(task, tmp_path):
    file = detector(tmp_path / "m.onnx", ultralytics(task))
    with pytest.raises(BundleError, match=f"its metadata say {task} with"):
        import_model(file, tmp_path / "b")


def dense(boxes):
    table = np.concatenate([boxes, np.full((1, 80, boxes.shape[2]), 0.01)], axis=1)
    return foreign(320, {"o": table.shape}, {"o": table})


def test_boxes_that_a_quantised_output_cuts_are_refused_although_its_labels_would_be_right():
    random = np.random.default_rng(0)
    boxes = random.uniform(0, 320, (1, 4, 2100))
    whole = dense(boxes)
    check_boxes(conclude(whole), whole)
    cut = dense(np.minimum(boxes, 127.5))
    with pytest.raises(BundleError, match="its boxes' numbers are 127.5") as caught:
        check_boxes(conclude(cut), cut)
    assert "float file" in caught.value.hint
    edges = dense(np.clip(boxes * 2 - 160, 0, 320))  # clipped to the picture: as many are right
    check_boxes(conclude(edges), edges)


def test_two_families_that_fit_are_named_with_the_flags_that_choose():
    shapes = {"boxes": (1, 30, 4), "labels": (1, 30), "scores": (1, 30), "logits": (1, 30, 80)}
    file = foreign(64, shapes)
    outputs = tuple(replace(t, datatype="INT64") if t.name == "labels" else t for t in file.outputs)
    sizes = FileTensor("orig_target_sizes", "INT64", (1, 2))
    file = replace(file, inputs=(*file.inputs, sizes), outputs=outputs, path=Path("m.onnx"))
    with pytest.raises(BundleError, match="fits 2 families") as caught:
        conclude(file)
    assert {reason.split(":")[0] for reason in caught.value.reasons} == {
        "--decoder detr",
        "--decoder rt-detr",
    }
