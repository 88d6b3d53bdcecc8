"""Every example runs: with small models that are imported as a user imports them."""

import runpy
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from imported_nets import classifier, save, ultralytics
from onnx import helper
from onnx_bundles import make_onnx

from edgekit.importer.importing import import_model

EXAMPLES = Path(__file__).parents[2] / "examples"
RED, GREEN, BLUE = (0, 0, 255), (0, 255, 0), (255, 0, 0)


def example(path, *arguments):
    """Call an example's ``main`` as its own folder's script."""
    folder = str((EXAMPLES / path).parent)
    known = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(str(EXAMPLES / path))["main"](*map(str, arguments))
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


def plain(path, colour, size=(48, 48)):
    cv2.imwrite(str(path), np.full((*size, 3), colour, np.uint8))
    return path


def test_every_folder_with_a_script_is_in_the_readme_and_runs_here():
    readme = (EXAMPLES / "README.md").read_text()
    tested = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for folder in {path.parent.name for path in EXAMPLES.glob("*/*.py")}:
        assert f"| `{folder}` |" in readme
        assert f'"{folder}/' in tested or folder == "digits"  # trained by hand


def test_our_own_detector_is_exported_imported_and_run(tmp_path):
    labels = example("detect/detect.py", tmp_path)
    assert labels
    assert set(labels) <= {"circle", "square", "triangle"}
    assert (tmp_path / "seen.png").is_file()


def test_a_classifier_sorts_pictures_and_leaves_what_it_is_unsure_of(tmp_path):
    bundle = import_model(classifier(tmp_path / "m.onnx", ultralytics("classify")), tmp_path / "b").path
    (tmp_path / "in").mkdir()
    for name, colour in (("a.png", RED), ("b.png", BLUE), ("c.png", RED), ("d.png", (90, 90, 90))):
        plain(tmp_path / "in" / name, colour)
    counts = example("classify/sort.py", bundle, tmp_path / "in", tmp_path / "out")
    assert counts == {"red": 2, "blue": 1, "unsure": 1}
    assert (tmp_path / "out" / "blue" / "b.png").is_file()


def test_a_gallery_names_what_was_shown_before_and_nobody_else(tmp_path):
    flags = {"decoder": "embed", "mean": 0, "std": 255}
    bundle = import_model(classifier(tmp_path / "m.onnx"), tmp_path / "b", flags=flags).path
    for name, colour in (("Ada", RED), ("Bob", BLUE)):
        (tmp_path / "known" / name).mkdir(parents=True)
        plain(tmp_path / "known" / name / "1.png", colour)
    assert example("embed/who.py", bundle, tmp_path / "known", plain(tmp_path / "x.png", BLUE)) == "Bob"
    assert example("embed/who.py", bundle, tmp_path / "known", plain(tmp_path / "y.png", GREEN)) == "unknown"


def test_a_hand_above_its_shoulder_is_raised(tmp_path):
    cells, width = 16 + 4 + 1, 4 + 1 + 17 * 3
    table = np.full((1, width, cells), 2, np.float32)
    table[0, 4] = 0.01
    table[0, :5, 7] = (16, 16, 20, 24, 0.9)
    table[0, 5:, 7] = np.array([(16, 16, 0.9)] * 17).reshape(-1)
    table[0, 5 + 9 * 3 + 1, 7] = 6  # left wrist
    table[0, 5 + 10 * 3 + 1, 7] = 26  # right wrist
    meta = ultralytics("pose", ("person",), kpt_shape="[17, 3]")
    bundle = import_model(constant(tmp_path / "m.onnx", table, meta), tmp_path / "b").path
    assert example("pose/raised.py", bundle, plain(tmp_path / "p.png", RED)) == 1


def constant(path, table, meta=None, shape=(1, 3, 32, 32)):
    """A network that answers the same table whatever the picture, but for a trace of its brightness."""
    axes = list(range(len(table.shape)))
    nodes = [
        ("ReduceMean", ["images"], ["mean"], {"keepdims": 0}),
        ("Mul", ["mean", "trace"], ["little"], {}),
        ("Unsqueeze", ["little", "axes"], ["wide"], {}),
        ("Add", ["table", "wide"], ["output0"], {}),
    ]
    constants = {"trace": np.float32(1e-5), "table": table, "axes": np.int64(axes)}
    return save(path, nodes, [("images", list(shape))], [("output0", list(table.shape))], constants, meta)


def brightness(path):
    """A network whose map is the picture's brightness."""
    nodes = [("ReduceMean", ["images"], ["output0"], {"axes": [1], "keepdims": 1})]
    return save(path, nodes, [("images", [1, 3, 32, 32])], [("output0", [1, 1, 32, 32])], {}, None)


def test_what_is_no_mask_is_greyed_out(tmp_path):
    flags = {"decoder": "matte", "labels": ["light"], "mean": 0, "std": 255}
    bundle = import_model(brightness(tmp_path / "m.onnx"), tmp_path / "b", flags=flags).path
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 250
    cv2.imwrite(str(tmp_path / "p.png"), pixels)
    stays = example("segment/cut_out.py", bundle, tmp_path / "p.png", tmp_path / "cut.png")
    assert stays == pytest.approx(0.5, abs=0.04)
    cut = cv2.imread(str(tmp_path / "cut.png"))
    assert (cut[:, 40:] == 127).all()
    assert (cut[:, :24] == 250).all()


def test_lines_are_found_by_one_model_and_read_by_another(tmp_path):
    flags = {"decoder": "textmap", "mean": 0, "std": 255}
    lines = import_model(brightness(tmp_path / "lines.onnx"), tmp_path / "lines", flags=flags).path
    scores = np.full((1, 6, 4), 0.01, np.float32)
    for at, which in enumerate((1, 1, 0, 2, 3, 0)):
        scores[0, at, which] = 0.97
    flags = {"decoder": "ctc", "labels": ["a", "b", "c"], "mean": 0, "std": 255, "blank": 0}
    reader = import_model(constant(tmp_path / "read.onnx", scores), tmp_path / "reader", flags=flags).path
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[10:24, 8:56] = pixels[40:54, 8:40] = 255
    cv2.imwrite(str(tmp_path / "p.png"), pixels)
    assert example("text/read_signs.py", lines, reader, tmp_path / "p.png") == ["abc", "abc"]


def test_rows_of_a_table_are_scored_by_the_names_of_their_columns(tmp_path):
    nodes = [
        helper.make_node(
            "LinearClassifier", ["rows"], ["label", "probabilities"], domain="ai.onnx.ml",
            coefficients=[1.0, 0.0, -1.0, 0.0], intercepts=[0.0, 0.0], classlabels_strings=["big", "small"],
            post_transform="SOFTMAX",
        )
    ]  # fmt: skip
    outputs = [("label", "BYTES", [None]), ("probabilities", "FP32", [None, 2])]
    file = make_onnx(tmp_path / "m.onnx", nodes, [("rows", "FP32", [None, 2])], outputs, ai_onnx_ml=1)
    bundle = import_model(file, tmp_path / "b", flags={"header": ["length", "width"]}).path
    (tmp_path / "t.csv").write_text("width,name,length\n1,x,3\n1,y,-2\n")
    labels = example("tabular/score.py", bundle, tmp_path / "t.csv", tmp_path / "out.csv")
    assert labels == ["big", "small"]
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("1,x,3,big,0.99")


def loud(path):
    """A voice detector with Silero's tensors that hears whatever is loud."""
    nodes = [
        helper.make_node("Abs", ["input"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["output"], axes=[1], keepdims=1),
        helper.make_node("Identity", ["state"], ["stateN"]),
        helper.make_node("Identity", ["sr"], ["rate"]),
    ]
    inputs = [("input", "FP32", ["n", "m"]), ("state", "FP32", [2, "n", 128]), ("sr", "INT64", [])]
    outputs = [("output", "FP32", ["n", 1]), ("stateN", "FP32", [2, "n", 128]), ("rate", "INT64", [])]
    return make_onnx(path, nodes, inputs, outputs)


def test_the_seconds_in_which_somebody_speaks_are_told(tmp_path):
    bundle = import_model(loud(tmp_path / "m.onnx"), tmp_path / "b").path
    samples = np.zeros(512 * 10, np.int16)
    samples[512 * 3 : 512 * 6] = 30_000
    with wave.open(str(tmp_path / "r.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    ((begin, end),) = example("audio/listen.py", bundle, tmp_path / "r.wav")
    assert (begin, end) == pytest.approx((512 * 3 / 16_000, 512 * 6 / 16_000))
