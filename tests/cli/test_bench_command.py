"""``edgekit bench``: the figures of each variant, and who is told of them."""

import pytest
from bundles import make_bundle

pytestmark = pytest.mark.usefixtures("proved")
SLOW = {"id": "slow", "backend": "null", "options": {"latency_ms": 20}}
ROW = [
    *("id", "backend", "accelerator", "precision", "p50_ms", "p95_ms", "p99_ms"),
    *("inferences_per_s", "load_ms", "first_ms", "rss_mb", "bytes", "error"),
]
"""Design 4.1: the figures of a variant."""


def test_the_fastest_is_chosen_by_measurement_and_every_figure_is_there(edgekit, tmp_path):
    bundle = make_bundle(tmp_path / "b", more_variants=(SLOW,), first="slow")
    done = edgekit("bench", bundle, "--seconds", "0.2", "--threads", "1", "--json")
    document = done.document
    assert done.code == 0, done.err
    assert {"profile", "chosen", "variants"} <= document.keys()
    assert (document["chosen"], document["threads"]) == ("null", 1)
    for row in document["variants"]:
        assert set(ROW) <= row.keys()
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    slow = next(row for row in document["variants"] if row["id"] == "slow")
    # 20 ms by its script; paired timing takes off what a busy machine did to a whole round
    assert slow["p50_ms"] >= 18
    assert slow["inferences_per_s"] <= 55
    explained = edgekit("explain", bundle, "--threads", "1", "--json").document
    assert explained["chosen"] == "null", "what was measured is remembered"
    assert "reported" not in document


def test_a_variant_that_crashes_costs_its_own_row_only(edgekit, tmp_path):
    crashes = {"id": "crash", "backend": "null", "options": {"crash_at": 1}}
    done = edgekit("bench", make_bundle(tmp_path / "b", more_variants=(crashes,)), "--seconds", "0.1")
    assert done.code == 0, done.err
    heads, first, second, *_ = done.out.splitlines()
    assert heads.split() == ["variant", "p50", "p95", "p99", "1/s", "load", "first", "RSS", "size"]
    assert first.startswith("null ")
    assert first.endswith("<- chosen")
    assert second.startswith("crash ")
    assert "SIGSEGV" in second


def test_where_every_variant_fails_it_is_exit_4(edgekit, tmp_path):
    bundle = make_bundle(tmp_path / "b", options={"crash_at": 1})
    done = edgekit("bench", bundle, "--seconds", "0.1", "--json")
    assert (done.code, done.document["chosen"]) == (4, None)
    assert done.document["variants"][0]["p50_ms"] is None


def test_a_report_from_a_device_that_is_not_enrolled_is_refused_before_anything_is_measured(
    edgekit, tmp_path
):
    done = edgekit("bench", tmp_path / "nothing", "--report", "--state", tmp_path / "state", "--json")
    assert (done.code, done.error["code"]) == (2, "usage")
    assert "edgekit agent enroll" in done.error["hint"]


def test_a_report_waits_for_the_agent_where_none_runs(edgekit, tmp_path):
    identity = tmp_path / "state" / "identity"
    identity.mkdir(parents=True)
    (identity / "enrolment.json").write_text("{}")  # only the agent reads what is in it
    words = ("--seconds", "0.1", "--report", "--state", tmp_path / "state", "--json")
    done = edgekit("bench", make_bundle(tmp_path / "b"), *words)
    assert done.code == 0, done.err
    assert done.document["reported"] == "when the agent starts"
    assert len(list((tmp_path / "state" / "reports").iterdir())) == 1
