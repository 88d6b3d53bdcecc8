"""``edgekit optimize`` of a model with state: pairs are given, recordings run in order, the bundle knows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from gru import answers, gru_onnx, recordings

from edgekit.bench.variant_process import VariantProcess
from edgekit.cli.main import main
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import Profile, State, TensorSpec
from edgekit.model.bundle import open_bundle
from edgekit.model.doctor import facts_with_proofs
from edgekit_optimize.cache import Cache
from edgekit_optimize.cli.optimize import _request, add_arguments
from edgekit_optimize.metrics.table import Observed, score
from edgekit_optimize.run.deliver import fill_bundle
from edgekit_optimize.run.inputs import read_inputs
from edgekit_optimize.run.progress import Progress
from edgekit_optimize.run.request import Description, Request
from edgekit_optimize.run.rules import plan_candidates
from edgekit_optimize.run.run import _search, named_profiles
from edgekit_optimize.run.states import guess_hint, state_pairs


def specs(**shapes):
    return tuple(TensorSpec(name=name, datatype="FP32", shape=shape) for name, shape in shapes.items())


INPUTS = specs(x=(1, 4, 8), h=(1, 1, 16), c=(1, 1, 16))
OUTPUTS = specs(y=(1, 5), hn=(1, 1, 16), cn=(1, 1, 16))


# --- what the user tells


def test_a_pair_names_an_output_and_the_input_that_it_is_fed_to():
    assert state_pairs(("hn:h", "cn:c"), (), INPUTS, OUTPUTS) == (
        State(input="h", output="hn"),
        State(input="c", output="cn"),
    )


def test_names_may_have_colons():
    inputs, outputs = specs(**{"in:0": (1, 4), "h:0": (1, 2)}), specs(**{"y": (1,), "call:1": (1, 2)})
    assert state_pairs(("call:1:h:0",), (), inputs, outputs) == (State(input="h:0", output="call:1"),)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("hn",), "--state hn: want OUTPUT:INPUT"),
        (("h:hn",), "--state h:hn: want OUTPUT:INPUT"),
        (("y:h",), r"--state y:h: the output has shape \[1, 5\], the input \[1, 1, 16\]"),
        (("hn:h", "cn:h"), "--state names input 'h' twice"),
        (("hn:h", "hn:c"), "--state names output 'hn' twice"),
    ],
)
def test_invalid_pairs_are_refused_with_likely_pairs(texts, message):
    with pytest.raises(UsageError, match=message) as caught:
        state_pairs(texts, (), INPUTS, OUTPUTS)
    if "twice" not in message:
        assert "--state hn:h --state cn:c" in caught.value.hint


def test_a_model_of_states_alone_takes_no_data():
    with pytest.raises(UsageError, match="none is left for the data"):
        state_pairs(("hn:h", "cn:c"), (), INPUTS[1:], OUTPUTS)


def test_a_guess_goes_by_shape_then_name_and_leaves_an_input_for_the_data():
    assert guess_hint(INPUTS, OUTPUTS).endswith("--state hn:h --state cn:c")
    assert guess_hint(specs(x=(1, 8)), specs(y=(1, 8))) == ""
    assert guess_hint(specs(x=(1, 8), z=(1, 3)), specs(y=(1, 5))) == ""


# --- from the model file to the bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    gru_onnx(folder / "gru.onnx")
    frames, marks = recordings()
    np.savez(folder / "data.npz", x=frames, recording=marks)
    return folder


def request(place, **fields):
    usual = {
        "model": str(place / "gru.onnx"),
        "data": str(place / "data.npz"),
        "out": place / "out",
        "states": ("hn:h",),
        "samples": 60,
        "calibration_samples": 12,
        "description": Description(model="gru"),
    }
    return Request(**usual | fields)


def read(place, **fields):
    return read_inputs(request(place, **fields), Cache(place / "cache"), Progress())


def test_calibration_and_golden_samples_have_the_states_that_the_float_model_has_there(place):
    found = read(place)
    frames, _ = recordings()
    states, _ = answers(frames, range(0, 120, 20))
    rows = {frame.tobytes(): state for frame, state in zip(frames, states, strict=True)}
    with np.load(found.target_model.root.calibration) as calibration, np.load(found.samples) as samples:
        assert calibration["h"].shape == (12, 1, 8)
        for archive in (calibration, samples):
            wanted = np.array([rows[frame.tobytes()] for frame in archive["x"]])
            np.testing.assert_allclose(archive["h"].reshape(wanted.shape), wanted, atol=1e-5)
        assert np.abs(calibration["h"]).max() > 0.5
        assert samples["@recording"].tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert found.split.evaluation.states == ("hn",)


def test_a_state_that_is_not_given_is_never_guessed(place):
    with pytest.raises(ConfigError, match="has no array 'h'") as caught:
        read(place, states=())
    assert caught.value.hint == "if the model keeps state between calls, add: --state hn:h"


def test_a_description_may_rename_its_tensors(place):
    described = Description(
        model="gru",
        task="raw",
        state=(State(input="h", output="hn"),),
    )
    found = read(place, states=(), description=described)
    assert found.target_model.manifest.state == (State(input="h", output="hn"),)


@pytest.fixture(scope="module")
def made(place, proved_cache):
    """The float candidates of two runtimes, evaluated, and a bundle of both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proved_cache()))
        facts, detected = facts_with_proofs(Path("/"))
        asked, cache = request(place), Cache(place / "cache")
        inputs = read_inputs(asked, cache, Progress())
        bench = place / "bench"
        search = _search(asked, inputs, facts, detected.profile, cache, Progress(), bench)
        plans = plan_candidates(
            inputs.target_model.root, named_profiles(["rpi5"]), has_calibration=True, task="raw"
        )
        wanted = [plan for plan in plans if plan.id in ("onnxruntime-fp32", "openvino-fp32")]
        search.evaluate(search.make(wanted))
        folder = place / "gru"
        fill_bundle(folder, search, inputs, search.candidates(), created="", command="")
    return search, open_bundle(folder)


def test_the_bundle_declares_the_state_and_its_golden_samples_pass(made, capsys):
    _, bundle = made
    assert bundle.manifest.state == (State(input="h", output="hn"),)
    assert main(["verify", str(bundle.source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    with np.load(bundle.source / bundle.manifest.golden[1].inputs) as inputs:
        assert sorted(inputs.files) == ["h", "x"]
        assert np.abs(inputs["h"]).max() > 0.1, "in the middle of a recording"


def test_the_metric_ignores_the_state(made):
    search, _ = made
    data, reference = search.evaluation.dataset, search.reference
    worse = Observed(reference.outputs | {"hn": -reference.outputs["hn"]})
    found = score(search.evaluation.metric, reference, worse, data)
    assert found.metric == "cosine"
    assert found.drop == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_runtime_carries_the_state_and_resets_it_at_each_recording(made, place, tmp_path, backend):
    _, bundle = made
    found = read(place)
    frames = found.split.evaluation.inputs["x"]
    _, wanted = answers(frames, found.split.evaluation.starts)
    variant = next(v for v in bundle.manifest.variants if (v.backend, v.precision) == (backend, "fp32"))
    process = VariantProcess(bundle, variant, Profile(id="here", title="here"), 1)
    try:
        process.evaluate(found.samples, tmp_path / "out.npz", None, in_order=True)
    finally:
        process.close()
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], wanted, atol=1e-4)


def test_the_command_takes_a_pair_for_each_state():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["m.onnx", "--data", "d.npz", "-o", "out", "--state", "hn:h", "--state", "cn:c"]
    assert _request(parser.parse_args(words)).states == ("hn:h", "cn:c")
