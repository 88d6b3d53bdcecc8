"""Preprocessing does what the manifest declares, checked against OpenCV and plain NumPy."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import spec

from edgekit.core.errors import TensorError
from edgekit.core.spec import Pre, Quantization
from edgekit.pipeline.pre import (
    ImagePre,
    WindowPre,
    dequantize,
    place,
    quantize,
    resize_image,
    taken_off,
    value_tables,
)


def test_a_transposed_picture_has_its_columns_as_rows():
    tensor = spec("image", (1, 6, 4, 3))  # 6 columns, 4 rows
    pre = ImagePre(Pre(resize="none", is_transposed=True), tensor, "NHWC")
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    resized, _ = pre.resize(picture)
    np.testing.assert_array_equal(pre.tensor(resized)[0], picture[:, :, ::-1].transpose(1, 0, 2))


def picture(height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def fed(pre, tensor, layout, pixels):
    image_pre = ImagePre(pre, tensor, layout)
    view = np.full(
        tensor.shape,
        77,
        {"FP32": np.float32, "INT8": np.int8, "UINT8": np.uint8, "FP16": np.float16}[tensor.datatype],
    )
    resized, _ = image_pre.resize(pixels)
    image_pre.fill(resized, view)
    return view


def reference(pre, pixels, size):
    """What OpenCV's own blob function and NumPy make of it: NCHW, float."""
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    blob = cv2.dnn.blobFromImage(resized, 1.0, size, (0, 0, 0), swapRB=pre.color == "RGB", crop=False)
    mean = np.reshape(pre.mean, (-1, 1, 1))
    return (blob - mean) / np.reshape(pre.std, (-1, 1, 1))


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("std", [(127.5,), (58.4, 57.1, 57.4)])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_float_inputs_equal_opencvs_blob(color, std, layout, datatype):
    pre = Pre(resize="stretch", color=color, mean=std, std=std)
    shape = (1, 24, 32, 3) if layout == "NHWC" else (1, 3, 24, 32)
    view = fed(pre, spec("x", shape, datatype), layout, picture())
    got = view if layout == "NCHW" else view.transpose(0, 3, 1, 2)
    tolerance = 1e-6 if datatype == "FP32" else 2e-3
    np.testing.assert_allclose(got, reference(pre, picture(), (32, 24)), atol=tolerance)


@pytest.mark.parametrize(("datatype", "zero_point"), [("INT8", -1), ("UINT8", 131)])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_quantised_inputs_follow_the_tensors_own_scale(datatype, zero_point, layout):
    pre = Pre(mean=(127.0,), std=(128.0,))
    shape = (1, 24, 32, 3) if layout == "NHWC" else (1, 3, 24, 32)
    tensor = spec("x", shape, datatype, quantization=Quantization(scale=0.012566, zero_point=zero_point))
    view = fed(pre, tensor, layout, picture())
    got = view if layout == "NCHW" else view.transpose(0, 3, 1, 2)
    limits = np.iinfo(view.dtype)
    wanted = np.clip(
        np.rint(reference(pre, picture(), (32, 24)) / 0.012566 + zero_point), limits.min, limits.max
    )
    assert np.abs(got.astype(int) - wanted).max() <= 1  # 0.5 falls either way in another precision
    assert (got == wanted).mean() > 0.99


def test_a_byte_input_without_a_scale_takes_the_bytes():
    view = fed(Pre(mean=(127.0,), std=(128.0,)), spec("x", (1, 24, 32, 3), "UINT8"), "NHWC", picture())
    wanted = cv2.cvtColor(cv2.resize(picture(), (32, 24)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(view[0], wanted)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("datatype", "mean", "std", "scale", "zero_point", "off"),
    [
        ("UINT8", 0.0, 255.0, 1 / 255, 0, (0, 0)),
        ("INT8", 0.0, 255.0, 1 / 255, -128, (128, 128)),
        ("INT8", 127.5, 127.5, 0.007843137718737125, 0, (127, 128)),
        ("INT8", 127.5, 127.5, 0.00787401, -1, (128, 129)),
        ("INT8", 127.5, 127.5, 1 / 127.5, 0, None),
        ("INT8", 127.5, 127.5, 0.01, 3, None),
        ("INT8", 0.0, 1.0, 1.0, 0, None),
    ],
)
def test_each_byte_becomes_what_its_table_says_in_whatever_way(
    datatype, mean, std, scale, zero_point, off, layout
):
    pre = Pre(resize="none", mean=(mean,), std=(std,))
    shape = (1, 16, 16, 3) if layout == "NHWC" else (1, 3, 16, 16)
    tensor = spec("x", shape, datatype, quantization=Quantization(scale=scale, zero_point=zero_point))
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    view = fed(pre, tensor, layout, np.dstack([levels, levels.T, levels[::-1]]))
    rgb = view if layout == "NHWC" else view.transpose(0, 2, 3, 1)
    tables = value_tables(pre, tensor, 3)
    wanted = np.dstack([tables[0][levels[::-1]], tables[1][levels.T], tables[2][levels]])
    np.testing.assert_array_equal(rgb[0], wanted)
    assert taken_off(tables) == off


def test_tables_that_differ_take_nothing_off_alike():
    tensor = spec("x", (1, 8, 8, 3), "INT8", quantization=Quantization(scale=1.0, zero_point=-128))
    assert taken_off(value_tables(Pre(mean=(0.0, 0.0, 1.0), std=(1.0,)), tensor, 3)) is None


def test_an_int8_input_without_a_scale_is_refused():
    with pytest.raises(TensorError, match="without a scale"):
        ImagePre(Pre(), spec("x", (1, 8, 8, 3), "INT8"), "NHWC")


def test_grey_is_opencvs_grey():
    view = fed(Pre(color="GRAY", mean=(10.0,), std=(2.0,)), spec("x", (1, 24, 32, 1)), "NHWC", picture())
    grey = cv2.cvtColor(cv2.resize(picture(), (32, 24)), cv2.COLOR_BGR2GRAY)
    np.testing.assert_allclose(view[0, :, :, 0], (grey.astype(np.float32) - 10) / 2, atol=1e-5)


def test_letterbox_equals_opencvs_resize_and_border():
    out = np.empty((40, 40, 3), np.uint8)
    placement = resize_image(picture(48, 64), "letterbox", out, pad=7)
    inner = cv2.resize(picture(48, 64), (40, 30), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(
        out, cv2.copyMakeBorder(inner, 5, 5, 0, 0, cv2.BORDER_CONSTANT, value=(7, 7, 7))
    )
    assert (placement.left, placement.top, placement.scale_x, placement.scale_y) == (0, 5, 0.625, 0.625)


def test_crop_takes_the_middle():
    out = np.empty((24, 24, 3), np.uint8)
    resize_image(picture(48, 64), "crop", out)
    np.testing.assert_array_equal(out, cv2.resize(picture(48, 64)[:, 8:56], (24, 24)))


sides = st.integers(1, 3000)
models = st.integers(16, 640)


@given(st.sampled_from(["letterbox", "stretch", "crop"]), sides, sides, models, models, st.data())
def test_a_box_in_the_input_maps_back_to_where_it_came_from(resize, width, height, wide, high, data):
    placement = place(resize, (width, height), (wide, high))
    x, y = data.draw(st.floats(0, 1)) * width, data.draw(st.floats(0, 1)) * height
    there = np.float32([[x * placement.scale_x + placement.left, y * placement.scale_y + placement.top]])
    back = placement.points_to_source(there)
    np.testing.assert_allclose(back, [[x, y]], rtol=1e-3, atol=1e-2 * max(width, height) / 16 + 1e-2)


@given(st.sampled_from(["letterbox", "stretch", "crop"]), sides, sides, models, models)
def test_the_whole_input_maps_inside_the_source(resize, width, height, wide, high):
    placement = place(resize, (width, height), (wide, high))
    left, top, right, bottom = placement.to_source(np.float32([[0, 0, wide, high]]))[0]
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    if resize != "crop":
        assert right - left >= width * 0.99 - 1
        assert bottom - top >= height * 0.99 - 1


@given(st.sampled_from(["letterbox", "stretch", "crop"]), st.integers(1, 90), st.integers(1, 90))
def test_no_size_of_image_breaks_resizing(resize, width, height):
    out = np.zeros((16, 24, 3), np.uint8)
    resize_image(np.full((height, width, 3), 9, np.uint8), resize, out, pad=9)
    assert (out == 9).all()


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_a_frame_of_another_shape_is_refused(frame):
    with pytest.raises(TensorError, match="frame: want"):
        ImagePre(Pre(), spec("x", (1, 8, 8, 3)), "NHWC").resize(frame)


@pytest.mark.parametrize("shape", [(1, -1, -1, 3), (1, 8, 8, 4), (2, 8, 8, 3), (1, 3), (1, 8, 8, 1)])
def test_an_input_that_is_no_image_is_refused_when_it_is_built(shape):
    with pytest.raises(TensorError, match="input 'x'"):
        ImagePre(Pre(), spec("x", shape), "NHWC")


def test_windows_are_normalised_channel_by_channel():
    pre = Pre(resize="none", window=4, mean=(1.0, 2.0), std=(2.0, 4.0))
    window_pre = WindowPre(pre, spec("x", (1, 4, 2)), "")
    view = np.zeros((1, 4, 2), np.float32)
    window_pre.fill(window_pre.normalize(np.float32([[1, 2], [3, 6], [5, 10], [1, 2]])), view)
    np.testing.assert_array_equal(view[0], [[0, 0], [1, 1], [2, 2], [0, 0]])


@pytest.mark.parametrize(("shape", "layout"), [((1, 2, 4), ""), ((1, 2, 1, 4), ""), ((1, 2, 4), "NCHW")])
def test_windows_are_turned_where_the_file_wants_channels_first(shape, layout):
    window_pre = WindowPre(Pre(resize="none", window=4), spec("x", shape), layout)
    view = np.zeros(shape, np.float32)
    samples = np.arange(8, dtype=np.float32).reshape(4, 2)
    window_pre.fill(window_pre.normalize(samples), view)
    np.testing.assert_array_equal(view.reshape(2, 4), samples.T)


def test_the_end_of_a_window_stands_before_the_next():
    window_pre = WindowPre(Pre(resize="none", window=3, context=2), spec("x", (1, 5)), "")
    assert window_pre.normalize(np.float32([1, 2, 3])).ravel().tolist() == [0, 0, 1, 2, 3]
    assert window_pre.normalize(np.float32([4, 5, 6])).ravel().tolist() == [2, 3, 4, 5, 6]
    window_pre.reset()
    assert window_pre.normalize(np.float32([7, 8, 9])).ravel().tolist() == [0, 0, 7, 8, 9]


def test_a_quantised_window_is_rounded_and_cut():
    tensor = spec("x", (1, 3, 1), "INT8", quantization=Quantization(scale=0.5, zero_point=1))
    window_pre, view = WindowPre(Pre(resize="none", window=3), tensor, ""), np.zeros((1, 3, 1), np.int8)
    window_pre.fill(window_pre.normalize(np.float32([1.0, -2.0, 1000.0])), view)
    assert view.ravel().tolist() == [3, -3, 127]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_window_with_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(TensorError, match="not a finite number"):
        WindowPre(Pre(resize="none", window=2), spec("x", (1, 2)), "").normalize(np.float32([1, bad]))


def test_a_window_of_another_length_is_refused():
    with pytest.raises(TensorError, match="want 2 samples of 3 channels"):
        WindowPre(Pre(resize="none", window=2), spec("x", (1, 2, 3)), "").normalize(np.zeros((3, 3)))


def test_a_window_that_lies_on_its_side_is_refused_and_not_shuffled():
    window_pre = WindowPre(Pre(resize="none", window=100), spec("x", (1, 100, 6)), "")
    with pytest.raises(TensorError, match=r"shape \(100, 6\), got float64 \(6, 100\)") as caught:
        window_pre.normalize(np.zeros((6, 100)))
    assert "window.T" in caught.value.hint
    for wrong in (np.zeros(600), np.zeros((2, 50, 6)), np.zeros((100, 6), bool), np.zeros((100, 6), complex)):
        with pytest.raises(TensorError, match="want 100 samples of 6 channels"):
            window_pre.normalize(wrong)
    for right in (np.zeros((100, 6)), np.zeros((1, 100, 6), np.int16)):
        assert window_pre.normalize(right).shape == (100, 6)


def test_a_file_whose_input_is_one_axis_takes_a_waveform():
    window_pre, view = WindowPre(Pre(resize="none", window=15600), spec("x", (15600,)), ""), np.zeros(15600)
    window_pre.fill(window_pre.normalize(np.arange(15600)), view)
    assert view[-1] == 15599


def test_a_library_that_opencv_lacks_is_named_and_not_opencv(tmp_path):
    (tmp_path / "cv2").mkdir()
    reason = "libGL.so.1: cannot open shared object file"
    (tmp_path / "cv2" / "__init__.py").write_text(f"raise ImportError({reason!r})\n")
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = f"{first}\nfrom edgekit.pipeline.pre import vision\nvision()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"OpenCV, which is installed and cannot be loaded: {reason}" in done.stderr


@given(st.floats(0.001, 1), st.integers(-128, 127), st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_quantising_and_back_is_off_by_half_a_step_at_most(scale, zero_point, values):
    tensor = spec("x", (1, -1), "INT8", quantization=Quantization(scale=scale, zero_point=zero_point))
    real = np.array(values)
    held = quantize(real, tensor)
    inside = (held > -128) & (held < 127)
    assert np.abs(dequantize(held, tensor) - real)[inside].max(initial=0) <= scale * 0.501 + 1e-5
