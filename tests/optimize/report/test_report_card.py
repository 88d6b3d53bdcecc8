"""The card of a bundle."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from study_made_up import bare, study

from edgekit_optimize.report import card
from edgekit_optimize.report.write import write_card
from edgekit_optimize.study import Study


def test_it_has_float_and_every_variant_in_one_table():
    text = write_card(study(), "efficientnet-lite0: image classifier", "Apache-2.0")
    assert text.startswith(
        "# efficientnet-lite0: image classifier\n\n- **Model**: efficientnet-lite0 1.1.0\n"
    )
    assert "- **Licence**: Apache-2.0\n" in text
    for one in study().candidates:
        assert (f"\n| `{one.plan.id}`" in text) == one.kept
        assert (f"\n- `{one.plan.id}`" in text) == (not one.kept)
    lost = "0.10 (\N{MINUS SIGN}1.00 to 1.09)"
    assert f"| `litert-int8` | int8 | 87.70 % | {lost} | 5.25 MB | 4.69 ms | 58 MB | pass |" in text


def test_a_candidate_that_passed_and_was_left_out_names_the_faster_one():
    text = write_card(study(), "t", "x")
    line = next(line for line in text.splitlines() if line.startswith("- `openvino-weights`"))
    assert line.endswith("(OpenVINO, int8): passes the gate; 11.1 ms in total, openvino-qdq takes 5.24 ms")
    slow = next(line for line in text.splitlines() if line.startswith("- `onnxruntime-dynamic`"))
    assert "beyond the gate" in slow


def test_a_float_form_that_is_not_in_the_bundle_is_still_in_the_table():
    candidates = tuple(
        msgspec.structs.replace(one, kept=one.plan.id == "litert-int8") for one in study().candidates
    )
    text = write_card(study(candidates=candidates), "t", "")
    assert "| `onnxruntime-fp32` (not in the bundle, reference) |" in text
    assert "- **Licence**: not stated" in text


def test_a_variant_that_failed_and_is_kept_is_marked():
    candidates = tuple(
        msgspec.structs.replace(one, kept=one.kept or one.gate == "fail") for one in study().candidates
    )
    text = write_card(study(candidates=candidates), "t", "x")
    assert text.count("| **fails** |") == 3
    assert text.index("is in the bundle although it failed the gate") < text.index("## Quality")


def test_unlabelled_data_are_mentioned():
    data = msgspec.structs.replace(study().data, labelled=False)
    assert "agreement with float, not accuracy" in write_card(study(data=data), "t", "x")


def test_a_study_that_found_nothing_still_has_a_card():
    text = write_card(bare(), "t", "x")
    assert "No variant is in the bundle." in text
    assert "None" not in text


def shape(text):
    """Lines by what they start with, and bars of tables that are not escaped."""
    return [(line[:1], line.replace("\\|", "").count("|")) for line in text.splitlines()]


def hostile(words):
    whole = msgspec.to_builtins(study(metric=words, metric_means=words, model=words, created=words))
    whole["warnings"] = [words]
    for one in whole["candidates"]:
        one["verdict"] = one["error"] = words
    for one in whole["targets"]:
        one["title"] = one["why"] = words
    return write_card(msgspec.convert(whole, Study), words, words)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20).map(lambda words: f"x{words}x"))
def test_no_text_changes_the_structure_of_the_card(words):
    assert shape(hostile(words)) == shape(hostile("xx"))


def test_markup_is_escaped():
    text = hostile("x<script>alert(1)</script> | `a` **b** [c](d) &lt;\n# e")
    assert "<script>" not in text.replace("\\<", "")
    assert "\n# e" not in text
    assert "\\[c\\](d) &amp;lt; \\# e" in text


@given(st.text("`a |", max_size=9))
def test_code_is_fenced_by_more_back_quotes_than_it_has(words):
    found = card.code(words)
    fence = len(found) - len(found.lstrip("`"))
    assert not words.split() or "`" * fence not in found[fence:-fence]
