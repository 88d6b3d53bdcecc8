"""What the always-on processes leave out of their memory (the figures are ``benchmarks/footprint.py``'s)."""

import json
import subprocess
import sys

import pytest

_SUPERVISOR = """
from edgekit.agent.__main__ import leave_out_unused
leave_out_unused()
import edgekit.agent.supervisor.supervisor
"""
_WORKER = """
from edgekit.base.left_out import import_msgspec
import_msgspec()
import edgekit.agent.worker.worker
"""
_FOR_NONE = {"typing_extensions", "importlib.metadata", "shutil", "tarfile", "lzma", "email"}


def imported_by(program: str) -> set[str]:
    program += "import json, sys; print(json.dumps([m for m, module in sys.modules.items() if module]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("program", "left_out"),
    [
        (_SUPERVISOR, _FOR_NONE | {"numpy", "dataclasses", "inspect", "secrets", "importlib.metadata"}),
        (_WORKER, _FOR_NONE | {"argparse"}),
    ],
    ids=["supervisor", "worker"],
)
def test_an_always_on_process_imports_nothing_that_only_other_processes_need(program, left_out):
    assert imported_by(program) & left_out == set()


def test_a_library_that_needs_typing_extensions_still_gets_it_after_msgspec_was_imported_without():
    pytest.importorskip("typing_extensions")
    program = "from edgekit.base.left_out import import_msgspec\nimport_msgspec()\n"
    assert "typing_extensions" not in imported_by(program)
    assert "typing_extensions" in imported_by(program + "import typing_extensions\n")
