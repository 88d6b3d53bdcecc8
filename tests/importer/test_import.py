"""A foreign file becomes a bundle that runs, and what was concluded of it is told with its source."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from imported_nets import CLASSES, classifier, save, ultralytics

import edgekit
from edgekit.cli.main import main
from edgekit.core.errors import BundleError, TensorError
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
    nodes = [("Transpose", ["images"], ["turned"], {"perm": [0, 2, 3, 1]})]
    file = save(tmp_path / "m.onnx", nodes, [("images", [1, 3, 32, 32])], [("turned", [1, 32, 32, 3])], {})
    with pytest.raises(BundleError, match="no family") as caught:
        import_model(file, tmp_path / "b")
    assert "--decoder raw" in caught.value.hint
    assert any("turned" in reason for reason in caught.value.reasons)
    assert not (tmp_path / "b").exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    return import_model(classifier(folder / "m.onnx", ultralytics("classify")), folder / "b").path


def test_an_imported_model_takes_an_image_a_path_bytes_or_a_list_and_draws_what_it_sees(bundle, tmp_path):
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), plain((0, 255, 0)))
    with edgekit.load(bundle, top_k=1) as model:
        seen = model.predict(plain((0, 255, 0)))
        assert [item.label for item in seen.items] == ["green"]
        assert model.predict(picture) == model.predict(str(picture)) == seen
        assert model.predict(picture.read_bytes()) == seen
        assert model.predict([picture, plain((255, 0, 0))])[1].best.label == "blue"
        assert (seen.draw(picture) != plain((0, 255, 0))).any()
        assert "classify" in repr(model)
        assert "red, green, blue" in repr(model)


def test_what_is_no_picture_is_refused_by_name(bundle, tmp_path):
    (tmp_path / "p.png").write_bytes(b"no picture")
    with edgekit.load(bundle) as model:
        with pytest.raises(TensorError, match="is no picture"):
            model.predict(tmp_path / "p.png")
        with pytest.raises(TensorError, match="cannot be read"):
            model.predict(tmp_path / "none.png")


def test_one_command_imports_and_one_runs_without_a_file_of_settings(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("p.png", plain((0, 255, 0)))
    assert (
        main(["run", str(bundle), "--source", "p.png", "--sink", "jsonl", "--sink", "video", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["frames"]["processed"] == 1
    assert '"green"' in (tmp_path / "p-seen.jsonl").read_text()
    assert (tmp_path / "p-seen.mp4").stat().st_size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["b"], "needs --source"),
        (["b", "--source", "none.mp4"], "there is no such file"),
        (["b", "--source", "0", "--sink", "mqtt"], "pipeline's TOML file"),
        (["p.toml", "--source", "0"], "has its own source"),
    ],
)
def test_a_run_that_cannot_be_meant_is_a_usage_error(words, said, capsys):
    assert main(["run", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("best.pt", "format=onnx"),
        ("model.rknn", "Rockchip"),
        ("app.eim", "Edge Impulse"),
        ("net.mnn", "MNN"),
        ("net.pte", "ExecuTorch"),
        ("net.mlmodel", "CoreML"),
    ],
)
def test_a_format_that_no_runtime_opens_is_refused_with_the_command_that_helps(name, said, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"x")
    assert main(["import", str(tmp_path / name), "-o", str(tmp_path / "b")]) == 4
    text = capsys.readouterr().err
    assert said in text
    assert "fix:" in text


@pytest.mark.parametrize("name", ["net_ncnn_model", "net_imx_model", "net.mlpackage"])
def test_a_folder_of_another_format_is_refused_by_name(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(BundleError, match="which no runtime of edgekit opens"):
        import_model(tmp_path / name, tmp_path / "b")


def test_weights_in_another_file_go_with_the_model_and_their_absence_is_told(tmp_path):
    import onnx

    file = classifier(tmp_path / "m.onnx", ultralytics("classify"))
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=0)
    made = import_model(file, tmp_path / "b")
    assert [Path(f.path).name for f in made.manifest.variants[0].files] == [
        "m.onnx",
        "w.bin",
    ]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(BundleError, match="not beside it"):
        import_model(file, tmp_path / "c")
