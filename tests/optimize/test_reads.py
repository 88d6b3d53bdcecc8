"""What a job read, and that it is repeated only once that has changed."""

import json
import os
import subprocess
import sys

import pytest

from edgekit_optimize.cache import Cache
from edgekit_optimize.run.reads import make_unless_kept, state_of

CHILD = """
import json, sys
from pathlib import Path
from edgekit_optimize.run.reads import Watch
out = Path(sys.argv[1])
watch = Watch()
import user_module
user_module.train(out)
print(json.dumps(watch.files(out)))
"""
MODULE = """
from pathlib import Path
import importlib.metadata, pkgutil
import user_helper
list(importlib.metadata.distributions()), list(pkgutil.iter_modules())
HERE = Path(__file__).parent

def train(out):
    rows = [path.read_text() for path in (HERE / "data").iterdir()]
    (out / "model.txt").write_text(" ".join(sorted(rows)) + user_helper.WORD)
    (out / "model.txt").read_text()
    (HERE / "written.log").write_text("x")
"""


def child(project, out):
    """Train in a child process, as the search does; return the files that it reports to have read."""
    environment = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHILD, str(out)]
    done = subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def project(tmp_path):
    """A user's project: two modules and data."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a.txt").write_text("a")
    (folder / "user_module.py").write_text(MODULE)
    (folder / "user_helper.py").write_text("WORD = 'first'\n")
    return folder


@pytest.fixture
def trained(project, tmp_path):
    """Train; return the result, and whether it came from the cache."""
    cache = Cache(tmp_path / "cache")

    def fill(folder):
        return {"reads": child(project, folder), "what": "trained"}

    def run():
        folder, result, was_there = make_unless_kept(cache, "trained", "base", fill)
        assert result == {"what": "trained"}
        return (folder / "model.txt").read_text(), was_there

    return run


def test_only_the_users_own_files_count(project, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    names = ["data", "data/a.txt", "user_helper.py", "user_module.py"]
    assert child(project, out) == [str(project / name) for name in names]


def test_unchanged_work_is_not_repeated(project, trained):
    assert trained() == ("afirst", False)
    assert trained() == ("afirst", True)
    (project / "bundle.ekb").write_text("an output beside the modules is no data")
    (project / "user_module.py").touch()
    assert trained() == ("afirst", True)


def test_other_code_is_noticed_wherever_it_is_imported_from(project, trained):
    trained()
    (project / "user_helper.py").write_text("WORD = 'second'\n")
    assert trained() == ("asecond", False)
    (project / "user_helper.py").write_text("WORD = 'first'\n")
    assert trained() == ("afirst", True)


def test_other_data_and_more_data_are_noticed(project, trained):
    trained()
    (project / "data" / "a.txt").write_text("other")
    assert trained() == ("otherfirst", False)
    (project / "data" / "b.txt").write_text("more")
    assert trained() == ("more otherfirst", False)
    (project / "data" / "b.txt").unlink()
    assert trained()[0] == "otherfirst"


def test_a_truncated_index_only_repeats_the_work(project, trained, tmp_path):
    trained()
    (index,) = (tmp_path / "cache" / "trained-reads").glob("*.json")
    index.write_bytes(index.read_bytes()[:-3])
    assert trained() == ("afirst", False)
    assert trained() == ("afirst", True)


def test_a_deleted_file_counts_as_a_change(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"1")
    before = state_of([str(path)])
    path.unlink()
    assert state_of([str(path)]) != before
