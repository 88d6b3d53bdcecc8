"""One bundle whose fastest variant gives wrong answers, put through everything that opens a model."""

import json

import pytest
from bundles import WRONG_OUTPUTS, make_bundle, pipeline_toml

import edgekit
from edgekit.cli.main import main
from edgekit.core.errors import NoVariantError
from edgekit.model.servable import HeldServable

WHY = "does not reproduce 1 of 1 golden samples; golden/0.npz: off by 0.8"


@pytest.fixture
def bundle(tmp_path):
    fast = {"id": "fast-and-wrong", "backend": "null", "options": {"outputs": WRONG_OUTPUTS}}
    broken = {"id": "broken", "backend": "null", "options": {"fail_at": list(range(1, 50))}}
    return make_bundle(
        tmp_path / "b", options={"latency_ms": 2}, more_variants=(fast, broken), first="fast-and-wrong"
    )


def document_of(capsys, *arguments):
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_load_and_serve_run_the_variant_that_is_right_and_say_why(bundle):
    with edgekit.load(bundle) as model:
        assert model.variant.id == "null"
        assert WHY in model.why
    held = HeldServable(str(bundle))
    status = held.servable.status()
    assert (status["variant"], WHY in status["fallbacks"]["fast-and-wrong"]) == ("null", True)
    held.close()


def test_run_does_too(bundle, tmp_path, capsys, caplog):
    path = tmp_path / "p.toml"
    path.write_text(pipeline_toml(model=str(bundle), fps=500))
    code, document = document_of(capsys, "run", path, "--frames", 5)
    assert (code, document["variant"]) == (0, "null")
    assert WHY in caplog.text


def test_bench_verify_explain_and_whoever_opens_it_afterwards_do_too(bundle, capsys):
    code, measured = document_of(capsys, "bench", bundle, "--seconds", 0.1)
    rows = {row["id"]: row for row in measured["variants"]}
    assert (code, measured["chosen"]) == (0, "null")
    assert WHY in rows["fast-and-wrong"]["error"]
    assert "scripted to fail" in rows["broken"]["error"]
    code, explained = document_of(capsys, "explain", bundle)
    assert (code, explained["chosen"], explained["why"]) == (
        0,
        "null",
        "fastest by measurement on this device",
    )
    rejected = {row["id"]: row["reasons"] for row in explained["rejected"]}
    assert WHY in rejected["fast-and-wrong"][0]
    assert "scripted to fail" in rejected["broken"][0]
    with edgekit.load(bundle) as model:
        assert model.variant.id == "null"
    code, verified = document_of(capsys, "verify", bundle)
    states = {row["id"]: row["state"] for row in verified["variants"]}
    assert (code, states) == (4, {"null": "holds", "fast-and-wrong": "fails", "broken": "fails"})


def test_a_variant_that_failed_when_it_was_measured_still_runs_where_it_is_asked_for(bundle, capsys):
    document_of(capsys, "bench", bundle, "--seconds", 0.1)
    with pytest.raises(edgekit.core.errors.GoldenError, match="reproduces its golden samples"):
        edgekit.load(bundle, variant="fast-and-wrong")
    with pytest.raises(NoVariantError, match="runs on"):
        edgekit.load(bundle, variant="broken")


def test_verify_without_golden_samples_compares_the_variants_with_one_another(tmp_path, capsys):
    other = {"id": "other", "backend": "null", "options": {"outputs": WRONG_OUTPUTS}}
    same = make_bundle(tmp_path / "a", without_golden=True)
    code, document = document_of(capsys, "verify", same)
    assert (code, [row["state"] for row in document["variants"]]) == (0, ["not checked"])
    differing = make_bundle(tmp_path / "b", without_golden=True, more_variants=(other,))
    code, document = document_of(capsys, "verify", differing)
    assert (code, document["ok"]) == (4, False)
    assert "differs from null" in document["variants"][1]["reason"]


def test_a_variant_that_cannot_be_loaded_fails_its_verification(tmp_path, capsys):
    """As one does that dies later: whether a time-out strikes while loading or after makes no difference."""
    odd = {"id": "odd", "backend": "null", "options": {"crash_at": 1}}
    code, document = document_of(capsys, "verify", make_bundle(tmp_path / "b", more_variants=(odd,)))
    assert (code, [row["state"] for row in document["variants"]]) == (4, ["holds", "fails"])
    assert "killed by SIGSEGV" in document["variants"][1]["reason"]
