"""Every edgekit command in a block of code of README and pages is one that the command lines take."""

import re
import shlex
from pathlib import Path

import pytest

from edgekit.base.command_line import Program, _parser
from edgekit.cli.main import commands
from edgekit_fleet.cli.main import COMMANDS, command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "fleet/deploy/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^((?:    .*\n)+)", re.MULTILINE)
_LINE = re.compile(
    r"^ *(?:\$ )?(?:sudo (?:-u \w+ )?)?(?:\.venv/bin/)?(edgekit(?:-fleet)? .*?)(?: +#.*|  +.*)?$",
    re.MULTILINE,
)


def lines():
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        for block in (_FENCED if "```" in text else _INDENTED).findall(text):
            for match in _LINE.finditer(block):
                line = re.sub(r"\[[^]]*\]|\|.*", "", match[1])  # optional words; another form of it
                yield pytest.param(line, id=f"{page.stem}: {match[1]}"[:100])


@pytest.mark.parametrize("line", list(lines()))
def test_a_command_of_a_page_is_taken(line):
    name, *words = shlex.split(line)
    table = (
        {key: command(*row) for key, row in COMMANDS.items()} if name == "edgekit-fleet" else commands(words)
    )
    parsed = _parser(Program(name, "", "", "", table), words[0], table[words[0]].load()).parse_args(words)
    assert parsed.command == words[0]
