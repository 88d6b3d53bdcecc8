"""Each behaviour that is promised for months names a test that is there, or says that it was not run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split("|")
    for line in (ROOT / "docs/living_long.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "tested in" not in line
]


def test_every_row_names_a_test_that_is_there_or_says_that_it_was_not_run():
    assert len(ROWS) >= 10
    for row in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
        assert named or "*not run here*" in row[3], row[1]
        for path, name in named:
            assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), (path, name)
