"""A model with state is judged on a recording in its order: its own state goes from sample to sample."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.bench.variant_process import VariantProcess
from edgekit.core.spec import Manifest, Post, Pre, Profile, State, TensorSpec, Variant, VariantFile
from edgekit.model.bundle import open_bundle
from edgekit_optimize.zoo.build import seal

COUNT = 5


@pytest.fixture
def counter(tmp_path):
    """A bundle whose model answers with the sum of its state, and adds its input to the state."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["state", "x"], ["next_state"]),
            helper.make_node("ReduceSum", ["state"], ["y"], keepdims=0),
        ],
        "counter",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1)),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (2, 1, 3)),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ()),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, (2, 1, 3)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "variants").mkdir()
    onnx.save(model, tmp_path / "variants" / "m.onnx")
    manifest = Manifest(
        format=1,
        model="counter",
        version="1.0.0",
        task="raw",
        inputs=(
            TensorSpec(name="x", datatype="FP32", shape=(1, 1)),
            TensorSpec(name="state", datatype="FP32", shape=(2, 1, 3)),
        ),
        outputs=(
            TensorSpec(name="y", datatype="FP32", shape=(1,)),
            TensorSpec(name="next_state", datatype="FP32", shape=(2, 1, 3)),
        ),
        state=(State(input="state", output="next_state"),),
        pre=Pre(),
        post=Post(decoder="raw"),
        variants=(
            Variant(
                id="float",
                backend="onnxruntime",
                files=(VariantFile(path="variants/m.onnx", bytes=0, sha256="0" * 64),),
            ),
        ),
    )
    seal(manifest, tmp_path)
    return open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("in_order", "wanted"), [(False, [0.0] * COUNT), (True, [0.0, 6.0, 12.0, 18.0, 24.0])]
)
def test_the_state_goes_from_each_sample_to_the_next_only_where_samples_are_in_order(
    counter, tmp_path, in_order, wanted
):
    samples, out = tmp_path / "samples.npz", tmp_path / "out.npz"
    np.savez(samples, x=np.ones((COUNT, 1), np.float32), state=np.zeros((COUNT, 2, 1, 3), np.float32))
    process = VariantProcess(counter, counter.manifest.variants[0], Profile(id="here", title="here"), 1)
    try:
        process.evaluate(samples, out, None, in_order=in_order)
    finally:
        process.close()
    with np.load(out) as found:
        assert found["y"].ravel().tolist() == wanted
        assert found["next_state"].shape == (COUNT, 2, 1, 3), "a state has no batch axis, a set of them has"
