"""TensorFlow Lite, OpenVINO and Keras models become roots, or the error names what is wrong."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.errors import BackendUnavailableError, ModelError, UsageError
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.openvino_ir import write_openvino
from edgekit_optimize.graph.quantize import observe, quantize
from edgekit_optimize.graph.tflite import write_tflite
from edgekit_optimize.readers.read import check_root, kind_of, read_source
from optimize.nets import conv, every_kind

RNG = np.random.default_rng(9)


def images(count=3):
    return RNG.normal(size=(count, 3, 13, 17)).astype(np.float32)


@pytest.fixture
def tflite(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(write_tflite(every_kind()))
    return path


def test_tflite_keeps_its_bytes_and_gains_the_other_forms(tmp_path, tflite):
    root, origin = read_source(str(tflite), tmp_path / "root")
    assert Path(root.tflite).read_bytes() == tflite.read_bytes()
    assert root.onnx
    assert root.openvino
    assert not root.missing
    assert (root.inputs[0].shape, root.layout, root.image) == ((1, 3, 13, 17), "NCHW", "x")
    assert origin.kind == "tflite"
    checked = check_root(root, {"x": images()})
    assert [check.conversion for check in checked.checks] == [
        "TensorFlow Lite to ONNX",
        "TensorFlow Lite to OpenVINO",
    ]


def test_a_quantised_tflite_file_is_refused_by_its_first_quantised_tensor(tmp_path):
    network = every_kind()
    samples = [{"x": RNG.normal(size=(1, 13, 17, 3)).astype(np.float32)} for _ in range(3)]
    (tmp_path / "int8.tflite").write_bytes(
        write_tflite(network, quantize(network, observe(network, samples)))
    )
    with pytest.raises(ModelError, match=r"int8\.tflite is quantised already: tensor '.*' is int8") as caught:
        read_source(str(tmp_path / "int8.tflite"), tmp_path / "root")
    assert "give the float model" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\x1c\0\0\0TFL3", b"PK\x03\x04 not a model", b"\0" * 100])
def test_what_is_not_tflite_is_refused(tmp_path, data):
    (tmp_path / "net.tflite").write_bytes(data)
    with pytest.raises(ModelError, match=r"net\.tflite"):
        read_source(str(tmp_path / "net.tflite"), tmp_path / "root")


def test_a_tflite_file_that_is_cut_off_is_refused(tmp_path, tflite):
    data = tflite.read_bytes()
    tflite.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"net\.tflite"):
        read_source(str(tflite), tmp_path / "root")


def test_shapes_of_a_tflite_file_are_fixed(tmp_path, tflite):
    with pytest.raises(UsageError, match="fixed in the file"):
        read_source(str(tflite), tmp_path / "root", shapes={"x": (1, 20, 20, 3)})


def written_ir(tmp_path):
    layers = (
        conv("a", "x", RNG.normal(0, 0.4, (6, 3, 3, 3)), activation="relu"),
        Layer("mean", ("a",), "y"),
    )
    (tmp_path / "net.onnx").write_bytes(write_onnx(Network({"x": (1, 13, 17, 3)}, layers, ("y",))))
    return write_openvino(tmp_path / "net.onnx", tmp_path / "net.xml")


def test_an_openvino_model_has_only_that_form_and_says_why(tmp_path):
    xml, _ = written_ir(tmp_path)
    root, origin = read_source(str(xml), tmp_path / "root")
    assert (root.canonical, root.onnx, root.tflite) == ("openvino", "", "")
    assert root.missing.keys() == {"onnx", "tflite"}
    assert root.inputs[0].shape == (1, 3, 13, 17)
    assert origin.kind == "openvino"
    assert check_root(root, {"x": images()}).checks[0].holds


def test_an_openvino_model_without_its_weights_is_refused(tmp_path):
    xml, weights = written_ir(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"net\.bin does not exist"):
        read_source(str(xml), tmp_path / "root")


def test_an_openvino_file_that_is_cut_off_is_refused(tmp_path):
    xml, _ = written_ir(tmp_path)
    xml.write_bytes(xml.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"OpenVINO cannot read net\.xml"):
        read_source(str(xml), tmp_path / "root")


def test_an_openvino_model_names_its_inputs_where_a_shape_names_none(tmp_path):
    xml, _ = written_ir(tmp_path)
    with pytest.raises(UsageError, match="no input 'z'; its inputs are x"):
        read_source(str(xml), tmp_path / "root", shapes={"z": (1, 3, 13, 17)})


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_keras_without_tensorflow_names_the_package(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    assert kind_of(str(tmp_path / name)) == "keras"
    with pytest.raises(BackendUnavailableError, match="needs TensorFlow") as caught:
        read_source(str(tmp_path / name), tmp_path / "root")
    assert "tensorflow" in caught.value.hint


def test_a_saved_model_folder_is_keras(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert kind_of(str(tmp_path)) == "keras"
