"""A foreign file becomes a bundle that runs, and what was concluded of it is told with its source."""

import numpy as np
import pytest
from imported_nets import CLASSES, classifier, ultralytics

import edgekit
from edgekit.core.errors import BundleError
from edgekit.importer.importing import import_model


def plain(colour):
    return np.full((48, 64, 3), colour, np.uint8)


def test_a_file_with_metadata_becomes_a_bundle_that_predicts_under_any_name(tmp_path):
    for number, name in enumerate(("anything", "m-seg")):
        file = classifier(tmp_path / f"{name}.onnx", ultralytics("classify"))
        made = import_model(file, tmp_path / str(number))
        assert {v.backend for v in made.manifest.variants} == {"onnxruntime", "openvino"}
        assert made.manifest.provenance.excluded == {}
        with edgekit.load(made.path) as model:
            assert model.predict(plain((255, 0, 0))).best.label == "blue"  # BGR
            assert model.predict(plain((0, 0, 255))).best.label == "red"


def test_each_conclusion_has_its_source_and_stands_in_the_bundle(tmp_path):
    file = classifier(tmp_path / "m.onnx", ultralytics("classify"))
    made = import_model(file, tmp_path / "b", flags={"color": "bgr"})
    sources = {row.key: row.source for row in made.manifest.provenance.conclusions}
    assert sources["task"] == sources["labels"] == "metadata"
    assert sources["resize"] == "assumed"
    assert sources["color"] == "flag"
    assert made.manifest.pre.color == "BGR"


def test_metadata_that_contradict_the_shapes_are_refused(tmp_path):
    file = classifier(tmp_path / "m.onnx", ultralytics("classify", (*CLASSES, "white")))
    with pytest.raises(BundleError, match="4 classes"):
        import_model(file, tmp_path / "b")


def test_a_file_of_no_known_family_is_asked_back_with_its_tensors(tmp_path):
    with pytest.raises(BundleError, match="no family") as caught:
        import_model(classifier(tmp_path / "m.onnx", classes=4), tmp_path / "b")
    assert "--decoder raw" in caught.value.hint
    assert any("output0" in reason for reason in caught.value.reasons)
    assert not (tmp_path / "b").exists()
