"""Every edgekit command in the pages about installing and updating is one that the command lines take."""

import re
import shlex
from pathlib import Path

import pytest

from edgekit.base.command_line import Program, _parser
from edgekit.cli.main import commands
from edgekit_fleet.cli.main import COMMANDS, command

ROOT = Path(__file__).parents[2]
PAGES = ("docs/self_update.md", "docs/install.md")
_LINE = re.compile(r"^\$ (?:sudo (?:-u \w+ )?)?(edgekit(?:-fleet)? .*?)(?:  +#.*)?$", re.MULTILINE)


def lines():
    for page in PAGES:
        for match in _LINE.finditer((ROOT / page).read_text(encoding="utf-8")):
            yield pytest.param(match[1], id=f"{Path(page).stem}: {match[1]}"[:80])


@pytest.mark.parametrize("line", list(lines()))
def test_a_command_of_a_page_is_taken(line):
    name, *words = shlex.split(line)
    table = (
        {key: command(*row) for key, row in COMMANDS.items()} if name == "edgekit-fleet" else commands(words)
    )
    parsed = _parser(Program(name, "", "", "", table), words[0], table[words[0]].load()).parse_args(words)
    assert parsed.command == words[0]
