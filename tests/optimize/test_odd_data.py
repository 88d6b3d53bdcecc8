"""Data as users really have them: each is read right, or the error names the thing and the way out."""

from __future__ import annotations

import itertools
import struct
import sys

import numpy as np
import pytest

from edgekit.core.errors import ConfigError, EdgekitError, TensorError, UsageError
from edgekit.core.spec import Pre, TensorSpec
from edgekit.pipeline.pre import ImagePre
from edgekit_optimize.data.dataset import brings_pictures, read_split
from edgekit_optimize.data.files import read_sample
from edgekit_optimize.metrics.scores import shifted

IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(1, 8, 8, 3), layout="NHWC")
WINDOW = TensorSpec(name="window", datatype="FP32", shape=(1, 10, 2))
PRE = ImagePre(Pre(resize="stretch", color="RGB"), IMAGE, "NHWC")
RANDOM = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)


def prepare(bgr):
    return PRE.resize(bgr)[0][None]


def read(source, spec=IMAGE, **options):
    return read_split(str(source), (spec,), **{"prepare": prepare} | options)


def pictures(folder, count=24, name="{}.png", pixels=None):
    import cv2

    random = np.random.default_rng(list(folder.name.encode()))
    for n in range(count):
        path = folder / name.format(n)
        path.parent.mkdir(parents=True, exist_ok=True)
        given = random.integers(0, 256, (10, 12, 3)).astype(np.uint8) if pixels is None else pixels(random)
        assert cv2.imwrite(str(path), given)
    return folder


def classes(folder, names, each=12):
    for name in names:
        pictures(folder / name, each, name="{}.png")
    return folder


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(body):
        (tmp_path / "odddata.py").write_text(f"import numpy as np\nimport itertools\n{body}\n")
        monkeypatch.chdir(tmp_path)
        sys.modules.pop("odddata", None)
        return "odddata:samples"

    yield write
    sys.modules.pop("odddata", None)


# --- pictures


@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3), (10, 12, 4)], ids=["grey", "colours", "alpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_of_any_kind_becomes_bytes_of_three_colours(tmp_path, shape, dtype):
    top = np.iinfo(dtype).max + 1
    pictures(tmp_path, pixels=lambda random: random.integers(0, top, shape).astype(dtype))
    split = read(tmp_path)
    assert split.evaluation.inputs["image"].shape == (16, 8, 8, 3)
    assert split.evaluation.inputs["image"].std() > 30


def test_a_picture_that_a_phone_turned_stands_upright(tmp_path):
    """EXIF orientation 6: the camera was held upright, the sensor's rows are the picture's columns."""
    import cv2

    lying = np.zeros((20, 30, 3), np.uint8)
    lying[:, :15] = 255
    is_encoded, data = cv2.imencode(".jpg", lying)
    assert is_encoded
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 6, 0) + b"\0" * 4
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry
    jpeg = data.tobytes()
    path = tmp_path / "phone.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    upright = read_sample(path)
    assert upright.shape == (30, 20, 3)
    assert upright[:12].min() > 200
    assert upright[-12:].max() < 60


def test_a_picture_that_ends_early_is_named(tmp_path):
    pictures(tmp_path)
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 8])
    with pytest.raises(ConfigError, match=r"3\.png: cannot be read"):
        read(tmp_path)


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    split = read(pictures(tmp_path), in_order=True)
    assert split.evaluation.names == tuple(f"{n}.png" for n in range(8, 24))


def test_class_folders_may_have_any_name(tmp_path):
    split = read(classes(tmp_path, ["äöü ß", "日本", "a,b", "rock'n'roll"]))
    assert set(split.evaluation.classes) == {"äöü ß", "日本", "a,b", "rock'n'roll"}
    assert len(np.unique(split.evaluation.labels)) == 4


def test_numbers_as_names_of_classes_are_indices_where_the_labels_file_has_words(tmp_path):
    split = read(classes(tmp_path, ["0", "1"]), labels=("cat", "dog"))
    assert split.evaluation.classes == ("cat", "dog")
    assert set(split.evaluation.labels) == {0, 1}


def test_classes_that_count_from_one_give_a_hint(tmp_path):
    with pytest.raises(ConfigError, match="class index 2, the model's labels file has 2") as caught:
        read(classes(tmp_path, ["1", "2"]), labels=("cat", "dog"))
    assert caught.value.hint == "they run from 1 to 2: if they count from 1, subtract 1 from each"


def test_a_number_that_no_class_has_is_an_error_and_a_longer_one_is_a_name(tmp_path):
    with pytest.raises(ConfigError, match="class index 7000000, want 0 to 999999"):
        read(classes(tmp_path / "a", ["1", "7000000"]))
    assert read(classes(tmp_path / "b", ["1", "9" * 20])).evaluation.classes == ("1", "9" * 20)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("x" * 200_000, "not CSV: field larger"),
        ("9999999", "class index 9999999"),
    ],
)
def test_labels_csv_with_such_labels_is_refused(tmp_path, label, message):
    pictures(tmp_path)
    (tmp_path / "labels.csv").write_text("".join(f"{n}.png,{label}\n" for n in range(24)))
    with pytest.raises(ConfigError, match=message):
        read(tmp_path)


def test_labels_csv_with_semicolons_is_an_error(tmp_path):
    pictures(tmp_path)
    (tmp_path / "labels.csv").write_text("".join(f"{n}.png;1\n" for n in range(24)))
    with pytest.raises(ConfigError, match="row 1 has no file or no label") as caught:
        read(tmp_path)
    assert "comma" in caught.value.hint


@pytest.mark.parametrize(
    ("labels", "wanted"), [(("0.0", "1.0", "10."), {0, 1, 10}), (("--5", "a", "b"), {0, 1, 2})]
)
def test_labels_csv_of_a_spreadsheet_has_whole_numbers_with_a_point(tmp_path, labels, wanted):
    pictures(tmp_path)
    (tmp_path / "labels.csv").write_text("".join(f"{n}.png,{labels[n % 3]}\n" for n in range(24)))
    assert set(read(tmp_path).evaluation.labels) == wanted


def test_ten_thousand_files_are_listed_and_only_some_are_read(tmp_path):
    first = pictures(tmp_path / "some", 1) / "0.png"
    for n in range(10_000):
        (tmp_path / "some" / f"copy{n}.png").hardlink_to(first)
    taken = []

    def counted(bgr):
        taken.append(1)
        return prepare(bgr)

    with pytest.raises(TensorError, match="all 50 samples of input 'image' are the same"):
        read(tmp_path / "some", evaluation=50, calibration=8, prepare=counted)
    assert len(taken) == 50


# --- arrays


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i8", "f2", "f4", "f8"])
def test_bytes_in_any_type_are_the_same_pictures(tmp_path, dtype):
    np.savez(tmp_path / "d.npz", x=RANDOM.astype(dtype))
    np.savez(tmp_path / "u.npz", x=RANDOM)
    assert read(tmp_path / "d.npz").facts.sha256 == read(tmp_path / "u.npz").facts.sha256


@pytest.mark.parametrize(
    ("arrays", "message", "hint"),
    [
        ({"x": RANDOM / 255}, "want integers from 0 to 255", "uint8, before normalising"),
        ({"x": RANDOM.transpose(0, 3, 1, 2)}, r"want shape \[8, 8, 3\]", "(height, width, channels)"),
        ({"x": np.zeros((60, 9, 9, 4), np.uint8)}, r"got \[9, 9, 4\]", "(transparency)"),
        ({"x": RANDOM, "y": np.full(60, np.inf)}, "want class indices or names", ""),
        ({"x": RANDOM, "y": np.full(60, 2**63, np.uint64)}, "class index 9223372036854775808", "from 0"),
    ],
)
def test_invalid_arrays_are_an_error_with_a_hint(tmp_path, arrays, message, hint):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(EdgekitError, match=message) as caught:
        read(tmp_path / "d.npz")
    assert hint in caught.value.hint


def test_an_array_that_nothing_takes_is_named(tmp_path):
    np.savez(tmp_path / "d.npz", image=RANDOM, weights=np.arange(60))
    expected = "not used, since the model has no such input: 'weights'"
    assert any(expected in warning for warning in read(tmp_path / "d.npz").warnings)


def test_a_file_larger_than_memory_is_read_where_it_lies(tmp_path):
    fortran = np.asfortranarray(RANDOM[:, :, :, 0])
    np.savez(tmp_path / "d.npz", x=RANDOM, y=np.arange(60) % 3, unused=fortran)
    assert (tmp_path / "d.npz").stat().st_size > 15_000
    with_less = read(tmp_path / "d.npz", evaluation=16, calibration=8, max_bytes=12_000)
    with_all = read(tmp_path / "d.npz", evaluation=16, calibration=8, max_bytes=50_000)
    assert with_less.facts.sha256 == with_all.facts.sha256


@pytest.mark.parametrize("damage", [b"PK", b"NUMPY"])
def test_a_large_file_that_is_damaged_is_refused(tmp_path, damage):
    np.savez(tmp_path / "d.npz", x=RANDOM)
    data = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(data.replace(damage, b"XX", 1))
    with pytest.raises(ConfigError, match="is not an NPZ of plain arrays"):
        read(tmp_path / "d.npz", evaluation=16, calibration=8, max_bytes=11_000)


# --- functions


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("yield [[1, 2], [3]]", TensorError, "cannot convert list to an array of numbers"),
        ("yield np.ones((10, 2)), 1, 2", TensorError, "got a tuple of 3"),
        (
            "yield np.ones((10, 2)), [[1], [2, 3]]",
            TensorError,
            "label: cannot convert list to an array of numbers",
        ),
        ("yield np.ones((10, 2)), 10**30", TensorError, "a label must be a class index"),
        ("yield np.ones((10, 2)), 10**15", ConfigError, "class index 1000000000000000"),
        ("raise SystemExit(3)\n        yield", ConfigError, "failed: SystemExit: 3"),
        (
            "if n == 7: raise OSError('disk gone')\n        yield np.ones((10, 2)) * n",
            ConfigError,
            "after 7 samp",
        ),
        ("yield np.ones((10, 2)) * (np.nan if n == 7 else n)", TensorError, r"samples\[7\]: has a value"),
        ("yield np.ones((4, 10, 2))", TensorError, r"want shape \[10, 2\]"),
    ],
)
def test_what_a_function_must_not_give_is_named(module, body, error, message):
    with pytest.raises(error, match=message):
        read(module(f"def samples():\n    for n in range(40):\n        {body}"), WINDOW)


@pytest.mark.parametrize(
    "body", ["def samples(:", "raise RuntimeError('no licence')", "import nowhere_to_be_found"]
)
def test_a_module_that_cannot_be_imported_is_an_error(module, body):
    with pytest.raises(UsageError, match="SyntaxError|no licence|nowhere_to_be_found"):
        read(module(body), WINDOW)


def test_a_function_may_fill_one_array_again_and_again(module):
    body = "def samples():\n    held = np.zeros((10, 2), 'f4')\n    for n in range(40):\n"
    split = read(
        module(f"{body}        held[:] = n + np.arange(20).reshape(10, 2)\n        yield held"), WINDOW
    )
    found = np.concatenate([split.calibration.inputs["window"], split.evaluation.inputs["window"]])
    assert sorted(found[:, 0, 0]) == list(range(40))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("rng.integers(0, 256, (9, 9, 3)).astype('u1')", True),
        ("(rng.integers(0, 256, (28, 28)).astype('u1'), 3)", True),
        ("{'image': rng.integers(0, 256, (9, 9, 3)).astype('u1')}", True),
        ("rng.random((3, 9, 9))", False),
        ("rng.integers(0, 256, 9).astype('u1')", False),
    ],
)
def test_a_function_that_gives_pictures_is_known_by_its_first_sample(module, given, wanted):
    head = "rng = np.random.default_rng(0)\ndef samples():\n    return "
    assert brings_pictures(module(f"{head}({given} for n in itertools.count())")) == wanted


def test_pictures_in_a_file_are_known_without_reading_them(tmp_path):
    np.savez(tmp_path / "a.npz", x=RANDOM)
    np.savez(tmp_path / "b.npz", x=RANDOM / 255)
    assert brings_pictures(str(tmp_path / "a.npz"))
    assert not brings_pictures(str(tmp_path / "b.npz"))
    assert not brings_pictures(str(tmp_path / "none"))


# --- labels that count from another number


@pytest.mark.parametrize(("step", "how"), [(1, "lower"), (-1, "higher"), (0, "")])
def test_labels_that_count_from_another_number_than_the_model_are_noticed(step, how):
    labels = np.array(list(itertools.islice(itertools.cycle(range(1, 9)), 80)))
    outputs = {"scores": np.eye(10, dtype=np.float32)[labels]}
    warning = shifted(outputs, labels + step)
    assert (f"if every label were one {how}:" in warning) == bool(how)
    assert bool(warning) == bool(how)
