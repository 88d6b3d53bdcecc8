"""What ``tests/suite.py`` forgives, and what it does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ONCE = """
from pathlib import Path

def test_fails_the_first_time():
    seen = Path(__file__).with_name("{name}")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
"""
IN_TEARDOWN = """
import pytest
from pathlib import Path

@pytest.fixture
def thing():
    yield
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")

def test_thing(thing):
    pass
"""
AFTER = """
from pathlib import Path

stage = []

def test_first():
    stage.append("ready")

def test_second_stands_on_the_first():
    assert stage
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
    stage.append("done")

@pytest.mark.parametrize("n", range(4))
def test_stands_on_the_second(n):
    assert "done" in stage
"""
ALWAYS = "def test_always_fails():\n    assert 1 == 2\n"
SOUND = "def test_sound():\n    pass\n"


def suite(folder, **files):
    tests = folder / "tests"
    tests.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    shutil.copy(Path(__file__).with_name("suite.py"), tests)
    for name, text in files.items():
        (tests / f"test_{name}.py").write_text(text)
    command = [sys.executable, tests / "suite.py", "-q"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def once(name):
    return ONCE.format(name=name)


@pytest.mark.parametrize("unsteady", [once("seen"), IN_TEARDOWN, f"import pytest{AFTER}"])
def test_what_passes_alone_is_named_and_does_not_stop_the_change(tmp_path, unsteady):
    done = suite(tmp_path, sound=SOUND, unsteady=unsteady)
    assert done.returncode == 0, done.stdout
    named = done.stdout.partition("UNSTEADY")[2]
    assert "test_unsteady.py::" in named
    assert "test_sound" not in named
    assert "the first time" in done.stdout


def test_what_fails_alone_fails(tmp_path):
    done = suite(tmp_path, sound=SOUND, wrong=ALWAYS, unsteady=once("seen"))
    assert done.returncode == 1
    assert "UNSTEADY" not in done.stdout


def test_more_than_three_files_are_no_accident(tmp_path):
    done = suite(tmp_path, **{f"unsteady{n}": once(f"seen{n}") for n in range(4)})
    assert done.returncode == 1
    assert "once more" not in done.stdout


def test_a_sound_suite_is_run_once_and_one_that_cannot_be_collected_fails(tmp_path):
    done = suite(tmp_path, sound=SOUND)
    assert (done.returncode, done.stdout.count("1 passed")) == (0, 1)
    (tmp_path / "other").mkdir()
    assert suite(tmp_path / "other", broken="import nothing_of_this_name\n").returncode not in (0, 1)
