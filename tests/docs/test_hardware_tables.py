"""The tables of tested machines come from reports alone, and claim nothing more."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import msgspec
import pytest

from edgekit.bench.selftest import SelftestReport

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("hardware_tables", ROOT / "docs/generate_hardware.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "docs/hardware.md"])
def test_the_pages_have_what_the_reports_say(tables, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == tables.filled(text, page), "run: python docs/generate_hardware.py"


def test_every_report_is_valid_and_one_without_golden_samples_claims_no_model(tables):
    files = sorted(tables.REPORTS.glob("*.json"))
    assert files
    for file in files:
        report = msgspec.json.decode(file.read_bytes(), type=SelftestReport)
        assert not re.search(r"/home/|/root/|/tmp/", file.read_text()), file
        row = tables._row(report, "x")
        assert all(m.golden or m.model not in row for m in report.models)


def test_an_emulated_machine_is_marked_and_has_no_speed(tables):
    reports = [
        msgspec.json.decode(f.read_bytes(), type=SelftestReport) for f in tables.REPORTS.glob("*.json")
    ]
    for report in reports:
        row = tables._row(msgspec.structs.replace(report, kind="emulated"), "x")
        assert "| **emulation** |" in row
        assert "| not measured |" in row
    emulated = {r.profile for r in reports if r.kind == "emulated"} - {
        r.profile for r in reports if r.kind != "emulated"
    }
    missing = tables.table("x").partition("nothing is claimed")[2]
    assert all(f"`{profile}`" in missing for profile in emulated)


def test_a_page_without_marks_is_refused(tables):
    with pytest.raises(tables.UsageError, match="lacks the marks"):
        tables.filled("a page", "README.md")
