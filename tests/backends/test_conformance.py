"""Every backend keeps the same promises, and the same network gives the same answers on each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_nets
from onnx import helper
from other_pythons import foreign_python

from edgekit.backends import open_backend, tiny
from edgekit.core.errors import BackendError, ConfigError, ModelLoadError, TensorError
from edgekit.core.ports import Backend
from edgekit.core.spec import Manifest, Post, Pre, TensorSpec, Variant, VariantFile
from edgekit.pipeline.predictor import Predictor


@dataclass(frozen=True)
class Case:
    """One backend, its model file, and what the model computes."""

    name: str
    write: Callable[[Path], Path]
    options: dict[str, Any]
    reference: Callable[[np.ndarray], np.ndarray] = tiny_nets.reference
    width: int = tiny_nets.INPUTS

    def open(self, folder: Path, **options: Any) -> Backend:
        variant = Variant(id=f"{self.name}-fp32", backend=self.name.split("-")[0])
        return open_backend(self.write(folder / "net"), variant, {**self.options, **options})

    def parts(self, folder: Path) -> tuple[bytes, ...]:
        path = self.write(folder / "net")
        beside = path.with_suffix(".bin")
        return (path.read_bytes(), *([beside.read_bytes()] if self.name == "openvino" else []))

    def sample(self, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(1, self.width)).astype(np.float32)


def _echo_reference(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ np.array(tiny.WEIGHTS, np.float32) + np.array(tiny.BIASES, np.float32), 0)


def _constant(x: np.ndarray) -> np.ndarray:
    return np.full((1, tiny_nets.OUTPUTS), 0.25, np.float32)


def _tiny(path: Path) -> Path:
    return tiny.tiny_model("foreign")


_NULL = {
    "inputs": {"x": {"datatype": "FP32", "shape": [1, tiny_nets.INPUTS]}},
    "outputs": {"y": {"datatype": "FP32", "shape": [1, tiny_nets.OUTPUTS], "value": 0.25}},
}
_ECHO = {"tenant": "echo", "python": foreign_python()}
CASES = [
    Case("litert", lambda path: tiny_nets.write_tflite(path.with_suffix(".tflite")), {"threads": 1}),
    Case("onnxruntime", lambda path: tiny_nets.write_onnx(path.with_suffix(".onnx")), {"threads": 1}),
    Case("openvino", lambda path: tiny_nets.write_ir(path.with_suffix(".xml")), {"threads": 1}),
    Case("openvino-onnx", lambda path: tiny_nets.write_onnx(path.with_suffix(".onnx")), {"threads": 1}),
    Case("openvino-tflite", lambda path: tiny_nets.write_tflite(path.with_suffix(".tflite")), {"threads": 1}),
    Case("null", _tiny, _NULL, reference=_constant),
    Case("foreign-echo", _tiny, _ECHO, reference=_echo_reference, width=16),
]
LOADERS = [case for case in CASES if case.name in {"litert", "onnxruntime", "openvino", "openvino-onnx"}]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def backend(case, tmp_path):
    opened = case.open(tmp_path)
    yield opened
    opened.close()


def test_it_satisfies_the_port(backend):
    assert isinstance(backend, Backend)


def test_it_names_and_sizes_its_tensors_from_the_file(case, backend):
    (x,), (y,) = backend.inputs, backend.outputs
    assert (x.name, x.datatype, x.shape) == ("x", "FP32", (1, case.width))
    assert (y.name, y.datatype, y.shape[0]) == ("y", "FP32", 1)
    assert backend.accelerator == "cpu"


def test_the_same_network_gives_the_same_answer_in_every_format(case, backend):
    x = case.sample()
    np.testing.assert_allclose(
        backend.infer({"x": x})["y"], case.reference(x), atol=tiny_nets.TOLERANCE, rtol=0
    )


def test_a_view_written_in_place_feeds_the_next_run(case, backend):
    x = case.sample(2)
    backend.view("x")[...] = x
    in_place = backend.run()["y"].copy()
    np.testing.assert_array_equal(in_place, backend.infer({"x": x})["y"])


def test_a_view_has_the_shape_and_dtype_of_its_spec_and_can_be_written(case, backend):
    view = backend.view("x")
    assert view.shape == (1, case.width)
    assert view.dtype == np.float32
    assert view.flags.writeable
    assert view.flags.c_contiguous


def test_results_stay_until_the_next_run_even_while_inputs_are_written(case, backend):
    result = backend.infer({"x": case.sample(3)})["y"]
    before = result.copy()
    backend.view("x")[...] = 1e3
    np.testing.assert_array_equal(result, before)


def test_results_may_be_held_while_the_next_run_goes_on(case, backend):
    held = [backend.infer({"x": case.sample(seed)}) for seed in range(20)]
    assert [set(found) for found in held] == [{"y"}] * 20


def test_a_hundred_runs_give_each_its_own_answer(case, backend):
    for seed in range(100):
        x = case.sample(seed)
        np.testing.assert_allclose(backend.infer({"x": x})["y"], case.reference(x), atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: {"x": x.astype(np.float64)}, "float64"),
        (lambda x: {"x": x[0]}, "want FP32"),
        (lambda x: {"x": np.concatenate([x, x])}, "want FP32"),
        (lambda x: {"x": x.tolist()}, "list"),
        (lambda x: {"z": x}, "unknown: 'z'"),
        (lambda x: {"x": x, "z": x}, "unknown: 'z'"),
        (lambda x: {}, "missing: 'x'"),
    ],
    ids=["dtype", "rank", "batch", "no array", "other name", "one too many", "none"],
)
def test_a_feed_that_does_not_fit_is_refused_by_name(case, backend, spoil, words):
    with pytest.raises(TensorError) as caught:
        backend.infer(spoil(case.sample()))
    assert words in caught.value.render()
    assert "fix:" in caught.value.render()


def test_after_a_refused_feed_it_still_runs(case, backend):
    with pytest.raises(TensorError):
        backend.infer({})
    assert backend.infer({"x": case.sample()})["y"].shape[0] == 1


def test_a_view_of_an_unknown_input_is_refused(backend):
    with pytest.raises(TensorError, match="no input 'nope'"):
        backend.view("nope")


def test_a_feed_need_not_be_contiguous(case, backend):
    wide = np.repeat(case.sample(4), 2, axis=1)
    strided = wide[:, ::2]
    expected = backend.infer({"x": np.ascontiguousarray(strided)})["y"].copy()
    np.testing.assert_array_equal(backend.infer({"x": strided})["y"], expected)


def test_closing_twice_is_safe_and_use_after_it_is_an_error(case, backend):
    x = case.sample()
    backend.close()
    backend.close()
    for use in (backend.run, lambda: backend.infer({"x": x}), lambda: backend.view("x"), backend.reset):
        with pytest.raises(BackendError, match="is closed"):
            use()


def test_it_opens_again_after_close(case, tmp_path):
    for _ in range(3):
        opened = case.open(tmp_path)
        assert opened.infer({"x": case.sample()})["y"].shape[0] == 1
        opened.close()


def test_two_at_once_in_two_threads_do_not_mix(case, tmp_path):
    answers: dict[int, list[bytes]] = {1: [], 2: []}
    together = threading.Barrier(2)

    def work(seed: int) -> None:
        opened = case.open(tmp_path / str(seed))
        together.wait(timeout=120)
        for _ in range(50):
            answers[seed].append(opened.infer({"x": case.sample(seed)})["y"].tobytes())
        opened.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in answers]
    for seed in answers:
        (tmp_path / str(seed)).mkdir()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [len(found) for found in answers.values()] == [50, 50]
    assert all(len(set(found)) == 1 for found in answers.values())
    if case.name != "null":
        assert answers[1][0] != answers[2][0]


@pytest.mark.parametrize("case", LOADERS, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "refuses the model"),
        (lambda data: b"\x00" * 64, "refuses the model"),
        (lambda data: b"<html>404</html>", "refuses the model"),
    ],
    ids=["empty", "truncated", "zeros", "another file"],
)
def test_a_spoiled_file_is_refused_with_its_name_and_a_way_out(case, tmp_path, spoil, words):
    path = case.write(tmp_path / "net")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelLoadError) as caught:
        open_backend(path, Variant(id="v", backend=case.name.split("-")[0]), case.options)
    assert path.name in caught.value.message
    assert words in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("domain", ["", "my.domain"])
def test_an_operator_that_a_runtime_does_not_know_is_not_called_damage(name, domain, tmp_path):
    ends = [helper.make_tensor_value_info(end, 1, [1, 3]) for end in "xy"]
    graph = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"], domain=domain)], "g", *zip(ends))
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    path = tmp_path / "odd.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=domains).SerializeToString())
    with pytest.raises(ModelLoadError, match="Frobnicate") as caught:
        open_backend(path, Variant(id="v", backend=name))
    assert caught.value.hint.startswith(f"{name} does not know this operator")


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino", "foreign"])
def test_a_missing_file_is_refused(name, tmp_path):
    with pytest.raises(ModelLoadError, match=r"gone\.bin: no such model file"):
        open_backend(tmp_path / "gone.bin", Variant(id="v", backend=name))


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino", "foreign"])
def test_the_committed_tiny_model_answers_right_to_the_last_bit(name):
    options = _ECHO if name == "foreign" else {}
    backend = open_backend(tiny.tiny_model(name), Variant(id="tiny", backend=name), options)
    found = backend.infer({"x": np.array([tiny.INPUTS], np.float32)})["y"]
    assert found.ravel().tolist() == list(tiny.expected())
    backend.close()


@pytest.mark.parametrize("case", LOADERS, ids=lambda case: case.name)
def test_bytes_in_memory_open_as_the_file_does(case, tmp_path):
    variant, parts = Variant(id="v", backend=case.name.split("-")[0]), case.parts(tmp_path)
    from_file, from_bytes = case.open(tmp_path), open_backend(parts, variant, case.options)
    assert (from_bytes.inputs, from_bytes.outputs) == (from_file.inputs, from_file.outputs)
    x = case.sample()
    np.testing.assert_array_equal(from_bytes.infer({"x": x})["y"], from_file.infer({"x": x})["y"])
    from_bytes.reset()
    np.testing.assert_array_equal(from_bytes.infer({"x": x})["y"], from_file.infer({"x": x})["y"])
    from_file.close()
    from_bytes.close()
    if len(parts) == 1:
        open_backend(parts[0], variant, case.options).close()


@pytest.mark.parametrize(
    ("case", "reader"),
    [("openvino-tflite", "openvino's reader of .tflite models"), ("foreign-echo", "a foreign interpreter")],
)
def test_what_opens_only_files_says_so_for_bytes(case, reader, tmp_path):
    chosen = next(row for row in CASES if row.name == case)
    with pytest.raises(ModelLoadError, match=reader) as caught:
        open_backend(
            chosen.parts(tmp_path), Variant(id="v", backend=case.split("-")[0]), dict(chosen.options)
        )
    assert "write the model to a file" in caught.value.hint


@pytest.mark.parametrize("case", LOADERS, ids=lambda case: case.name)
@pytest.mark.parametrize("data", [b"", (), b"no model at all"], ids=["empty", "none", "another file"])
def test_spoilt_bytes_are_refused_by_the_variants_name(case, data):
    with pytest.raises(ModelLoadError, match="variant 'v'"):
        open_backend(data, Variant(id="v", backend=case.name.split("-")[0]), case.options)


def test_weights_beside_an_onnx_model_come_from_memory_by_their_files_names(tmp_path):
    import onnx

    model = onnx.load(str(tiny_nets.write_onnx(tmp_path / "net.onnx")))
    onnx.save_model(
        model,
        str(tmp_path / "big.onnx"),
        save_as_external_data=True,
        location="big.data",
        size_threshold=0,
        convert_attribute=False,
    )
    files = tuple(
        VariantFile(path=f"v/{name}", bytes=1, sha256="0" * 64) for name in ("big.onnx", "big.data")
    )
    parts = tuple((tmp_path / name).read_bytes() for name in ("big.onnx", "big.data"))
    backend = open_backend(parts, Variant(id="v", backend="onnxruntime", files=files), {"threads": 1})
    x = tiny_nets.sample()
    np.testing.assert_allclose(backend.infer({"x": x})["y"], tiny_nets.reference(x), atol=1e-5)
    backend.close()


def _free_tflite(path: Path) -> Path:
    return tiny_nets.write_tflite(path.with_suffix(".tflite"), free_batch=True)


FREE = [case for case in LOADERS if case.name != "litert"]
FREE += [Case("litert", _free_tflite, {"threads": 1}), Case("openvino-tflite", _free_tflite, {"threads": 1})]


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
def test_a_free_batch_opens_at_the_batch_that_is_asked_for(case, tmp_path):
    backend = case.open(tmp_path, batch=4)
    assert [spec.shape for spec in (*backend.inputs, *backend.outputs)] == [(4, 24), (4, 5)]
    rows = np.concatenate([case.sample(seed) for seed in range(4)])
    np.testing.assert_allclose(backend.infer({"x": rows})["y"], case.reference(rows), atol=1e-5)
    backend.close()


@pytest.mark.parametrize("case", [case for case in CASES if "tflite" in case.name or case.name == "litert"])
def test_a_file_built_for_one_sample_refuses_to_open_at_eight(case, tmp_path):
    with pytest.raises(ModelLoadError, match=r"options\.batch asks for 8"):
        case.open(tmp_path, batch=8)


@pytest.mark.parametrize(("asked", "opened"), [(None, 2), (8, 8)])
def test_a_variant_opens_at_its_first_batch_size_or_at_another_it_lists(asked, opened, tmp_path):
    path = tiny_nets.write_onnx(tmp_path / "net.onnx")
    variant = Variant(id="v", backend="onnxruntime", batch=(2, 8))
    backend = open_backend(path, variant, {} if asked is None else {"batch": asked})
    assert backend.inputs[0].shape[0] == opened
    backend.close()


def test_a_batch_that_a_variant_was_not_built_for_is_refused(tmp_path):
    path = tiny_nets.write_onnx(tmp_path / "net.onnx")
    with pytest.raises(ModelLoadError, match="built for batch 2 or 8, not 4"):
        open_backend(path, Variant(id="v", backend="onnxruntime", batch=(2, 8)), {"batch": 4})
    for wrong in (0, True, "8", 1025):
        with pytest.raises(ConfigError, match="want a number from 1 to 1024"):
            open_backend(path, Variant(id="v", backend="onnxruntime", batch="free"), {"batch": wrong})


@pytest.mark.parametrize("case", FREE, ids=lambda case: case.name)
@pytest.mark.parametrize("batch", [1, 4])
def test_predictions_in_batches_are_those_of_one_by_one(case, batch, tmp_path):
    manifest = Manifest(
        format=1,
        model="net",
        version="1.0.0",
        task="sensor",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 24)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(1, 5)),),
        pre=Pre(resize="none", window=24, hop=24),
        post=Post(decoder="raw"),
        variants=(),
    )
    variant = Variant(id="v", backend=case.name.split("-")[0], batch="free")
    predictor = Predictor(manifest, variant, case.open(tmp_path, batch=batch))
    windows = [case.sample(seed)[0] for seed in range(10)]
    answers = [answer.tensors["y"] for answer in predictor.predict_many(windows)]
    assert predictor.batch == batch
    for window, found in zip(windows, answers, strict=True):
        np.testing.assert_allclose(found, case.reference(window[None]), atol=1e-5)
        np.testing.assert_allclose(found, predictor.predict(window).tensors["y"], atol=1e-6)
    predictor.close()
