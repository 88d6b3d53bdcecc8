"""``edgekit verify``: nothing is called right that was not checked, and what is wrong is named."""

import json
import os
from pathlib import Path

import pytest
from bundles import WRONG_OUTPUTS, make_bundle

import edgekit.backends.tiny

TINY = Path(edgekit.backends.tiny.__file__).parent
pytestmark = pytest.mark.usefixtures("proved")
SPARE = {"id": "spare", "backend": "null"}
HUGE = {"id": "huge", "backend": "null", "requires": {"memory_mb": 1 << 30}}


def states(document):
    return {row["id"]: row["state"] for row in document["variants"]}


def test_right_variants_hold_and_one_for_other_hardware_is_not_tried(edgekit, tmp_path):
    done = edgekit("verify", make_bundle(tmp_path / "b", more_variants=(SPARE, HUGE)), "--json")
    document = done.document
    assert done.code == 0
    assert list(document) == ["ok", "model", "version", "files", "golden", "variants"]
    assert (document["ok"], document["golden"]) == (True, 1)
    assert states(document) == {"null": "holds", "spare": "holds", "huge": "not tried"}
    (sample,) = document["variants"][0]["samples"]
    assert sample["holds"]
    assert float(sample["difference"]) <= sample["atol"]


def test_a_person_reads_what_was_checked(edgekit, tmp_path):
    lines = edgekit("verify", make_bundle(tmp_path / "b", more_variants=(HUGE,))).out.splitlines()
    assert "files have the hashes that bundle.json lists" in lines[0]
    assert "1 golden samples, off by at most 0" in lines[1]
    assert "not tried" in lines[2]
    assert lines[-1] == "ok"


def test_a_variant_with_wrong_answers_fails_the_bundle_and_says_by_how_much(edgekit, tmp_path):
    wrong = SPARE | {"options": {"outputs": WRONG_OUTPUTS}}
    done = edgekit("verify", make_bundle(tmp_path / "b", more_variants=(wrong,)), "--json")
    assert (done.code, done.document["ok"]) == (4, False)
    assert states(done.document) == {"null": "holds", "spare": "fails"}
    assert "off by 0.79" in done.document["variants"][1]["reason"]


def test_a_variant_that_kills_its_process_fails_alone(edgekit, tmp_path):
    crashes = SPARE | {"options": {"crash_at": 1}}
    done = edgekit("verify", make_bundle(tmp_path / "b", more_variants=(crashes,)), "--json")
    assert (done.code, states(done.document)) == (4, {"null": "holds", "spare": "fails"})
    assert "SIGSEGV" in done.document["variants"][1]["reason"]


def test_without_golden_samples_answers_are_not_called_right(edgekit, tmp_path):
    bundle = make_bundle(tmp_path / "b", without_golden=True)
    done = edgekit("verify", bundle, "--json")
    assert (done.code, states(done.document)) == (0, {"null": "not checked"})
    assert edgekit("verify", bundle).out.splitlines()[-1].startswith("ok, answers not checked")


def test_without_golden_samples_variants_that_disagree_are_told(edgekit, tmp_path):
    wrong = SPARE | {"options": {"outputs": WRONG_OUTPUTS}}
    bundle = make_bundle(tmp_path / "b", more_variants=(wrong,), without_golden=True)
    done = edgekit("verify", bundle, "--json")
    assert done.code == 4
    assert "fails" in states(done.document).values()


def test_a_bundle_of_which_nothing_could_be_tried_is_not_ok(edgekit, tmp_path):
    bundle = make_bundle(tmp_path / "b")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["variants"][0] |= HUGE
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    done = edgekit("verify", bundle, "--json")
    assert (done.code, done.document["ok"]) == (4, False)
    assert states(done.document) == {"huge": "not tried"}


@pytest.mark.parametrize(
    ("text", "code", "name"),
    [("other\nwords\n", 4, "model.bundle"), ("still\nmovinG\n", 6, "trust.hash")],
    ids=["cut or longer", "of the same size"],
)
def test_a_file_that_was_changed_is_named(edgekit, tmp_path, text, code, name):
    bundle = make_bundle(tmp_path / "b")
    (bundle / "labels.txt").write_text(text)
    done = edgekit("verify", bundle, "--json")
    assert (done.code, done.error["code"]) == (code, name)
    assert "labels.txt" in done.error["message"] + "".join(done.error["reasons"])


def test_a_file_that_is_missing_is_named(edgekit, tmp_path):
    bundle = make_bundle(tmp_path / "b")
    (bundle / "golden" / "0.npz").unlink()
    done = edgekit("verify", bundle, "--json")
    assert done.code == 4
    assert "golden/0.npz" in done.error["message"] + "".join(done.error["reasons"])


@pytest.mark.parametrize(
    ("library", "code", "reason"),
    [
        ("import os; os.abort()", 4, "SIGABRT"),
        ("raise ImportError('made for another board')", 0, "openvino"),
    ],
    ids=["crashes", "cannot be opened with"],
)
def test_a_bare_file_may_be_one_that_a_runtime_cannot_open_but_none_that_it_crashes(
    library, code, reason, edgekit, tmp_path, monkeypatch
):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino/__init__.py").write_text(library)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = edgekit("verify", TINY / "relu.onnx", "--json")
    rows = {row["id"]: row for row in done.document["variants"]}
    assert rows["onnxruntime-file"]["state"] == "not checked"
    assert rows["openvino-file"]["state"] == "fails"
    assert reason in rows["openvino-file"]["reason"]
    assert (done.code, done.document["ok"]) == (code, code == 0)
