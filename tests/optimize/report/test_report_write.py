# ruff: noqa: E501  a strategy for a structure reads best as its fields
"""Writing a report and reading it back."""

import os

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_made_up import bare, study

from edgekit.core.errors import ConfigError, EdgekitError, StorageError
from edgekit_optimize.plan import Check, Plan
from edgekit_optimize.report import write
from edgekit_optimize.study import (
    CandidateResult,
    DataFacts,
    LayerSensitivity,
    Sample,
    Score,
    Study,
    TargetResult,
    Timing,
)

reals = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

plans = st.builds(
    Plan, id=texts, technique=texts, backend=st.sampled_from(["litert", "openvino"]),
    options=st.dictionaries(texts, st.none() | st.booleans() | texts | reals, max_size=3), runtime=st.just({}),
)  # fmt: skip
scores = st.builds(Score, metric=texts, value=reals, reference=reals, samples=st.integers(0, 9), drop=reals, low=reals, high=reals)  # fmt: skip
timings = st.builds(Timing, profile=texts, p50_ms=reals, p95_ms=reals, p99_ms=reals)
results = st.builds(
    CandidateResult, plan=plans, score=st.none() | scores, timings=st.lists(timings, max_size=2).map(tuple),
    gate=st.sampled_from(["pass", "fail", ""]), integer_share=st.none() | reals, float_difference=st.none() | reals,
)  # fmt: skip
reasons = st.dictionaries(texts, st.lists(texts, max_size=2).map(tuple), max_size=3)
studies = st.builds(
    Study, model=texts, version=texts, command=texts, created=texts, edgekit=texts,
    machine=st.dictionaries(texts, texts, max_size=3), versions=st.just({}), source=st.just({}),
    checks=st.lists(st.builds(Check, conversion=texts, tool=texts, samples=st.integers(0, 9), max_abs=reals, scale=reals), max_size=2).map(tuple),
    data=st.builds(DataFacts, source=texts, calibration=st.integers(0, 9), evaluation=st.integers(0, 9), labelled=st.booleans()),
    metric=texts, metric_means=texts, max_drop=reals, reference=texts,
    candidates=st.lists(results, max_size=3).map(tuple),
    targets=st.lists(st.builds(TargetResult, profile=texts, title=texts, rejected=reasons), max_size=2).map(tuple),
    sensitivity=st.lists(st.builds(LayerSensitivity, layer=texts, operator=texts, sqnr_db=reals, agreement=reals), max_size=2).map(tuple),
    worst=st.lists(st.builds(Sample, name=texts, candidate=texts, wanted=texts, reference=texts, found=texts, difference=reals), max_size=2).map(tuple),
)  # fmt: skip


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(studies)
def test_what_was_written_is_read_back_the_same(tmp_path, whole):
    path = tmp_path / "report.json"
    path.write_bytes(write.encode_study(whole))
    assert write.read_study(path) == whole


def test_a_report_is_two_files_and_nothing_else(tmp_path):
    where = write.write_report(study(), tmp_path / "new" / "folder")
    assert [one.name for one in where] == ["report.html", "report.json"]
    assert sorted(one.name for one in where[0].parent.iterdir()) == ["report.html", "report.json"]
    assert write.read_study(where[1]) == study()
    assert where[0].read_text("utf-8").startswith("<!doctype html>")


def test_the_same_study_gives_the_same_bytes_whatever_the_order_of_its_facts(tmp_path):
    turned = study(machine=dict(reversed(study().machine.items())))
    first, second = (write.write_report(one, tmp_path / n) for n, one in (("a", study()), ("b", turned)))
    assert [one.read_bytes() for one in first] == [one.read_bytes() for one in second]


def test_a_second_report_replaces_the_first_whole(tmp_path):
    write.write_report(study(), tmp_path)
    (path, _) = write.write_report(bare(), tmp_path)
    assert "litert-int8" not in path.read_text()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write.write_report(bare(), tmp_path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write.write_report(study(), tmp_path)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="out"):
        write.write_report(bare(), tmp_path / "out")


def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path):
    layer = LayerSensitivity(layer="a", operator="Conv", sqnr_db=float("inf"), agreement=1.0)
    with pytest.raises(EdgekitError) as caught:
        write.write_report(study(sensitivity=(layer,), max_drop=float("nan")), tmp_path)
    assert caught.value.reasons == ("max_drop: nan", "sensitivity[0].sqnr_db: inf")
    assert not list(tmp_path.iterdir())


def test_a_file_name_that_is_not_utf8_is_shown_by_its_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    worst = (msgspec.structs.replace(study().worst[0], name=name),)
    page, data = write.write_report(study(worst=worst), tmp_path)
    assert "caf\\udce9.png" in page.read_text("utf-8")
    assert write.read_study(data).worst[0].name == "caf\\udce9.png"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "is not a report"),
        (b'{"format": 2}', "format: want 1, got 2"),
        (b'{"model": "m"}', "version: want a str, got nothing"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        write.read_study(path)
    assert said in caught.value.render()


def test_each_field_at_fault_is_named(tmp_path):
    raw = msgspec.json.decode(write.encode_study(study()))
    raw["candidates"][2]["plan"]["precision"] = "int7"
    raw["max_drop"] = "little"
    path = tmp_path / "report.json"
    path.write_bytes(msgspec.json.encode(raw))
    with pytest.raises(ConfigError) as caught:
        write.read_study(path)
    said = caught.value.render()
    assert "report.json:candidates[2].plan.precision: want one of 'fp32', " in said
    assert "report.json:max_drop: want a float, got " in said


def test_a_missing_report_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        write.read_study(tmp_path / "report.json")


def test_a_report_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "report.json"
    with path.open("wb") as out:
        out.truncate(write.MAX_REPORT_BYTES + 1)
    with pytest.raises(ConfigError, match="at most"):
        write.read_study(path)
