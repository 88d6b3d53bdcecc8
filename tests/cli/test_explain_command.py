"""``edgekit explain``: the variant that is chosen, and a reason for each other one."""

import pytest
from bundles import WRONG_OUTPUTS, make_bundle

from edgekit.hardware.profiles import load_profiles

pytestmark = pytest.mark.usefixtures("proved")
KEYS = ["model", "profile", "chosen", "why", "candidates", "rejected"]
SPARE = {"id": "spare", "backend": "null"}
HUGE = {"id": "huge", "backend": "null", "requires": {"memory_mb": 1 << 30}}


def test_the_document_has_the_choice_the_order_and_a_reason_for_each_other(edgekit, tmp_path):
    done = edgekit("explain", make_bundle(tmp_path / "b", more_variants=(SPARE, HUGE)), "--json")
    document = done.document
    assert (done.code, list(document)) == (0, KEYS)
    assert (document["model"], document["chosen"]) == ("motion", "null")
    assert [row["id"] for row in document["candidates"]] == ["null", "spare"]
    (row,) = document["rejected"]
    assert row["id"] == "huge"
    assert any("memory" in reason for reason in row["reasons"])


def test_a_person_reads_the_same(edgekit, tmp_path):
    lines = edgekit("explain", make_bundle(tmp_path / "b", more_variants=(SPARE, HUGE))).out.splitlines()
    assert lines[0].startswith("profile ")
    assert lines[1].startswith("-> null ")
    assert "not measured" in lines[1]
    assert lines[2].startswith("   spare ")
    assert lines[3].startswith(" x huge ")


def test_a_variant_with_wrong_answers_is_left_for_the_next_with_the_reason(edgekit, tmp_path):
    wrong = make_bundle(tmp_path / "b", options={"outputs": WRONG_OUTPUTS}, more_variants=(SPARE,))
    document = edgekit("explain", wrong, "--json").document
    assert document["chosen"] == "spare"
    (row,) = document["rejected"]
    assert row["id"] == "null"
    assert "golden" in " ".join(row["reasons"])


def test_where_no_variant_works_it_is_exit_4_and_every_reason_is_told(edgekit, tmp_path):
    done = edgekit("explain", make_bundle(tmp_path / "b", options={"outputs": WRONG_OUTPUTS}), "--json")
    assert (done.code, done.document["chosen"], done.document["candidates"]) == (4, None, [])
    assert [row["id"] for row in done.document["rejected"]] == ["null"]


def test_another_boards_profile_judges_where_it_is_named(edgekit, tmp_path):
    done = edgekit("explain", make_bundle(tmp_path / "b"), "--profile", "rpi5-coral-usb", "--json")
    assert done.document["profile"] == "rpi5-coral-usb"


def test_an_unknown_profile_is_a_usage_error_with_the_known_ones(edgekit, tmp_path):
    done = edgekit("explain", make_bundle(tmp_path / "b"), "--profile", "rpi9", "--json")
    assert (done.code, done.error["code"]) == (2, "usage")
    assert "'rpi9'" in done.error["message"]
    assert all(profile.id in done.error["hint"] for profile in load_profiles())


@pytest.mark.parametrize("command", ["explain", "verify", "bench"])
def test_a_bundle_that_is_not_there_is_exit_4_and_named(command, edgekit, tmp_path):
    done = edgekit(command, tmp_path / "nothing.ekb", "--json")
    assert (done.code, done.error["code"]) == (4, "model.bundle")
    assert "nothing.ekb" in done.error["message"]


@pytest.mark.parametrize("command", ["explain", "verify", "bench"])
@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 99, "model": "m"}'])
def test_a_manifest_that_is_none_is_exit_4_and_says_what_it_wants(command, text, edgekit, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bundle.json").write_text(text)
    done = edgekit(command, tmp_path / "b", "--json")
    assert (done.code, done.error["code"]) == (4, "model.bundle")
    assert "bundle.json" in done.error["message"] + "".join(done.error["reasons"])
