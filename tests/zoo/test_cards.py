"""The cards' tables: written from a report, every candidate with its figures, failures too."""

import importlib.util
import re
from pathlib import Path

import msgspec
import pytest

from edgekit.core.errors import UsageError
from edgekit_optimize.plan import Plan
from edgekit_optimize.study import CandidateResult, DataFacts, Score, Study, TargetResult, Timing
from edgekit_optimize.zoo.recipe import models_folder, recipe, recipes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cards():
    spec = importlib.util.spec_from_file_location("generate_cards", ROOT / "docs" / "generate_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def candidate(name, *, drop=0.0, ms=1.0, error=""):
    backend, _, precision = name.partition("-")
    plan = Plan(id=name, technique="x", backend=backend, precision=precision.partition("-")[0])
    if error:
        return CandidateResult(plan=plan, error=error)
    value = 0.9 - drop
    score = Score(
        metric="top1", value=value, reference=0.9, samples=99, drop=drop, low=drop - 0.01, high=drop + 0.01
    )
    timings = (Timing(profile="here", p50_ms=ms, p95_ms=ms, p99_ms=ms, rss_mb=50.0),)
    gate = "pass" if drop <= 0.01 else "fail"
    return CandidateResult(plan=plan, bytes=1000, score=score, gate=gate, timings=timings)


STUDY = Study(
    model="imu-exercise",
    version="1.0.0",
    command="edgekit optimize zoo:imu-exercise -o reports/imu-exercise/bundle",
    created="2026-11-22T00:00:00Z",
    edgekit="0.1.0",
    machine={"cpu": "a CPU", "cores": "2", "python": "3.11"},
    versions={"onnxruntime": "1.0"},
    source={},
    data=DataFacts(source="zoo:imu-exercise", calibration=9, evaluation=99, labelled=True),
    metric="top1",
    metric_means="Share.",
    max_drop=0.01,
    reference="onnxruntime-fp32",
    candidates=(
        candidate("onnxruntime-int8-exact", ms=0.5),
        candidate("onnxruntime-fp32"),
        candidate("litert-int4", drop=0.3, ms=0.2),
        candidate("openvino-int8", ms=3.0),
        candidate("openvino-fp32", ms=2.0),
        candidate("litert-fp16", error="no such operator"),
    ),
    targets=(TargetResult(profile="here", title="Here", chosen="onnxruntime-int8-exact", basis="measured"),),
)


def test_float_comes_first_then_the_fastest_and_nothing_is_left_out(cards):
    lines = cards.section(STUDY, frozenset({"onnxruntime-fp32", "onnxruntime-int8-exact"}))
    rows = [re.findall(r"`([\w-]+)`", line)[0] for line in lines if line.startswith(("| `", "| **`"))]
    assert rows == [
        "onnxruntime-fp32",
        "litert-int4",
        "onnxruntime-int8-exact",
        "openvino-fp32",
        "openvino-int8",
    ]
    text = "\n".join(lines)
    assert "| **`onnxruntime-int8-exact`** | int8 |" in text, "what the zoo ships is bold"
    assert "30.00 (29.00 to 31.00)" in text
    assert "**fails**" in text
    assert "holds, slower than `openvino-fp32`" in text
    assert "`litert-fp16`: no such operator" in text
    assert STUDY.command in text


def test_a_card_keeps_what_was_written_by_hand_and_gets_a_new_table(cards, tmp_path):
    card = tmp_path / "card.md"
    card.write_text(f"before\n{cards.BEGIN}\nstale\n{cards.END}\nafter\n")
    cards.fill(card, STUDY)
    once = card.read_text()
    assert once.startswith("before\n")
    assert once.endswith(f"{cards.END}\nafter\n")
    assert "stale" not in once
    cards.fill(card, msgspec.structs.replace(STUDY))
    assert card.read_text() == once


def test_a_card_without_marks_is_not_touched(cards, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("by hand\n")
    with pytest.raises(UsageError, match="lacks the marks"):
        cards.fill(card, STUDY)
    assert card.read_text() == "by hand\n"


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_variant_that_the_zoo_builds_is_in_its_card(name, cards):
    text = (models_folder() / name / "card.md").read_text(encoding="utf-8")
    table = text.partition(cards.BEGIN)[2].partition(cards.END)[0]
    shown = set(re.findall(r"^\| \*\*`([\w-]+)`\*\* \|", table, re.MULTILINE))
    assert shown == cards.shipped(recipe(name))
    assert f"zoo:{name}" in table
    assert "/work/" not in text
    assert "/tmp/" not in text
