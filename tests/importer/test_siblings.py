"""Several files of one model are variants of one bundle, with one logical output whatever each one writes."""

import numpy as np
import pytest
from imported_nets import classifier, detector, ultralytics

import edgekit
from edgekit.core.errors import BundleError
from edgekit.importer.importing import import_model

RED = np.full((64, 64, 3), (0, 0, 255), np.uint8)


def test_rows_columns_pixels_and_shares_are_one_logical_output(tmp_path):
    files = [
        detector(tmp_path / "a.onnx", ultralytics("detect")),
        detector(tmp_path / "b.onnx", ultralytics("detect"), rows=True, shares=True),
    ]
    made = import_model(files, tmp_path / "bundle")
    assert len(made.manifest.variants) == 4
    answers = []
    for variant in made.manifest.variants:
        with edgekit.load(made.path, variant=variant.id) as model:
            (item,) = model.predict(RED).items
            assert item.label == "red"
            assert item.box == pytest.approx((16, 16, 48, 32), abs=0.01)
            answers.append(model.infer({"image": RED[None, ::2, ::2, ::-1].copy()})["predictions"])
    assert all(np.allclose(answer, answers[0], atol=1e-3) for answer in answers)


def test_files_of_two_models_are_refused_with_what_differs(tmp_path):
    files = [
        detector(tmp_path / "a.onnx", ultralytics("detect")),
        classifier(tmp_path / "b.onnx", ultralytics("classify")),
    ]
    with pytest.raises(BundleError, match="not the same model") as caught:
        import_model(files, tmp_path / "bundle")
    assert any(reason.startswith("task:") for reason in caught.value.reasons)
