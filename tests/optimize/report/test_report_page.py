# ruff: noqa: E501  tables read best on one line
"""The page: its content, and that no text of a study can change its structure."""

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_reading import Reading
from study_made_up import bare, candidate, study

from edgekit_optimize.plan import Check
from edgekit_optimize.report.page import page
from edgekit_optimize.study import Study

FIXED = {"backend", "accelerator", "precision", "technique", "gate", "picture", "root", "basis"}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;</title></style>--><!--"


def worded(value, prefix, key=""):
    """The same data with a text put before every free text, the same everywhere, so ids still match."""
    if isinstance(value, dict):
        free = key in {"rejected", "machine", "versions", "source", "tools"}
        return {(prefix + k if free else k): worded(v, prefix, "" if free else k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [worded(one, prefix, key) for one in value]
    return prefix + value if isinstance(value, str) and key not in FIXED and value else value


def study_with(prefix):
    return msgspec.convert(worded(msgspec.to_builtins(study()), prefix), type=Study)


PLAIN_SHAPE = Reading(page(study_with("x"))).shape()


@settings(max_examples=12, deadline=None)
@given(st.text(min_size=1, max_size=30).map(lambda words: "x" + words))
def test_no_text_of_a_study_changes_the_structure_of_the_page(words):
    assert Reading(page(study_with(words))).shape() == PLAIN_SHAPE


def test_markup_in_a_text_is_shown_as_text():
    found = Reading(page(study_with(HOSTILE)))
    assert found.shape() == PLAIN_SHAPE
    assert len(found.all("script")) == 1
    assert HOSTILE + "efficientnet-lite0" in found.words


def test_a_picture_that_is_not_an_embedded_png_is_not_shown():
    worst = tuple(
        msgspec.structs.replace(study().worst[0], picture=bad)
        for bad in (
            "https://example.com/a.png",
            "data:image/svg+xml;base64,AAAA",
            'data:image/png;base64,AA" onerror="x',
            "",
        )
    )
    found = Reading(page(study(worst=worst)))
    assert found.all("img") == []
    assert "not a PNG: not shown" in found.words


def test_the_page_loads_nothing_from_elsewhere():
    text = page(study())
    found = Reading(text)
    refs = [a[key] for _, a in found.elements for key in ("href", "src") if key in a]
    assert all(one.startswith(("#", "data:")) for one in refs)
    assert not re.search(r"https?:|@import|url\(", text)
    assert not any(name.startswith("on") or name == "style" for _, a in found.elements for name in a)


def test_every_link_within_the_page_has_its_target():
    found = Reading(page(study()))
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for a in found.all("a") if a["href"].startswith("#")}
    assert links <= set(ids)


def test_without_pictures_it_stays_below_300_kb_even_with_forty_candidates():
    rows = [
        (f"c{i:02d}-int8-with-a-long-name", "onnx-static", "onnxruntime", "int8", 0.87 + i * 1e-4, 5 + i / 3, 5 + i / 9, 60 + i, 0, 1, 0.9)
        for i in range(40)
    ]  # fmt: skip
    text = page(study(candidates=tuple(map(candidate, rows))))
    assert len(re.sub(r"data:image/png[^\"]*", "", text).encode()) < 300_000


def test_tables_have_captions_and_headers_and_pictures_have_words():
    found = Reading(page(study()))
    assert len(found.all("caption")) == len(found.all("table")) > 5
    assert all(a.get("scope") in {"col", "row"} for a in found.all("th"))
    assert all(a.get("alt") for a in found.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in found.all("svg"))
    assert all(a["aria-labelledby"] in {h.get("id") for h in found.all("h2")} for a in found.all("section"))


def test_empty_sections_say_why_they_are_empty():
    words = Reading(page(bare())).words
    for said in (
        "No board was named, so none was chosen for.",
        "No candidate was scored, so there is nothing to plot.",
        "The study planned no candidate.",
        "No layer was measured",
        "no variant was chosen, or none differs from float",
        "No conversion was needed",
        "No facts about the machine were recorded.",
    ):
        assert said in words


def test_every_rejection_is_listed_with_every_reason():
    words = Reading(page(study())).words
    for target in study().targets:
        for reasons in target.rejected.values():
            assert all(reason in words for reason in reasons)


def test_warnings_come_before_the_verdict():
    text = page(study(warnings=("The calibration set has one class.",)))
    assert text.index("The calibration set has one class.") < text.index('id="verdict"')


def test_a_conversion_that_changed_the_model_is_a_warning_at_the_top():
    bad = Check(conversion="torch to ONNX", tool="torch", samples=4, max_abs=float("1e3"), scale=10.0)
    text = page(study(checks=(bad,)))
    assert text.index("torch to ONNX by torch changes") < text.index('id="verdict"')
    assert "does not hold" in text


def test_the_layer_that_hurts_most_comes_first():
    text = page(study())
    worst = min(study().sensitivity, key=lambda one: one.sqnr_db)
    part = text[text.index('id="layers"') :]
    assert re.search(r'<th scope="row"><code>([^<]+)', part)[1] == worst.layer


def variables(css, dark):
    block = css.split("prefers-color-scheme: dark")[dark]
    return {k: [int(v[i : i + 1] * 2, 16) if len(v) == 3 else int(v[2 * i : 2 * i + 2], 16) for i in range(3)]
            for k, v in re.findall(r"--([\w-]+): #([0-9a-f]{6}|[0-9a-f]{3});", block)}  # fmt: skip


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("text", "page"), ("text", "panel"), ("faint", "panel"), ("faint", "page"), ("faint", "off-back"),
        ("good", "good-back"), ("warn", "warn-back"), ("bad", "bad-back"), ("bad", "panel"), ("good", "panel"),
    ],
)  # fmt: skip
def test_text_contrasts_with_its_background(ink, paper, dark):
    """Source: WCAG 2.2, 1.4.3: 4.5 to 1."""
    found = variables(page(bare()), dark)
    light, deep = sorted((luminance(found[ink]), luminance(found[paper])), reverse=True)
    assert (light + 0.05) / (deep + 0.05) >= 4.5
