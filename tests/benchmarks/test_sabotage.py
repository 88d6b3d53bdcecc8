"""A bar that cannot fail is a defect: every benchmark notices the fault that it plants."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
NOT_HELD = 8
QUICK = [
    "backend_overhead",
    "serve_overhead",
    "replicas",
    "ingest_rate",
    "wheel_size",
    "failover",
    "end_to_end",
    "source_memory",
    "soak",
]
"""Those that need no model of the zoo, no labelled data and no training."""


def run(name, *flags):
    command = [sys.executable, str(FOLDER / f"{name}.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


# One process asks all of them: most of the time that each would take alone is for the same imports.
ASK_ALL = """
import contextlib, io, json, runpy, sys
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
answers = {}
for name in names:
    sys.argv, out, code = [name, "--help"], io.StringIO(), "it went on"
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(f"{folder}/{name}.py", run_name="__main__")
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
    answers[name] = code, out.getvalue()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def helps():
    command = [sys.executable, "-c", ASK_ALL, str(FOLDER), *SCRIPTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_can_plant_its_fault(helps, name):
    code, text = helps[name]
    assert code in (0, None), code
    assert "--sabotage" in text
    assert "--json" in text


@pytest.mark.parametrize("name", QUICK)
def test_a_benchmark_notices_the_fault_that_it_plants(name):
    if name == "ingest_rate" and shutil.which("gcc") is None:
        pytest.skip("gcc makes the slower disk")
    done = run(name, "--sabotage", "--json")
    assert done.returncode == NOT_HELD, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"claim", "value", "unit", "bar", "holds", "detail"}
    assert document["holds"] is False
