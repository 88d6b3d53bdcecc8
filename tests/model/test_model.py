import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import CHANNELS, WINDOW, WRONG_OUTPUTS, make_bundle
from pipeline_fakes import make_manifest

import edgekit
import edgekit.backends.tiny
from edgekit.bench.measure import measure_new, unmeasured
from edgekit.core.errors import GoldenError, NoVariantError, TensorError
from edgekit.core.spec import Post
from edgekit.model.bundle import open_bundle
from edgekit.model.costs import MeasuredCost, load_costs, save_costs
from edgekit.model.golden import require_golden, run_golden
from edgekit.model.ready import Choices, open_ready

TINY = Path(edgekit.backends.tiny.__file__).parent


@pytest.mark.parametrize("name", ["relu.tflite", "relu.onnx", "relu.xml"])
def test_a_bare_model_file_runs_from_python(name):
    with edgekit.load(TINY / name) as model:
        spec = model._ready.backend.inputs[0]
        shape = [max(length, 1) for length in spec.shape]
        given = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        (found,) = model.infer({spec.name: given}).values()
        assert found.dtype == np.float32
        again = model.infer({spec.name: np.zeros_like(given)})
        assert not np.array_equal(found, next(iter(again.values())))


def test_a_pipeline_overrides_only_the_thresholds_it_names():
    manifest = make_manifest(post=Post(score_threshold=0.5, top_k=7))
    post = Choices(score_threshold=0.1).post(manifest)
    assert (post.score_threshold, post.iou_threshold, post.top_k) == (0.1, 0.45, 7)


@pytest.mark.parametrize("name", ["relu.tflite", "relu.onnx", "relu.xml"])
def test_the_manifest_of_a_bare_file_has_the_files_tensors(name):
    with edgekit.load(TINY / name) as model:
        (x,), (y,) = model.manifest.inputs, model.manifest.outputs
        assert (x.name, x.datatype, x.shape) == ("x", "FP32", (1, 16))
        assert (model.inputs, model.outputs) == ((x,), (y,))
        with pytest.raises(TensorError, match="takes raw tensors") as caught:
            model.predict(np.zeros((8, 8, 3), np.uint8))
        assert "Model.infer" in caught.value.hint


def test_free_axes_of_a_bare_file_say_how_they_are_settled(tmp_path):
    model = onnx.load(str(TINY / "relu.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    onnx.save(model, str(tmp_path / "free.onnx"))
    with pytest.raises(NoVariantError) as caught:
        edgekit.load(tmp_path / "free.onnx")
    assert "options.shapes" in caught.value.render()


def test_a_batch_that_no_variant_takes_is_refused_and_one_by_one_works(tmp_path):
    make_bundle(tmp_path / "b")
    windows = [np.zeros((WINDOW, CHANNELS), np.float32)] * 3
    with edgekit.load(tmp_path / "b") as model:
        assert model.predict_many(windows) == [model.predict(window) for window in windows]
    with pytest.raises(NoVariantError, match="no variant"):
        edgekit.load(TINY / "relu.tflite", batch=8)


def test_a_bundle_predicts_and_says_why_it_runs_what_it_runs(tmp_path):
    make_bundle(tmp_path / "b")
    with edgekit.load(tmp_path / "b") as model:
        prediction = model.predict(np.zeros((WINDOW, CHANNELS), np.float32))
        assert prediction.best.label == "moving"
        assert model.why.startswith("null: ")


def test_a_variant_that_cannot_be_opened_is_passed_over_and_told(tmp_path):
    good = (TINY / "relu.tflite").read_bytes()
    variants = []
    for name, data in (("broken", b"not a model" * 9), ("good", good)):
        (tmp_path / f"{name}.tflite").write_bytes(data)
        file = {"path": f"{name}.tflite", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        variants.append({"id": name, "backend": "litert", "files": [file]})
    document = {"format": 1, "model": "net", "version": "1.0.0", "task": "raw", "inputs": [], "outputs": []}
    (tmp_path / "bundle.json").write_text(json.dumps(document | {"variants": variants}))
    opened = open_ready(tmp_path)
    assert opened.variant.id == "good"
    assert "could not be opened" in opened.excluded["broken"]
    assert "broken: could not be opened" in opened.why
    opened.close()


def test_asking_for_a_variant_that_is_not_there_lists_those_that_are(tmp_path):
    make_bundle(tmp_path / "b")
    with pytest.raises(NoVariantError) as caught:
        open_ready(tmp_path / "b", Choices(variant="tpu"))
    assert "null" in caught.value.hint


def test_a_golden_sample_that_does_not_hold_is_named(tmp_path):
    make_bundle(tmp_path / "b", golden=(0.9, 0.1))
    opened = open_ready(tmp_path / "b", Choices(golden=False))
    with pytest.raises(GoldenError, match="1 of 1") as caught:
        require_golden(opened.manifest, run_golden(opened.bundle, opened.predictor, "fp32"))
    assert "golden/0.npz: off by 0.8" in caught.value.render()
    opened.close()


def test_a_nan_never_holds(tmp_path):
    make_bundle(tmp_path / "b", golden=(float("nan"), 0.1))
    opened = open_ready(tmp_path / "b", Choices(golden=False))
    with pytest.raises(GoldenError):
        require_golden(opened.manifest, run_golden(opened.bundle, opened.predictor, "fp32"))
    opened.close()


def test_the_agent_measures_only_what_is_not_measured_yet():
    bundle = open_bundle(TINY / "relu.tflite")
    assert len(unmeasured(bundle, 1)) == len(bundle.manifest.variants)
    measure_new(str(TINY / "relu.tflite"), "")
    from edgekit.model.choice import default_threads
    from edgekit.model.doctor import facts_with_proofs

    facts, _ = facts_with_proofs()
    assert unmeasured(bundle, default_threads(facts)) == ()


def test_costs_that_are_saved_at_once_are_all_kept():
    def save(number):
        save_costs({str(number): MeasuredCost(1.0, 1.0, 1.0, 1.0, number)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(40)))
    assert set(load_costs()) == {str(number) for number in range(40)}


def test_the_package_itself_imports_no_numpy():
    done = subprocess.run(
        [sys.executable, "-c", "import edgekit, sys; print('numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_a_variant_that_fails_its_golden_samples_is_left_for_the_next(tmp_path):
    wrong = {"id": "wrong", "backend": "null", "options": {"outputs": WRONG_OUTPUTS}}
    make_bundle(tmp_path / "b", more_variants=(wrong,), first="wrong")
    with edgekit.load(tmp_path / "b") as model:
        assert model.variant.id == "null"
        assert "wrong: 'motion 1.0.0' does not reproduce 1 of 1" in model.why
        assert "golden/0.npz: off by 0.8" in model.why


def test_where_every_variant_fails_its_golden_samples_each_is_named(tmp_path):
    make_bundle(tmp_path / "b", golden=(0.9, 0.1), more_variants=({"id": "other", "backend": "null"},))
    with pytest.raises(GoldenError) as caught:
        open_ready(tmp_path / "b")
    assert [reason.partition(":")[0] for reason in caught.value.reasons] == ["null", "other"]
