"""The user's data: every layout, two sets that share nothing, and what is refused and why."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.errors import ConfigError, EdgekitError, TensorError, UsageError
from edgekit.core.spec import Pre, TensorSpec
from edgekit.pipeline.pre import ImagePre, WindowPre
from edgekit_optimize.data.dataset import Dataset, canonical, read_split
from edgekit_optimize.plan import Root

IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(1, 8, 8, 3), layout="NHWC")
WINDOW = TensorSpec(name="window", datatype="FP32", shape=(1, 10, 2))
PRE = ImagePre(Pre(resize="stretch", color="RGB", mean=(127.0,), std=(128.0,)), IMAGE, "NHWC")


def prepare(bgr):
    """Resize as a device does: in scratch memory that the next call overwrites."""
    return PRE.resize(bgr)[0][None]


def picture(path, seed, size=(12, 10)):
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return pixels


def read(source, inputs=(IMAGE,), **options):
    return read_split(str(source), inputs, **{"prepare": prepare} | options)


def windows(count, seed=0, shape=(10, 2)):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def rows_of(dataset):
    return {dataset.inputs[next(iter(dataset.inputs))][at].tobytes() for at in range(len(dataset))}


def labelled(dataset):
    return zip(dataset.names, dataset.labels, strict=True)


# --- pictures


def test_subfolders_are_classes_in_the_order_of_the_models_labels(tmp_path):
    for number in range(40):
        picture(tmp_path / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    split = read(tmp_path, labels=("Dog", "bird", "cat"))
    for dataset in (split.calibration, split.evaluation):
        for name, label in zip(dataset.names, dataset.labels, strict=True):
            assert label == {"dog": 0, "cat": 2}[name.split("/")[0]]
    assert (len(split.calibration), len(split.evaluation)) == (10, 30)
    assert split.facts.labelled
    assert split.evaluation.sizes[0] == (12, 10)
    assert split.evaluation.classes == ("Dog", "bird", "cat")


def test_a_picture_is_what_the_devices_own_resizing_makes_of_it(tmp_path):
    """And not what a later picture left in its scratch memory."""
    pixels = {f"{n}.png": picture(tmp_path / f"{n}.png", n) for n in range(24)}
    split = read(tmp_path)
    for dataset in (split.calibration, split.evaluation):
        for name, seen in zip(dataset.names, dataset.inputs["image"], strict=True):
            np.testing.assert_array_equal(seen, prepare(pixels[name])[0])


def test_labels_csv_gives_indices_or_names(tmp_path):
    for number in range(24):
        picture(tmp_path / f"{number}.png", number)
    lines = [f"{n}.png,{n % 3},ignored" for n in range(24)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,class_index_1000,wnid", *lines]))
    split = read(tmp_path)
    assert all(label == int(n[:-4]) % 3 for n, label in labelled(split.evaluation))
    lines = [f'{n}.png,"{"ab"[n % 2]}, or so"' for n in range(24)]
    (tmp_path / "labels.csv").write_text("\ufeff" + "\n".join(["file,label", *lines]), encoding="utf-8")
    split = read(tmp_path, labels=("b, or so", "a, or so"))
    assert all(lab == 1 - int(n[:-4]) % 2 for n, lab in labelled(split.evaluation))


def test_labels_csv_needs_no_heading(tmp_path):
    for number in range(24):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("\n".join(f"{n}.png,{n % 2}" for n in range(24)))
    assert sum(map(len, (read(tmp_path).calibration, read(tmp_path).evaluation))) == 24


def test_pictures_that_labels_csv_leaves_out_are_counted(tmp_path):
    for number in range(30):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(f"{n}.png,{n % 2}" for n in range(24)))
    assert "6 pictures are not in labels.csv and were left out" in read(tmp_path).warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,label", "lists no files"),
        ("file,label\nnone.png,1", "1 of its files do not exist, such as 'none.png'"),
        ("file,label\n0.png", "row 2 has no file or no label"),
        ("file,label\n0.png,1\n0.png,2", "'0.png' is labelled both '1' and '2'"),
        ("file,label\n0.png,-1", "class index -1"),
    ],
)
def test_a_labels_csv_that_makes_no_sense_is_refused(tmp_path, text, message):
    picture(tmp_path / "0.png", 0)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path)


def yolo(folder, lines, classes=("person", "dog"), count=24):
    for number in range(count):
        picture(folder / "images" / f"{number}.png", number)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{number}.txt").write_text(lines)
    if classes:
        (folder / "classes.txt").write_text("\n".join(classes))
    return folder


def test_yolo_boxes_are_corners_in_pixels_of_the_source_with_the_models_classes(tmp_path):
    split = read(yolo(tmp_path, "0 0.5 0.5 0.5 0.2\n"), labels=("???", "Dog", "Person"))
    assert split.facts.labelled
    assert split.evaluation.labels is None
    np.testing.assert_allclose(split.evaluation.boxes[0], [[2, 3, 4, 9, 6]])


def test_boxes_are_cut_at_the_edges_of_the_picture(tmp_path):
    split = read(yolo(tmp_path, "0 0.0 1.0 0.5 0.2"))
    np.testing.assert_allclose(split.evaluation.boxes[0], [[0, 0, 9, 3, 10]])


def test_a_picture_without_a_text_file_shows_nothing(tmp_path):
    folder = yolo(tmp_path, "0 0.5 0.5 0.5 0.2")
    for number in range(24):
        if number != 3:
            (folder / "labels" / f"{number}.txt").unlink()
    split = read(folder)
    assert sum(len(boxes) for boxes in (*split.evaluation.boxes, *split.calibration.boxes)) == 1


def test_boxes_of_classes_that_the_model_does_not_know_are_left_out_with_a_warning(tmp_path):
    split = read(yolo(tmp_path, "0 0.5 0.5 0.5 0.2\n1 0.5 0.5 0.1 0.1"), labels=("dog",))
    assert all(boxes[:, 0].tolist() == [0] for boxes in split.evaluation.boxes)
    assert any(
        "1 of the data's 2 classes are not among the model's labels" in warning for warning in split.warnings
    )
    with pytest.raises(ConfigError, match="none of its 2 classes"):
        read(tmp_path, labels=("horse",))


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 0.5", "0 0.5 0.5 0.5 nan", "a 0.5 0.5 0.5 0.5", "0 12 30 40 50", "-1 0.5 0.5 0.5 0.5"]
)
def test_a_yolo_line_that_is_no_box_is_named(tmp_path, line):
    with pytest.raises(ConfigError, match=r"0\.txt: line 2: want class"):
        read(yolo(tmp_path, f"0 0.5 0.5 0.5 0.5\n{line}"))


def test_a_class_beyond_the_names_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="has class 7, but only 2 class names"):
        read(yolo(tmp_path, "7 0.5 0.5 0.5 0.5"))


@pytest.mark.parametrize(
    "text",
    [
        "names: [person, 'dog']  # two\nnc: 2",
        "path: ../data\nnames:\n  - person\n  - dog\nnc: 2",
        "names:\n  0: person # first\n  1: dog\nnc: 2",
        'names: [\n  "person",\n  "dog",\n]\n',
    ],
)
def test_names_of_classes_may_stand_in_data_yaml(tmp_path, text):
    folder = yolo(tmp_path, "1 0.5 0.5 0.5 0.2", classes=())
    (folder / "data.yaml").write_text(text)
    assert read(folder).evaluation.classes == ("person", "dog")
    assert read(folder, labels=("dog",)).evaluation.boxes[0][0, 0] == 0


@pytest.mark.parametrize("text", ["names: 3", "names:\n  1: a\n  0: b\n", "names: []"])
def test_a_data_yaml_without_a_list_of_names_is_an_error(tmp_path, text):
    folder = yolo(tmp_path, "1 0.5 0.5 0.5 0.2", classes=())
    (folder / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match="'names' is not a list of classes"):
        read(folder)


@given(st.text(max_size=60))
@settings(max_examples=150)
def test_no_text_breaks_the_reading_of_boxes(tmp_path_factory, text):
    from edgekit_optimize.data.files import _boxes

    path = tmp_path_factory.mktemp("yolo") / "a.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        boxes = _boxes(path)
    except ConfigError:
        return
    assert boxes.shape[1] == 5
    assert np.isfinite(boxes).all()


def test_a_damaged_picture_is_named(tmp_path, capfd):
    for number in range(24):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "7.png").write_bytes(b"not a picture")
    with pytest.raises(ConfigError, match=r"7\.png: cannot be read"):
        read(tmp_path)
    capfd.readouterr()


def test_hidden_files_are_no_pictures(tmp_path):
    for number in range(24):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / ".thumbnail.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.png").write_bytes(b"x")
    assert not read(tmp_path).facts.labelled


def test_a_folder_without_pictures_names_the_layouts(tmp_path):
    with pytest.raises(ConfigError, match="has no pictures") as caught:
        read(tmp_path)
    assert "labels.csv" in caught.value.hint


def test_pictures_beside_class_folders_are_ambiguous(tmp_path):
    picture(tmp_path / "a.png", 0)
    picture(tmp_path / "cat" / "b.png", 1)
    with pytest.raises(ConfigError, match="has pictures next to its subfolders cat"):
        read(tmp_path)


def test_classes_that_are_no_label_of_the_model_are_named(tmp_path):
    for number in range(24):
        picture(tmp_path / ("cat" if number % 2 else "train") / f"{number}.png", number)
    with pytest.raises(ConfigError, match="1 of its 2 classes are not among the model's labels: 'train'"):
        read(tmp_path, labels=("cat", "dog"))


def test_without_a_labels_file_classes_count_in_sorted_order_with_a_warning(tmp_path):
    for number in range(24):
        picture(tmp_path / ("b" if number % 2 else "a") / f"{number}.png", number)
    split = read(tmp_path)
    assert split.evaluation.classes == ("a", "b")
    assert any("in order (a, b)" in warning for warning in split.warnings)


def test_folders_named_by_numbers_are_class_indices(tmp_path):
    for number in range(24):
        picture(tmp_path / str(number % 2 * 9 + 2) / f"{number}.png", number)
    split = read(tmp_path)
    assert set(split.evaluation.labels.tolist()) == {2, 11}


# --- arrays


@pytest.mark.parametrize("name", ["window", "x", "whatever"])
def test_the_one_array_of_an_npz_may_have_any_name(tmp_path, name):
    split = read(saved(tmp_path / "d.npz", **{name: windows(40)}), (WINDOW,))
    assert split.evaluation.inputs["window"].shape == (30, 10, 2)
    assert split.evaluation.inputs["window"].dtype == np.float32
    assert split.evaluation.sizes == ()


def test_labels_of_an_npz_are_indices_or_names(tmp_path):
    path = saved(tmp_path / "d.npz", x=windows(40), y=np.arange(40) % 4)
    split = read(path, (WINDOW,))
    assert all(lab == int(n[6:-1]) % 4 for n, lab in labelled(split.evaluation))
    path = saved(tmp_path / "d.npz", x=windows(40), labels=np.array(["on", "off"] * 20))
    split = read(path, (WINDOW,), labels=("off", "on"))
    assert all(lab == 1 - int(n[6:-1]) % 2 for n, lab in labelled(split.evaluation))


def test_pictures_of_another_size_in_an_npz_are_resized(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (24, 5, 7)).astype(np.uint8)
    split = read(saved(tmp_path / "d.npz", x=x))
    assert split.evaluation.inputs["image"].shape[1:] == (8, 8, 3)
    assert split.evaluation.sizes[0] == (7, 5)


def test_pictures_in_an_npz_are_rgb(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    x[..., 2] //= 8
    split = read(saved(tmp_path / "d.npz", x=x))
    assert split.evaluation.inputs["image"].max(axis=(0, 1, 2)).tolist()[2] < 32
    assert split.evaluation.inputs["image"].max(axis=(0, 1, 2)).tolist()[0] > 128


def test_pictures_of_the_models_size_are_taken_as_they_are(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3))
    split = read(saved(tmp_path / "d.npz", x=x.astype(np.float64)))
    for name, seen in zip(split.evaluation.names, split.evaluation.inputs["image"], strict=True):
        np.testing.assert_array_equal(seen, x[int(name[6:-1])])
    assert seen.dtype == np.uint8


def test_grey_pictures_need_no_axis_of_channels(tmp_path):
    spec = TensorSpec(name="image", datatype="UINT8", shape=(1, 5, 7, 1))
    x = np.random.default_rng(0).integers(0, 256, (24, 5, 7)).astype(np.uint8)
    assert read(saved(tmp_path / "d.npz", x=x), (spec,)).evaluation.inputs["image"].shape == (16, 5, 7, 1)


def test_several_inputs_come_by_name(tmp_path):
    state = TensorSpec(name="state", datatype="FP32", shape=(1, 4))
    path = saved(tmp_path / "d.npz", window=windows(40), state=np.zeros((40, 4)))
    split = read(path, (WINDOW, state))
    assert {name: v.shape[1:] for name, v in split.evaluation.inputs.items()} == {
        "window": (10, 2),
        "state": (4,),
    }
    with pytest.raises(ConfigError, match="has no array 'state', only 'window'"):
        read(saved(tmp_path / "d.npz", window=windows(40)), (WINDOW, state))


def _with(array, at, value):
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (
            {"x": windows(40, shape=(9, 2))},
            TensorError,
            r"want shape \[10, 2\] for input 'window', got \[9, 2\]",
        ),
        (
            {"x": _with(windows(40), (3, 2, 1), np.nan)},
            TensorError,
            r"\[3\]: has a value that is not a finite",
        ),
        ({"x": _with(windows(40), (3, 2, 1), np.inf)}, TensorError, "not a finite number"),
        ({"x": np.full((40, 10, 2), 1e300)}, TensorError, "not a finite number"),
        ({"x": np.ones((40, 10, 2), np.complex64)}, TensorError, "want numbers"),
        ({"x": np.array(["a"] * 40)}, TensorError, "want numbers"),
        ({"x": np.ones((40, 10, 2))}, TensorError, "all 30 samples of input 'window' are the same"),
        (
            {"x": _with(windows(40), (..., 1), 4.5)},
            TensorError,
            "channel 1 of input 'window' is 4.5 in every",
        ),
        ({"x": windows(40), "y": np.eye(40)}, TensorError, "want 40 labels"),
        ({"x": windows(40), "y": np.arange(39)}, TensorError, "want 40 labels"),
        ({"x": windows(40), "y": np.linspace(0, 1, 40)}, TensorError, "want class indices or names"),
        ({"x": windows(40), "y": np.full(40, -1)}, ConfigError, "class index -1"),
        ({"x": windows(23)}, ConfigError, "15 samples are left to evaluate, want 16; it has 23 in total"),
        ({"x": windows(0)}, ConfigError, "has no samples"),
        ({"x": np.float32(3)}, ConfigError, "has no samples"),
        ({"a": windows(40), "b": windows(40)}, ConfigError, "has no array 'window', only 'a', 'b'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message) as caught:
        read(saved(tmp_path / "d.npz", **arrays), (WINDOW,))
    assert "d.npz" in caught.value.message


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.random.default_rng(0).random((24, 8, 8, 3)), "want integers from 0 to 255"),
        (np.arange(24 * 192).reshape(24, 8, 8, 3) - 9, "want integers from 0 to 255"),
        (-np.ones((24, 8, 8, 3), np.int8), "want integers from 0 to 255"),
        (np.arange(24 * 192).reshape(24, 8, 8, 3), "want integers from 0 to 255"),
        (np.random.default_rng(0).random((24, 5, 5, 3)), r"want shape \[8, 8, 3\]"),
        (np.full((24, 8, 8, 3), np.nan), "not a finite number"),
    ],
)
def test_images_that_are_no_bytes_are_refused_with_the_way_out(tmp_path, x, message):
    with pytest.raises(TensorError, match=message) as caught:
        read(saved(tmp_path / "d.npz", x=x))
    assert "before normalising" in caught.value.hint or "nan" in str(x[0, 0, 0, 0])


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "d.npz"
    for content in (b"", b"PK\x03\x04 not really", b"hello"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="is not an NPZ"):
            read(path, (WINDOW,))
    np.savez(path, x=np.array([{}] * 40, object))
    with pytest.raises(ConfigError, match="is not an NPZ of plain arrays"):
        read(path, (WINDOW,))


@given(
    st.sampled_from([np.savez, np.savez_compressed]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(max_examples=150)
def test_no_damaged_byte_of_an_npz_is_more_than_an_error(tmp_path_factory, save, changes):
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    save(path, x=np.round(windows(40), 1), y=np.arange(40) % 3)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    path.write_bytes(data)
    try:
        split = read(path, (WINDOW,))
    except EdgekitError:
        return
    assert np.isfinite(split.evaluation.inputs["window"]).all()


def test_an_array_is_measured_before_it_is_unpacked(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.zeros((1000, 10, 2), np.float32))
    assert path.stat().st_size < 2000
    with pytest.raises(ConfigError, match="0 MB of compressed arrays, the limit is 0 MB") as caught:
        read(path, (WINDOW,), calibration=8, evaluation=20, max_bytes=20_000)
    assert "fewer samples" in caught.value.hint


def test_more_samples_than_memory_are_refused_before_anything_is_read(tmp_path):
    big = TensorSpec(name="image", datatype="UINT8", shape=(1, 2000, 2000, 3))
    with pytest.raises(ConfigError, match=r"128 \+ 500 samples need 13680 MB, the limit is 2147 MB"):
        read(tmp_path / "none", (big,))


# --- functions


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the user's into the working folder."""

    def write(body):
        (tmp_path / "mydata.py").write_text(f"import numpy as np\nrng = np.random.default_rng(0)\n{body}\n")
        monkeypatch.chdir(tmp_path)
        sys.modules.pop("mydata", None)
        return "mydata:samples"

    yield write
    sys.modules.pop("mydata", None)


@pytest.mark.parametrize(
    "given",
    [
        "rng.normal(size=(10, 2))",
        "rng.normal(size=(1, 10, 2))",
        "(rng.normal(size=(10, 2)), n % 3)",
        "({'window': rng.normal(size=(10, 2))}, np.int32(n % 3))",
        "({'window': rng.normal(size=(10, 2))}, str(n % 3))",
        "rng.normal(size=(10, 2)).tolist()",
    ],
)
def test_a_function_gives_arrays_or_dictionaries_with_or_without_labels(module, given):
    before = list(sys.path)
    split = read(module(f"def samples():\n    return ({given} for n in range(40))"), (WINDOW,))
    assert (len(split.calibration), len(split.evaluation)) == (10, 30)
    assert split.facts.labelled == ("n %" in given)
    assert sys.path == before


def test_a_function_may_give_boxes(module):
    one = "(rng.integers(0, 256, (9, 9, 3)).astype('u1'), [[1, 0, 0, 4, 5]])"
    split = read(module(f"def samples():\n    return ({one} for _ in range(30))"))
    assert split.evaluation.boxes[0].tolist() == [[1, 0, 0, 4, 5]]
    assert split.evaluation.sizes[0] == (9, 9)


def test_an_endless_function_is_stopped(module):
    text = (
        "import itertools\ndef samples():\n    return (rng.normal(size=(10, 2)) for n in itertools.count())"
    )
    split = read(module(text), (WINDOW,), calibration=10, evaluation=20)
    assert (len(split.calibration), len(split.evaluation)) == (10, 20)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("samples = 3", UsageError, "is not a function but int"),
        ("def other(): pass", UsageError, "has no attribute 'samples'"),
        ("def samples():\n    return iter([])", ConfigError, "returned no samples"),
        ("def samples():\n    return 1 / 0", ConfigError, "ZeroDivisionError"),
        ("def samples():\n    yield {'w': 1}", TensorError, r"want arrays \['window'\], got \['w'\]"),
        ("def samples():\n    yield np.ones(3)", TensorError, r"want shape \[10, 2\]"),
        ("def samples():\n    yield np.ones((10, 2)), 0.5", TensorError, "a label must be a class index"),
        (
            "def samples():\n    yield np.ones((10, 2)), 1\n    yield np.ones((10, 2))",
            ConfigError,
            "1 class labels and 0 arrays of boxes for 2 samples",
        ),
        (
            "def samples():\n    yield np.ones((10, 2)), 1\n    yield np.ones((10, 2)), 'a'",
            ConfigError,
            "labels mix numbers and names",
        ),
    ],
)
def test_a_function_that_returns_no_valid_data_is_an_error(module, body, error, message):
    with pytest.raises(error, match=message):
        read(module(body), (WINDOW,))


def test_a_source_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read(tmp_path / "none")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"is neither a folder nor an \.npz"):
        read(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="the model takes no pictures"):
        read(tmp_path, (WINDOW,))


# --- the split


@given(
    count=st.integers(24, 120),
    kinds=st.integers(1, 6),
    copies=st.integers(0, 20),
    seed=st.integers(0, 5),
    wanted=st.tuples(st.integers(8, 40), st.integers(16, 80)),
)
@settings(max_examples=60)
def test_no_sample_stands_in_both_sets(tmp_path_factory, count, kinds, copies, seed, wanted):
    x = windows(count)
    x = np.concatenate([x, x[:copies]])
    path = saved(tmp_path_factory.mktemp("split") / "d.npz", x=x, y=np.arange(len(x)) % kinds)
    try:
        split = read(path, (WINDOW,), calibration=wanted[0], evaluation=wanted[1], seed=seed)
    except ConfigError:
        assert copies
        return
    assert not rows_of(split.calibration) & rows_of(split.evaluation)
    assert not set(split.calibration.names) & set(split.evaluation.names)
    assert len(split.calibration) <= wanted[0]
    assert len(split.evaluation) <= wanted[1]
    assert (split.facts.calibration, split.facts.evaluation) == (
        len(split.calibration),
        len(split.evaluation),
    )
    shares = np.bincount(split.evaluation.labels, minlength=kinds) / len(split.evaluation)
    assert np.abs(shares - 1 / kinds).max() <= 2 / len(split.evaluation) + 1 / len(x)


def test_the_same_picture_in_two_files_is_one_sample(tmp_path):
    import cv2

    for number in range(40):
        pixels = picture(tmp_path / f"{number:02}.png", number)
        cv2.imwrite(str(tmp_path / f"{number:02}.bmp"), pixels)
    split = read(tmp_path, calibration=8, evaluation=40)
    assert not rows_of(split.calibration) & rows_of(split.evaluation)
    assert split.facts.dropped_overlap > 0
    expected = f"{split.facts.dropped_overlap} samples were left out of calibration"
    assert any(expected in warning for warning in split.warnings)


def test_the_split_is_the_same_by_seed_and_its_hash_tells_it(tmp_path):
    path = saved(tmp_path / "d.npz", x=windows(60), y=np.arange(60) % 3)
    one, again, other = (read(path, (WINDOW,), seed=seed) for seed in (1, 1, 2))
    assert one.evaluation.names == again.evaluation.names
    assert one.facts == again.facts
    assert one.facts.sha256 != other.facts.sha256
    assert one.evaluation.names != other.evaluation.names


def test_another_label_is_other_data(tmp_path):
    one = read(saved(tmp_path / "d.npz", x=windows(60), y=np.zeros(60, int)), (WINDOW,))
    other = read(saved(tmp_path / "d.npz", x=windows(60), y=np.ones(60, int)), (WINDOW,))
    assert one.evaluation.names == other.evaluation.names
    assert one.facts.sha256 != other.facts.sha256


def test_calibration_from_another_source_loses_what_stands_in_the_evaluation(tmp_path):
    x = windows(200)
    judging = saved(tmp_path / "judge.npz", x=x[:120], y=np.arange(120) % 3)
    tuning = saved(tmp_path / "tune.npz", x=x[100:])
    split = read(judging, (WINDOW,), calibration_source=str(tuning))
    assert (len(split.calibration), len(split.evaluation)) == (80, 120)
    assert split.facts.dropped_overlap == 20
    assert split.calibration.labels is None
    assert split.evaluation.labels is not None


def test_a_calibration_source_that_is_the_evaluation_is_refused(tmp_path):
    path = saved(tmp_path / "d.npz", x=windows(60))
    with pytest.raises(
        ConfigError, match="0 samples are left to calibrate, want 8; it has 60 in total, 60 of"
    ):
        read(path, (WINDOW,), calibration_source=str(path))


def test_constant_calibration_data_are_named(tmp_path):
    judging = saved(tmp_path / "judge.npz", x=windows(40))
    tuning = saved(tmp_path / "tune.npz", x=np.ones((40, 10, 2)))
    with pytest.raises(TensorError, match=r"tune\.npz: all 40 samples of input 'window' are the same"):
        read(judging, (WINDOW,), calibration_source=str(tuning))


def test_few_samples_give_a_warning_with_the_margin_of_error(tmp_path):
    split = read(saved(tmp_path / "d.npz", x=windows(128)), (WINDOW,))
    assert (len(split.calibration), len(split.evaluation)) == (32, 96)
    assert any("up to 0.10 (95 %)" in warning for warning in split.warnings)
    split = read(saved(tmp_path / "d.npz", x=windows(700)), (WINDOW,))
    assert (len(split.calibration), len(split.evaluation), split.warnings) == (128, 500, ())


def test_no_calibration_may_be_asked_for(tmp_path):
    split = read(saved(tmp_path / "d.npz", x=windows(40)), (WINDOW,), calibration=0)
    assert (len(split.calibration), len(split.evaluation)) == (0, 40)


# --- canonical form


def root(shape, pre, **fields):
    spec = TensorSpec(name="input_1", datatype="FP32", shape=shape)
    return Root(onnx="m.onnx", inputs=(spec,), outputs=(), pre=pre, names={"image": "input_1"}, **fields)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_canonical_images_are_what_the_devices_path_feeds(tmp_path, layout):
    for number in range(24):
        picture(tmp_path / f"{number}.png", number)
    split = read(tmp_path)
    pre = Pre(mean=(10.0, 20.0, 30.0), std=(50.0, 60.0, 70.0))
    shape = (1, 8, 8, 3) if layout == "NHWC" else (1, 3, 8, 8)
    model = root(shape, pre, image="input_1", layout=layout)
    given = canonical(split.calibration, model, limit=3)
    assert {name: (v.shape, v.dtype) for name, v in given.items()} == {
        "input_1": ((3, *shape[1:]), np.float32)
    }
    device = ImagePre(pre, model.inputs[0], layout)
    for at in range(3):
        wanted = device.tensor(split.calibration.inputs["image"][at])
        np.testing.assert_allclose(given["input_1"][at], wanted[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 10, 2), (1, 2, 10), (1, 2, 10, 1)])
def test_canonical_windows_are_what_the_devices_path_feeds(tmp_path, shape):
    split = read(saved(tmp_path / "d.npz", x=windows(40)), (WINDOW,))
    pre = Pre(resize="none", window=10, mean=(0.5, -1.0), std=(2.0, 4.0))
    model = root(shape, pre)
    model = Root(onnx="m", inputs=model.inputs, outputs=(), pre=pre, names={"window": "input_1"})
    given = canonical(split.evaluation, model)["input_1"]
    device = WindowPre(pre, model.inputs[0], "")
    for at in range(len(given)):
        wanted = np.empty(shape, np.float32)
        device.fill(device.normalize(split.evaluation.inputs["window"][at]), wanted)
        np.testing.assert_allclose(given[at], wanted[0], atol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", ""])
def test_a_square_window_is_turned_where_the_layout_says_so(tmp_path, layout):
    square = TensorSpec(name="window", datatype="FP32", shape=(1, 10, 10))
    split = read(saved(tmp_path / "d.npz", x=windows(40, shape=(10, 10))), (square,))
    pre = Pre(resize="none", window=10)
    model = Root(onnx="m", inputs=(square,), outputs=(), pre=pre, layout=layout)
    wanted = split.evaluation.inputs["window"]
    if layout == "NCHW":
        wanted = wanted.transpose(0, 2, 1)
    np.testing.assert_array_equal(canonical(split.evaluation, model)["window"], wanted)


def test_a_window_without_its_context_begins_a_recording(tmp_path):
    audio = TensorSpec(name="window", datatype="FP32", shape=(1, 16))
    split = read(saved(tmp_path / "d.npz", x=windows(40, shape=(16,))), (audio,))
    pre = Pre(resize="none", window=16, context=4)
    spec = TensorSpec(name="window", datatype="FP32", shape=(1, 20))
    given = canonical(split.evaluation, Root(onnx="m", inputs=(spec,), outputs=(), pre=pre))["window"]
    assert not given[:, :4].any()
    np.testing.assert_array_equal(given[:, 4:], split.evaluation.inputs["window"])


def test_a_state_keeps_its_shape_and_is_not_normalised(tmp_path):
    """A recurrent state has no batch axis: what it is in each sample, it is in the file."""
    state = TensorSpec(name="state", datatype="FP32", shape=(2, 1, 4))
    split = read(saved(tmp_path / "d.npz", x=windows(40)), (WINDOW,))
    dataset = Dataset(split.evaluation.names, split.evaluation.inputs | {"state": np.ones((30, 2, 1, 4))})
    pre = Pre(resize="none", window=10, mean=(9.0,), std=(2.0,))
    model = Root(onnx="m", inputs=(WINDOW, state), outputs=(), pre=pre)
    given = canonical(dataset, model)
    assert given["state"].shape == (30, 2, 1, 4)
    assert (given["state"] == 1).all()
    assert given["window"].max() < 0


def test_a_canonical_input_without_data_is_named(tmp_path):
    split = read(saved(tmp_path / "d.npz", x=windows(40)), (WINDOW,))
    with pytest.raises(TensorError, match="model input 'input_1': the data have no array for it"):
        canonical(split.evaluation, root((1, 10, 2), Pre()))
    model = Root(onnx="m", inputs=(TensorSpec(name="window", datatype="FP32", shape=(1, 21)),), outputs=())
    with pytest.raises(TensorError, match=r"want samples of \[21\], got \[10, 2\]"):
        canonical(split.evaluation, model)
