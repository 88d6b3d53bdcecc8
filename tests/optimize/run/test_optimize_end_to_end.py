"""``edgekit optimize`` from a model file and pictures to a bundle, with every real tool and runtime."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from brightness import brightness_net, write_pictures

from edgekit.cli.main import main
from edgekit.core.errors import StorageError, UsageError
from edgekit.model.bundle import open_bundle
from edgekit_optimize.cli.optimize import _without_secrets
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.report.write import read_study
from edgekit_optimize.run import candidate_runner, deliver, shrinking
from edgekit_optimize.run.request import Description, Request, Shrinking

pytestmark = pytest.mark.timeout(900)  # minutes on a busy machine


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimize")
    (folder / "net.onnx").write_bytes(write_onnx(brightness_net()))
    write_pictures(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def home(proved_cache):
    return str(proved_cache())


@pytest.fixture(autouse=True)
def _one_home(home, monkeypatch):
    """What is verified and measured once serves all of these tests."""
    monkeypatch.setenv("EDGEKIT_CACHE", home)


def call(place, *words):
    base = ["optimize", str(place / "net.onnx"), "--data", str(place / "pictures"), "--targets", "rpi5"]
    return main([*base, "--cache", str(place / "cache"), "--seconds", "0.1", "--json", *words])


@pytest.fixture(scope="module")
def first(place, home):
    out = place / "first" / "net"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", home)
        code = call(place, "-o", str(out), "--samples", "24", "--calibration-samples", "16")
    return code, out


def test_a_model_becomes_a_bundle_that_matches_its_manifest(first, capsys):
    code, out = first
    assert code == 0
    bundle = open_bundle(out)
    bundle.check_hashes()
    assert bundle.labels() == ("dark", "light")
    assert bundle.manifest.model == "net"
    assert {v.backend for v in bundle.manifest.variants} == {"litert", "onnxruntime", "openvino"}
    assert all(v.quality is not None and v.quality.metric == "top1" for v in bundle.manifest.variants)
    assert all(v.cost for v in bundle.manifest.variants)
    assert "card.md" in {file.path for file in bundle.manifest.files}
    assert main(["verify", str(out), "--json"]) == 0
    capsys.readouterr()


def test_the_report_is_beside_the_bundle_and_lists_every_candidate(first):
    _, out = first
    study = read_study(out.parent / "report.json")
    assert "net" in (out.parent / "report.html").read_text("utf-8")
    assert study.targets[0].chosen in {c.plan.id for c in study.candidates if c.kept}
    assert study.metric == "top1"
    assert study.checks
    assert all(check.holds for check in study.checks)
    assert study.sensitivity
    made = {c.plan.id: c for c in study.candidates if not c.error}
    assert made["litert-int8"].bytes < made["litert-fp32"].bytes * 2
    assert all(c.error or c.score is not None for c in study.candidates)


def test_a_second_run_makes_nothing_again(place, first, capsys, monkeypatch):
    _, out = first
    before = read_study(out.parent / "report.json")
    monkeypatch.chdir(place)
    words = ("-o", str(out), "--samples", "24", "--calibration-samples", "16")
    assert call(place, *words, "--cache", "cache") == 0  # the same folder, named from here
    after = read_study(out.parent / "report.json")
    assert all(c.cached for c in after.candidates if not c.error)
    assert [c.timings for c in after.candidates] == [c.timings for c in before.candidates]
    assert json.loads(capsys.readouterr().out)["bundle"] == str(out)


def test_changed_inference_code_evaluates_a_model_again(place, first, capsys, monkeypatch):
    _, out = first
    kept = {kind: count(place, kind) for kind in ("make", "evaluate", "time", "sensitivity", "read")}
    monkeypatch.setattr(candidate_runner, "_ANSWERED_BY", (*candidate_runner._ANSWERED_BY, "edgekit.cli"))
    assert call(place, "-o", str(out), "--samples", "24", "--calibration-samples", "16") == 0
    assert count(place, "evaluate") == 2 * kept.pop("evaluate")
    assert {kind: count(place, kind) for kind in kept} == kept
    capsys.readouterr()


def count(place, kind):
    return len(list((place / "cache" / "optimize" / kind).iterdir()))


def test_if_nothing_passes_the_gate_there_is_a_report_and_exit_code_8(place, first, capsys):
    out = place / "strict" / "net"
    words = ("-o", str(out), "--samples", "24", "--calibration-samples", "16", "--max-drop", "-0.5")
    words += ("--targets", "coral-dev-board")  # one backend only: fewer files to make
    assert call(place, *words) == 8
    shown = capsys.readouterr()
    assert "coral-dev-board" in shown.err
    document = json.loads(shown.out)
    assert document["error"]["code"] == "gate"
    assert document["bundle"] is None
    assert document["report"] == str(out.parent / "report.html")
    assert document["targets"][0]["rejected"]
    assert not out.exists()
    study = read_study(out.parent / "report.json")
    assert study.targets[0].chosen == ""
    assert {c.gate for c in study.candidates if c.score} == {"fail"}
    assert call(place, *words, "--keep-all") == 8
    assert all(v.quality is not None and v.quality.beyond_gate for v in open_bundle(out).manifest.variants)
    assert main(["explain", str(out), "--profile", "coral-dev-board"]) == 4  # none is chosen unasked
    assert "beyond the gate" in capsys.readouterr().out
    capsys.readouterr()


def test_without_labels_the_metric_is_agreement_with_float(place, first, capsys):
    loose = place / "loose"
    loose.mkdir()
    for picture in (place / "pictures").glob("*/*.png"):
        (loose / f"{picture.parent.name}{picture.name}").write_bytes(picture.read_bytes())
    out = place / "unlabelled" / "net.ekb"
    words = ("--data", str(loose), "-o", str(out), "--budget-mb", "5", "--targets", "coral-dev-board")
    assert call(place, *words, "--no-sensitivity") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["metric"], shown["max_drop"]) == ("agreement", 0.03)
    assert open_bundle(out, place / "unpacked").manifest.variants


def test_budgets_that_nothing_meets_exit_with_8_too(place, first, capsys):
    out = place / "small" / "net"
    words = ("-o", str(out), "--samples", "24", "--calibration-samples", "16")
    assert call(place, *words, "--budget-mb", "0.0001") == 8
    assert "the budget is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (("--targets", "toaster"), 2, "toaster"),
        (("--metric", "beauty"), 2, "beauty"),
        (("--shape", "image=0"), 2, "--shape"),
        (("--version", "one"), 2, "--version"),
        (("--prune", "0.5"), 2, "torch module"),
        (("--color", "GRAY"), 2, "GRAY"),
    ],
)
def test_invalid_flags_are_refused_before_the_work(place, words, code, shown, capsys):
    base = ["optimize", str(place / "net.onnx"), "--data", str(place / "pictures"), "--targets", "rpi5"]
    found = main([*base, "--cache", str(place / "cache"), "-o", str(place / "none" / "net"), *words])
    assert found == code
    assert shown in capsys.readouterr().err


def test_nan_weights_are_named(place, capsys):
    broken = brightness_net()
    broken.layers[0].weights[0, 0, 0, 0] = np.nan
    (place / "nan.onnx").write_bytes(write_onnx(broken))
    base = ["optimize", str(place / "nan.onnx"), "--data", str(place / "pictures")]
    assert main([*base, "--cache", str(place / "cache"), "-o", str(place / "none" / "net")]) == 4
    assert "conv" in capsys.readouterr().err


def test_files_that_edgekit_did_not_write_are_not_overwritten(place, first, tmp_path):
    _, out = first
    with pytest.raises(UsageError, match="is the report of"):
        deliver.check_output_paths(Request(model="m", data="d", out=out.parent / "other"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="is a folder that is not a bundle"):
        deliver.check_output_paths(Request(model="m", data="d", out=tmp_path / "folder"))
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UsageError, match="not written by edgekit"):
        deliver.check_output_paths(Request(model="m", data="d", out=tmp_path / "net"))
    deliver.check_output_paths(
        Request(model="m", data="d", out=tmp_path / "net", report=tmp_path / "reports")
    )


def test_an_unwritable_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        deliver.check_output_paths(Request(model="m", data="d", out=tmp_path / "file" / "net"))
    with pytest.raises(StorageError, match="file"):
        deliver.check_output_paths(Request(model="m", data="d", out=tmp_path / "n", report=tmp_path / "file"))


def test_a_bundle_is_replaced_from_whatever_folder_it_is_named(place, first, monkeypatch):
    _, out = first
    monkeypatch.chdir(out.parent.parent)
    deliver.check_output_paths(Request(model="m", data="d", out=Path(out.parent.name) / out.name))
    study = msgspec.json.decode((out.parent / "report.json").read_bytes())
    (out.parent / "report.json").write_bytes(msgspec.json.encode(study | {"bundle": "elsewhere/net"}))
    try:
        deliver.check_output_paths(Request(model="m", data="d", out=out))
    finally:
        (out.parent / "report.json").write_bytes(msgspec.json.encode(study))


def test_training_needs_a_torch_module_and_a_train_function():
    request = Request(
        model="a:b", data="d", out="o", description=Description(), shrinking=Shrinking(student="a:c")
    )
    with pytest.raises(UsageError, match="--train"):
        shrinking.check_flags(request)
    wrong = msgspec.structs.replace(request, shrinking=Shrinking(prune=(1.5,), train="a:t"))
    with pytest.raises(UsageError, match="between 0 and 1"):
        shrinking.check_flags(wrong)


def test_a_report_never_shows_a_token():
    words = ["optimize", "m", "--token", "secret", "--fleet", "u", "--token=secret"]
    assert "secret" not in " ".join(_without_secrets(words))
