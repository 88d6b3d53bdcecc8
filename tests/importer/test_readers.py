"""What a file declares is read from its bytes, without a runtime and whatever its name."""

import io
import zipfile

import numpy as np
import pytest
from backends.tiny_nets import write_ir, write_tflite
from imported_nets import classifier, save, ultralytics

from edgekit.core.errors import BundleError, UsageError
from edgekit.importer.findings import pre_keys_of
from edgekit.importer.flags import parse_flags, stated_labels
from edgekit.importer.readers import read_model_file
from edgekit.importer.readers.beside import plain_labels, read_yaml


def with_zip(path, files):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    path.write_bytes(path.read_bytes() + held.getvalue())
    return path


def test_an_onnx_files_tensors_operators_and_metadata_are_read(tmp_path):
    file = read_model_file(classifier(tmp_path / "m.onnx", ultralytics("classify")))
    assert [(t.name, t.datatype, t.shape) for t in file.inputs] == [("images", "FP32", (1, 3, 32, 32))]
    assert [(t.name, t.shape) for t in file.outputs] == [("output0", (1, 3))]
    assert file.metadata["names"] == {0: "red", 1: "green", 2: "blue"}
    assert file.metadata["imgsz"] == [32, 32]
    assert file.operators["Softmax"] == 1
    assert file.image().layout == "NCHW"


def test_free_dimensions_have_their_names(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [("Relu", ["x"], ["y"], {})],
        [("x", ["batch", 3, "h", "w"])],
        [("y", ["batch", 3, "h", "w"])],
        {},
    )
    (tensor,) = read_model_file(path).inputs
    assert (tensor.shape, tensor.symbols) == ((-1, 3, -1, -1), ("batch", "", "h", "w"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("temp_meta.txt", "{'task': 'detect', 'names': {0: 'cat'}}"), ("metadata.json", '{"task": "detect"}')],
)
def test_a_tflite_files_appended_zip_is_its_metadata(name, text, tmp_path):
    file = read_model_file(with_zip(write_tflite(tmp_path / "m.tflite"), {name: text}))
    assert file.metadata["task"] == "detect"
    assert file.metadata_from == f"zip {name}"


def test_labels_in_a_tflite_file_are_read(tmp_path):
    file = read_model_file(with_zip(write_tflite(tmp_path / "m.tflite"), {"labelmap.txt": "cat\ndog\n"}))
    assert file.labels == ("cat", "dog")


def test_an_irs_model_info_and_the_yaml_beside_it_are_read(tmp_path):
    path = write_ir(tmp_path / "m.xml")
    info = '<rt_info><model_info><model_type value="YOLO"/></model_info></rt_info></net>'
    path.write_text(path.read_text().replace("</net>", info))
    (tmp_path / "metadata.yaml").write_text("task: detect\nimgsz:\n- 32\n- 32\nnames:\n  0: cat\n  1: dog\n")
    file = read_model_file(path)
    assert file.metadata["model_type"] == "YOLO"
    assert file.metadata["imgsz"] == [32, 32]
    assert file.metadata["names"] == {"0": "cat", "1": "dog"}
    assert file.inputs
    assert file.outputs


def test_labels_beside_a_file_are_taken_with_and_without_numbers(tmp_path):
    path = classifier(tmp_path / "m.onnx")
    (tmp_path / "labels.txt").write_text("0 red\n1 green\n2 blue\n")
    file = read_model_file(path)
    assert file.labels == ("red", "green", "blue")
    assert file.labels_from == "labels.txt"
    assert plain_labels(["0  a", "2  b"]) == ("a", "", "b")


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".xml"])
@pytest.mark.parametrize("data", [b"x", b"\x08\x07", b"1234TFL3" + bytes(8), b"<net", bytes(64)])
def test_a_damaged_file_is_refused_and_never_crashes_the_reader(suffix, data, tmp_path):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(data)
    with pytest.raises(BundleError):
        read_model_file(path)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_cut_file_is_refused_or_read_and_never_crashes_the_reader(suffix, tmp_path):
    whole = classifier(tmp_path / "w.onnx") if suffix == ".onnx" else write_tflite(tmp_path / "w.tflite")
    data = whole.read_bytes()
    for size in np.linspace(8, len(data) - 1, 40).astype(int):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(data[:size])
        try:
            read_model_file(path)
        except BundleError as error:
            assert str(path) in error.message  # noqa: PT017 - some cuts still read


def test_flags_are_literals_with_one_spelling():
    flags = parse_flags(["color=bgr", "mean=[1, 2.5, 3]", "fill=0", "labels=a,b", "unit=m"])
    assert flags == {"color": "BGR", "mean": [1, 2.5, 3], "pad": 0, "labels": ("a", "b"), "unit": "m"}
    assert len(stated_labels("coco80")) == 80
    assert stated_labels("coco91")[:2] == ("", "person")
    for words in (["color"], ["a=1", "a=2"], ["labels=none.txt"]):
        with pytest.raises(UsageError):
            parse_flags(words)


def test_a_yaml_that_is_not_there_is_empty(tmp_path):
    assert read_yaml(tmp_path / "metadata.yaml") == {}


def test_the_columns_of_a_list_of_detections_are_the_decoders_and_those_of_a_table_are_pres():
    assert "columns" in pre_keys_of("classify")
    assert "columns" not in pre_keys_of("detections")


def test_a_line_of_one_blank_is_a_character_that_a_reader_of_text_knows(tmp_path):
    (tmp_path / "letters.txt").write_text("a\n b \n \n", encoding="utf-8")
    assert stated_labels(str(tmp_path / "letters.txt")) == ("a", "b", " ")
