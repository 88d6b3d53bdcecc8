"""What a bare model becomes: by its tensors, the user's description, and whether data are pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.core.errors import UsageError
from edgekit.core.spec import Post, Pre, State, TensorSpec
from edgekit_optimize.plan import Root
from edgekit_optimize.run.request import Description, Request
from edgekit_optimize.run.target_model import described


def spec(name, *shape, layout=""):
    return TensorSpec(name=name, datatype="FP32", shape=shape, layout=layout)


PICTURES = Root(
    inputs=(spec("x", 1, 3, 8, 8, layout="NCHW"),), outputs=(spec("y", 1, 5),), image="x", layout="NCHW"
)
SOUND = Root(
    inputs=(spec("input", 1, 576), spec("state", 2, 1, 128)),
    outputs=(spec("output", 1, 1), spec("stateN", 2, 1, 128)),
)


def asked(states=(), **fields):
    return Request(
        model="m.onnx", data="d.npz", out=Path("o"), states=states, description=Description(**fields)
    )


def test_picture_flags_are_refused_for_data_that_are_not_pictures():
    with pytest.raises(UsageError, match="these data are not uint8 pictures") as caught:
        described(PICTURES, asked(pre=Pre(mean=(127.0,))), brings_pictures=False)
    assert "uint8" in caught.value.hint
    assert described(PICTURES, asked(), brings_pictures=False)[1].task == "raw"
    assert described(PICTURES, asked(pre=Pre(mean=(127.0,))), brings_pictures=True)[1].task == "classify"


def voice(**fields):
    pre = Pre(resize="none", window=512, hop=512, context=64, rate_hz=16000.0)
    return asked(**{"task": "voice", "pre": pre, "post": Post(decoder="vad")} | fields)


def test_data_of_a_window_model_have_no_context():
    _, manifest = described(SOUND, voice(states=("stateN:state",)), brings_pictures=False)
    assert [entry.shape for entry in manifest.inputs] == [(1, 512), (2, 1, 128)]


@pytest.mark.parametrize("state", ["stateN:state", "next:before"])
def test_states_may_be_named_as_in_the_file_or_in_the_description(state):
    names = {
        "inputs": (spec("audio", 1, 512), spec("before", 2, 1, 128)),
        "outputs": (spec("probability", 1, 1), spec("next", 2, 1, 128)),
    }
    root, manifest = described(SOUND, voice(states=(state,), **names), brings_pictures=False)
    assert manifest.state == (State(input="before", output="next"),)
    assert root.names["before"] == "state"


def test_a_description_that_leaves_a_tensor_out_is_refused():
    with pytest.raises(UsageError, match=r"the description has 1 inputs, the model has 2 \(input \[1, 576\]"):
        described(SOUND, voice(inputs=(spec("audio", 1, 512),)), brings_pictures=False)


def test_a_state_does_not_count_as_a_second_output_of_a_classifier():
    root = Root(
        inputs=(*PICTURES.inputs, spec("h", 1, 16)),
        outputs=(*PICTURES.outputs, spec("hn", 1, 16)),
        image="x",
        layout="NCHW",
    )
    assert described(root, asked(), brings_pictures=True)[1].task == "raw"
    _, manifest = described(root, asked(states=("hn:h",)), brings_pictures=True)
    assert manifest.task == "classify"
    assert [entry.name for entry in manifest.outputs] == ["scores", "hn"]
    assert manifest.state == (State(input="h", output="hn"),)


def test_of_several_outputs_the_one_with_a_score_for_each_label_has_the_scores():
    root = Root(
        inputs=PICTURES.inputs, outputs=(spec("features", 1, 64), spec("y", 1, 5)), image="x", layout="NCHW"
    )
    _, manifest = described(root, asked(labels=tuple("abcde")), brings_pictures=True)
    assert [entry.name for entry in manifest.outputs] == ["features", "scores"]
