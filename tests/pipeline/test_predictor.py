"""The predictor maps names, layouts, quantisation and state, and lets no bad tensor through."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pipeline_fakes import (
    ArrayBackend,
    image_input,
    make_manifest,
    make_predictor,
    make_variant,
    replaced,
    spec,
)

from edgekit.core.errors import BundleError, InferenceError, TensorError
from edgekit.core.spec import Adjust, Post, Pre, Quantization, State
from edgekit.pipeline.file_tensors import FileTensors, shape_as
from edgekit.pipeline.predictor import Predictor

FRAME = np.full((20, 30, 3), 50, np.uint8)


def image_predictor(file_input, file_output, function, variant=None, manifest=None):
    backend = ArrayBackend([file_input], [file_output], function)
    manifest = manifest or make_manifest(post=Post(decoder="classify", score_threshold=0.0))
    return Predictor(manifest, variant or make_variant(), backend, ("a", "b", "c")), backend


def test_logical_names_become_the_files():
    scores = np.float32([[0.2, 0.1, 0.7]])
    variant = make_variant(inputs={"image": "in:0"}, outputs={"scores": "out:0"})
    predictor, backend = image_predictor(
        spec("in:0", (1, 8, 8, 3)), spec("out:0", (1, 3)), lambda _: {"out:0": scores}, variant
    )
    assert predictor.predict(FRAME).best.label == "c"
    assert (backend.arrays["in:0"] == 50).all()


def test_a_name_that_the_file_does_not_have_is_told_with_those_it_has():
    with pytest.raises(TensorError) as caught:
        image_predictor(spec("x", (1, 8, 8, 3)), spec("scores", (1, 3)), dict)
    assert "the file has no tensor 'image'" in caught.value.message
    assert caught.value.reasons == ("it has 'x', FP32 [1, 8, 8, 3]",)


def test_quantised_outputs_become_real_numbers():
    out = spec("scores", (1, 3), "UINT8", quantization=Quantization(scale=1 / 256, zero_point=0))
    predictor, _ = image_predictor(
        spec("image", (1, 8, 8, 3)), out, lambda _: {"scores": np.uint8([[64, 128, 0]])}
    )
    assert [item.score for item in predictor.predict(FRAME).items] == [0.5, 0.25, 0.0]


def test_the_next_run_does_not_wait_for_real_numbers_and_does_not_change_the_last_ones():
    """``infer`` copies a quantised file's bytes; ``finish`` makes real numbers of them, even runs later."""
    out = spec("scores", (1, 3), "UINT8", quantization=Quantization(scale=1 / 256, zero_point=0))
    memory = np.uint8([[64, 128, 0]])
    predictor, _ = image_predictor(spec("image", (1, 8, 8, 3)), out, lambda _: {"scores": memory})
    first = predictor.infer(FRAME)
    assert first.copies["scores"].dtype == np.uint8
    assert not first.outcome.tensors
    memory[:] = [[0, 0, 192]]  # the backend's, valid until its next run
    second = predictor.infer(FRAME)
    assert [item.score for item in predictor.finish(first).prediction.items] == [0.5, 0.25, 0.0]
    assert predictor.finish(second).prediction.best.score == 0.75


def test_the_state_of_a_quantised_model_is_real_numbers_before_the_next_run():
    grid = Quantization(scale=0.5, zero_point=10)
    manifest = replaced(
        make_manifest("sensor", inputs=(spec("window", (1, 4)), spec("h", (1, 2))), pre=Pre(window=4)),
        outputs=(spec("scores", (1, 3)), spec("h_new", (1, 2))),
        state=(State(input="h", output="h_new"),),
    )
    held = []

    def run(arrays):
        held.append(arrays["h"].tolist())
        return {"scores": np.float32([[1, 0, 0]]), "h_new": np.uint8([[12, 10 + 2 * len(held)]])}

    outputs = (spec("scores", (1, 3)), spec("h_new", (1, 2), "UINT8", quantization=grid))
    predictor = Predictor(manifest, make_variant(), ArrayBackend(manifest.inputs, outputs, run), tuple("abc"))
    for _ in range(3):
        predictor.infer(np.float32([1, 2, 3, 4]))  # none is finished
    assert held == [[[0, 0]], [[1, 1]], [[1, 2]]]


def test_channels_first_files_are_fed_channels_first():
    predictor, backend = image_predictor(
        spec("image", (1, 3, 8, 8)),
        spec("scores", (1, 3)),
        lambda _: {"scores": np.zeros((1, 3), np.float32)},
        make_variant(layout="NCHW"),
    )
    predictor.predict(np.dstack([np.full((8, 8), value, np.uint8) for value in (1, 2, 3)]))  # BGR
    assert backend.arrays["image"][0, :, 0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_fail_the_frame(bad):
    with pytest.raises(InferenceError, match="output 'scores' has a value that is not a finite number"):
        make_predictor(values={"scores": [[0.1, bad, 0.2]]}).predict(FRAME)


@pytest.mark.parametrize(("datatype", "scale"), [("UINT8", 3e38), ("INT32", 1e33)])
def test_a_quantised_output_is_taken_for_finite_only_where_its_scale_makes_it_so(datatype, scale):
    out = spec("scores", (1, 3), datatype, quantization=Quantization(scale=scale, zero_point=0))
    held = np.array([[0, 200, 1_000_000 if datatype == "INT32" else 1]])
    predictor, _ = image_predictor(
        spec("image", (1, 8, 8, 3)), out, lambda _: {"scores": held.astype(datatype.lower())}
    )
    with np.errstate(over="ignore"), pytest.raises(InferenceError, match="not a finite number"):
        predictor.predict(FRAME)


def test_a_quantised_output_that_the_manifest_scales_is_looked_at():
    out = spec("scores", (1, 3), "UINT8", quantization=Quantization(scale=1.0, zero_point=0))
    variant = make_variant(adjust={"scores": Adjust(factors=(1.0, 3e38, 1.0), axis=1)})
    predictor, _ = image_predictor(
        spec("image", (1, 8, 8, 3)), out, lambda _: {"scores": np.uint8([[1, 2, 3]])}, variant
    )
    with np.errstate(over="ignore"), pytest.raises(InferenceError, match="not a finite number"):
        predictor.predict(FRAME)


def test_a_frame_of_another_shape_fails_before_inference():
    predictor, backend = image_predictor(spec("image", (1, 8, 8, 3)), spec("scores", (1, 3)), dict)
    with pytest.raises(TensorError, match="frame: want"):
        predictor.predict(np.zeros((8, 8), np.float32))
    assert backend.runs == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((1, 2, 2), "input 'x': the variant's file wants FP32 [1, 4, 2], got [1, 2, 2]"),
        ((1, 3, 2), "input 'x': want FP32 [1, 2, 2], got [1, 3, 2]"),
    ],
)
def test_a_tensor_that_fits_the_manifest_and_not_the_file_is_told_what_the_file_wants(given, told):
    manifest = make_manifest(inputs=(spec("x", (1, 2, 2)),), outputs=(spec("y", (1, 3)),))
    backend = ArrayBackend([spec("x", (1, 4, 2))], [spec("y", (1, 3))], dict)
    with pytest.raises(TensorError) as caught:
        FileTensors(manifest, make_variant(), backend).fill("x", np.zeros(given, np.float32))
    assert caught.value.message == told


def test_an_unknown_decoder_is_refused_when_it_is_built():
    with pytest.raises(BundleError, match="got 'nonesuch'"):
        make_predictor(make_manifest(post=Post(decoder="nonesuch")))


def test_an_output_of_another_size_than_the_manifest_says_is_refused():
    predictor, _ = image_predictor(
        spec("image", (1, 8, 8, 3)),
        spec("scores", (1, 3)),
        lambda _: {"scores": np.zeros((1, 4), np.float32)},
    )
    with pytest.raises(TensorError, match=r"output 'scores': want shape \[1, 3\], got \[1, 4\]"):
        predictor.predict(FRAME)


@pytest.mark.parametrize(
    ("shape", "wanted", "layout", "file_layout", "result"),
    [
        ((1, 3, 4), (1, 3, 4), "", "", (1, 3, 4)),
        ((1, 5, 4), (1, -1, 4), "", "", (1, 5, 4)),
        ((3, 4), (1, 3, 4), "", "", (1, 3, 4)),
        ((1, 3, 1, 4), (1, 3, 4), "", "", (1, 3, 4)),
        ((1, 2, 3, 4), (1, 3, 4, 2), "NHWC", "NCHW", (1, 3, 4, 2)),
        ((1, 3, 4, 2), (1, 2, 3, 4), "NCHW", "NHWC", (1, 2, 3, 4)),
    ],
)
def test_outputs_take_their_logical_shape(shape, wanted, layout, file_layout, result):
    real = np.zeros(shape, np.float32)
    assert shape_as(real, spec("y", wanted, layout=layout), file_layout).shape == result


def counting_model():
    """The state counts calls; the output is that count plus the window's sum."""
    manifest = make_manifest(
        "voice",
        inputs=(spec("sound", (1, 5)), spec("h", (1, 1))),
        outputs=(spec("probability", (1, 1)), spec("h_new", (1, 1))),
        pre=Pre(resize="none", window=3, context=2),
        post=Post(decoder="vad", score_threshold=100.0),
        state=(State(input="h", output="h_new"),),
    )

    def run(arrays):
        count = arrays["h"] + 1
        return {"probability": np.float32(count * 1000 + arrays["sound"].sum()), "h_new": np.float32(count)}

    backend = ArrayBackend(manifest.inputs, manifest.outputs, run)
    return Predictor(manifest, make_variant(), backend)


def test_state_and_context_go_from_one_window_to_the_next():
    predictor, window = counting_model(), np.float32([1, 2, 3])
    assert [predictor.predict(window).best.value for _ in range(3)] == [1006, 2011, 3011]
    predictor.reset()
    assert predictor.predict(window).best.value == 1006


def test_two_predictors_on_one_backend_keep_their_own_state_and_samples():
    one, window = counting_model(), np.float32([1, 2, 3])
    two = Predictor(one.manifest, one.variant, one.backend, shares=one)
    values = []
    for _ in range(3):
        values.append(one.predict(window).best.value)
        two.predict(np.float32([9, 9, 9]))
        two.predict(np.float32([9, 9, 9]))
    assert values == [1006, 2011, 3011], "as if it were alone"


def test_golden_samples_begin_with_no_state_and_leave_none():
    predictor, window = counting_model(), np.float32([1, 2, 3])
    predictor.predict(window)
    assert predictor.run_golden({"sound": window})["probability"].tolist() == [[1006]]
    whole = np.float32([[4, 4, 1, 2, 3]])
    outputs = predictor.run_golden({"sound": whole, "h": np.float32([[6]])})
    assert outputs["probability"].tolist() == [[7014]]
    assert predictor.predict(window).best.value == 1006


def test_golden_images_are_taken_after_resizing_and_before_normalising():
    manifest = make_manifest(pre=Pre(mean=(10.0,), std=(2.0,)))
    backend = ArrayBackend(
        [spec("image", (1, 8, 8, 3))], manifest.outputs, lambda a: {"scores": a["image"][0, 0, 0][None]}
    )
    predictor = Predictor(manifest, make_variant(), backend, "abc")
    image = np.broadcast_to(np.uint8([10, 12, 14]), (1, 8, 8, 3))
    assert predictor.run_golden({"image": image})["scores"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"image": np.zeros((1, 8, 8, 3), np.uint8), "more": np.zeros(1)},
        {"image": np.zeros((1, 8, 8, 3), np.float32)},
        {"image": np.zeros((1, 9, 8, 3), np.uint8)},
    ],
)
def test_golden_samples_of_another_shape_are_refused(feeds):
    with pytest.raises(TensorError, match="input"):
        make_predictor().run_golden(feeds)


def test_a_raw_model_gives_its_tensors_for_golden_samples_and_takes_no_frames():
    manifest = make_manifest(
        "raw", inputs=(spec("x", (1, 2)),), outputs=(spec("y", (1, 2)),), post=Post(decoder="raw")
    )
    backend = ArrayBackend(manifest.inputs, manifest.outputs, lambda a: {"y": a["x"] * 2})
    predictor = Predictor(manifest, make_variant(), backend)
    assert predictor.run_golden({"x": np.float32([[1, 2]])})["y"].tolist() == [[2, 4]]
    with pytest.raises(TensorError, match="takes raw tensors"):
        predictor.predict(FRAME)


def test_the_raw_decoder_hands_the_tensors_on_as_copies():
    manifest = make_manifest(inputs=(image_input(),), post=Post(decoder="raw"))
    predictor = make_predictor(manifest, {"scores": [[1, 2, 3]]})
    prediction = predictor.predict(FRAME)
    assert prediction.tensors["scores"].tolist() == [[1, 2, 3]]
    assert prediction.items == ()
    held = prediction.tensors["scores"]
    predictor.predict(FRAME)
    assert predictor.predict(FRAME).tensors["scores"] is not held


def with_constants(constants, shape=(), datatype="INT32"):
    window, rate = spec("window", (1, 4)), spec("rate", shape, datatype)
    manifest = replaced(
        make_manifest("sensor", inputs=(window, rate), pre=Pre(resize="none", window=4)),
        constants=constants,
    )
    fed = []

    def run(arrays):
        fed.append(arrays["rate"].tolist())
        return {"scores": np.float32([[1, 0, 0]])}

    backend = ArrayBackend((window, rate), (spec("scores", (1, 3)),), run)
    return Predictor(manifest, make_variant(), backend, ("a", "b", "c")), fed


def test_a_constant_input_has_its_value_in_every_run_and_a_request_may_give_another():
    predictor, fed = with_constants({"rate": (16_000,)})
    predictor.warm()
    predictor.predict(np.zeros((4, 1), np.float32))
    predictor.run_tensors({"window": np.zeros((1, 4), np.float32)})
    predictor.run_tensors({"window": np.zeros((1, 4), np.float32), "rate": np.int32(8_000)})
    predictor.predict(np.zeros((4, 1), np.float32))
    assert fed == [16_000, 16_000, 16_000, 8_000, 16_000]


def test_a_constant_has_one_value_or_as_many_as_its_input():
    _, fed = with_constants({"rate": (3,)}, (1, 2), "FP32")
    predictor, fed = with_constants({"rate": (640, 480)}, (1, 2), "FP32")
    predictor.predict(np.zeros((4, 1), np.float32))
    assert fed == [[[640, 480]]]
    with pytest.raises(TensorError, match=r"constants: input 'rate' has shape \[1, 2\], got 3 values"):
        with_constants({"rate": (1, 2, 3)}, (1, 2), "FP32")


def test_closing_twice_is_safe():
    predictor = make_predictor()
    predictor.warm()
    predictor.close()
    predictor.close()


def test_a_model_of_a_task_that_this_version_lacks_is_not_run():
    with pytest.raises(BundleError, match="task: want one of anomaly, .*, got 'telepathy'"):
        make_predictor(make_manifest(task="telepathy"))


class SlowBackend(ArrayBackend):
    """Lets other threads run between taking the input and giving the output."""

    def run(self):
        time.sleep(0)
        return super().run()


def test_two_threads_each_get_the_answer_to_their_own_picture():
    """Before the lock, 31 of 200 answers were another thread's."""
    manifest = make_manifest(post=Post(decoder="classify", score_threshold=0.0))
    backend = SlowBackend(
        manifest.inputs, manifest.outputs, lambda a: {"scores": np.float32([[a["image"].mean() / 255, 0, 0]])}
    )
    predictor = Predictor(manifest, make_variant(), backend, "abc")
    pictures = [np.full((20, 30, 3), level, np.uint8) for level in (0, 85, 170, 255)]

    def mistakes(number):
        picture, wanted = pictures[number % 4], (number % 4) / 3
        scores = (max(item.score for item in predictor.predict(picture).items) for _ in range(100))
        return sum(abs(score - wanted) > 1e-3 for score in scores)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(mistakes, range(8))) == [0] * 8


@pytest.mark.parametrize("nothing", [None, [1, 2], "picture.jpg"])
def test_what_is_no_array_is_refused_by_its_type(nothing):
    with pytest.raises(TensorError, match=f"want a NumPy array, got {type(nothing).__name__}"):
        make_predictor().predict(nothing)


def batched(batch, function=None, **manifest):
    """A classifier whose file takes ``batch`` pictures at once: a score is the mean of a picture."""
    manifest = make_manifest(post=Post(decoder="classify", score_threshold=0.0), **manifest)

    def scores(arrays):
        means = arrays["image"].reshape(batch, -1).mean(axis=1) / 255
        return {"scores": np.float32([[mean, 0, 0] for mean in means])}

    backend = ArrayBackend(
        [spec("image", (batch, 8, 8, 3))], [spec("scores", (batch, 3))], function or scores
    )
    return Predictor(manifest, make_variant(), backend, "abc"), backend


@pytest.mark.parametrize(("batch", "runs"), [(1, 10), (4, 3), (16, 1)])
def test_many_pictures_are_answered_as_they_are_one_by_one_in_as_few_runs_as_the_batch_allows(batch, runs):
    pictures = [np.full((20, 30, 3), 25 * level, np.uint8) for level in range(10)]
    single, (predictor, backend) = batched(1)[0], batched(batch)
    before = backend.runs
    assert predictor.predict_many(pictures) == [single.predict(picture) for picture in pictures]
    assert backend.runs - before == runs
    assert predictor.batch == batch
    assert predictor.predict(pictures[7]) == single.predict(pictures[7])
    assert predictor.predict_many([]) == []


def test_a_bad_picture_among_many_is_named_by_its_number():
    with pytest.raises(TensorError, match="sample 3 of 3: frame: want"):
        batched(4)[0].predict_many([FRAME, FRAME, FRAME[0]])


def test_outputs_without_a_row_for_each_sample_are_refused():
    manifest = make_manifest()
    backend = ArrayBackend([spec("image", (4, 8, 8, 3))], [spec("scores", (1, 3))], dict)
    with pytest.raises(TensorError, match="'scores': want a row for each of 4 samples"):
        Predictor(manifest, make_variant(), backend)


def test_golden_samples_hold_whatever_the_batch():
    image = np.full((1, 8, 8, 3), 51, np.uint8)
    assert batched(4)[0].run_golden({"image": image})["scores"].shape == (1, 3)
    np.testing.assert_allclose(batched(4)[0].run_golden({"image": image})["scores"][0, 0], 0.2, atol=1e-6)


def raw_predictor(file, logical):
    """The file's tensor comes out as it went in."""
    manifest = make_manifest("raw", inputs=(logical("x"),), outputs=(logical("y"),), post=Post(decoder="raw"))
    backend = ArrayBackend([file("x")], [file("y")], lambda arrays: {"y": arrays["x"].copy()})
    return Predictor(manifest, make_variant(), backend), backend


def int8(name):
    return spec(name, (1, 2), "INT8", quantization=Quantization(scale=0.5, zero_point=3))


def test_the_manifests_real_numbers_go_in_and_come_out_of_a_quantised_variant():
    predictor, backend = raw_predictor(int8, lambda name: spec(name, (1, 2)))
    found = predictor.run_tensors({"x": np.float32([[1.0, -2.0]])})["y"]
    assert backend.arrays["x"].tolist() == [[5, -1]]
    assert (found.dtype, found.tolist()) == (np.float32, [[1.0, -2.0]])


def test_a_bare_quantised_file_takes_its_own_integers_and_real_numbers():
    predictor, _ = raw_predictor(int8, int8)
    assert predictor.run_tensors({"x": np.int8([[5, -1]])})["y"].tolist() == [[5, -1]]
    assert predictor.run_tensors({"x": np.float32([[1.0, -2.0]])})["y"].tolist() == [[5, -1]]
    assert predictor.run_tensors({"x": np.float32([[1.0, -2.0]])})["y"].dtype == np.int8


def test_a_real_number_is_not_cut_to_an_integer_input():
    predictor, _ = raw_predictor(*[lambda name: spec(name, (1, 2), "INT32")] * 2)
    with pytest.raises(TensorError, match="input 'x': want INT32, got float32"):
        predictor.run_tensors({"x": np.float32([[0.5, 1]])})
