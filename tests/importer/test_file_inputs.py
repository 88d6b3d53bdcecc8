"""However a file takes its pictures, each runtime that is kept names the colour that was shown."""

import numpy as np
import onnx
import pytest
from imported_nets import CLASSES, classifier, ultralytics
from onnx import TensorProto, helper

import edgekit
from edgekit.importer.importing import import_model

COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # as BGR


def before(model, operator, kind, shape, inputs=(), constants=(), **attributes):
    """Put an operator between the input, of another kind and shape, and the network."""
    graph = model.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info("given", kind, shape))
    graph.node.insert(0, helper.make_node(operator, ["given", *inputs], ["images"], **attributes))
    graph.initializer.extend(constants)


def halves(model):
    before(model, "Cast", TensorProto.FLOAT16, [1, 3, 32, 32], to=TensorProto.FLOAT)


def channels_last(model):
    before(model, "Transpose", TensorProto.FLOAT, [1, 32, 32, 3], perm=[0, 3, 1, 2])


def without_batch(model):
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    before(model, "Unsqueeze", TensorProto.FLOAT, [3, 32, 32], ["axes"], [axes])


def always(count):
    def change(model):
        for tensor in (model.graph.input[0], model.graph.output[0]):
            tensor.type.tensor_type.shape.dim[0].dim_value = count

    return change


def sized(height, width):
    def change(model):
        for axis, side in ((2, height), (3, width)):
            dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
            dim.Clear()
            if side:
                dim.dim_value = side
            else:
                dim.dim_param = f"side{axis}"

    return change


def free(model):
    sized(0, 0)(model)
    for tensor in (model.graph.input[0], model.graph.output[0]):
        dim = tensor.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_param = "batch"


WAYS = {
    "plain": lambda _: None,
    "halves": halves,
    "channels last": channels_last,
    "no batch": without_batch,
    "always two": always(2),
    "always three": always(3),
    "rectangular": sized(32, 64),
    "free": free,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_reaches_the_network_however_its_file_takes_it(way, tmp_path):
    file = classifier(tmp_path / "m.onnx", ultralytics("classify"))
    model = onnx.load(file)
    WAYS[way](model)
    onnx.save(model, file)
    made = import_model(file, tmp_path / "bundle")
    kept = [variant.id for variant in made.manifest.variants]
    assert len(kept) + len(made.manifest.provenance.excluded) == 2
    assert kept
    pictures = [np.full((40, 60, 3), bgr, np.uint8) for bgr in COLOURS.values()]
    for variant in kept:
        with edgekit.load(tmp_path / "bundle", variant=variant) as loaded:
            seen = [loaded.predict(picture).items[0] for picture in pictures]
            assert [item.label for item in seen] == list(CLASSES)
            assert min(item.score for item in seen) > 0.99
