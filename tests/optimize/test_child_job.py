"""Jobs in processes of their own: results, errors and deaths come back as what they are."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgekit.base.child import ChildFault
from edgekit.core.errors import ConfigError, EdgekitError, ModelError, UsageError
from edgekit_optimize.run import child_job, jobs


def test_an_error_comes_back_as_the_error_it_was(tmp_path):
    with pytest.raises(UsageError) as caught:
        child_job.run_child_job("read", {"model": "no-such-model.xyz", "shapes": {}}, tmp_path)
    assert "no-such-model.xyz" in caught.value.message
    assert caught.value.reasons


def test_a_broken_jobs_error_has_the_end_of_its_log(tmp_path):
    with pytest.raises(ModelError, match="died") as caught:
        child_job.run_child_job("make", {}, tmp_path)
    assert any("KeyError" in line for line in caught.value.reasons)
    assert "KeyError" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    "said",
    [
        "OSError: libLiteRt.so: failed to map segment from shared object",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
def test_a_job_that_died_for_lack_of_memory_says_so(tmp_path, said):
    (tmp_path / "log.txt").write_text(f"Traceback\n{said}\n")
    error = child_job._died("read", ChildFault("", -6), tmp_path / "log.txt")
    assert isinstance(error, ConfigError)
    assert error.message == "read: memory ran out"
    assert error.reasons == (said,)


def test_a_killed_job_says_that_memory_ran_out(tmp_path):
    (tmp_path / "log.txt").touch()
    error = child_job._died("make", ChildFault("", -signal.SIGKILL), tmp_path / "log.txt")
    assert isinstance(error, ConfigError)
    assert "memory" in error.message
    assert error.hint


def test_the_jobs_of_the_table_exist():
    assert set(jobs.JOBS) == {"read", "check", "warm-states", "make", "sensitivity", "shrink"}
    assert all(callable(job) for job in jobs.JOBS.values())


def test_a_tools_output_never_reaches_the_terminal(tmp_path, capfd):
    with pytest.raises(EdgekitError):
        child_job.run_child_job("make", {"plan": {}}, tmp_path)
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")
    assert (tmp_path / "log.txt").stat().st_size


_SLEEPS = """
import os, sys, time
from pathlib import Path
Path("pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def _sleeper(folder, monkeypatch):
    """Have the job ``read`` of ``sleeper:build`` sleep in the user's code; ``pid`` is whose job it is."""
    pytest.importorskip("torch")
    (folder / "sleeper.py").write_text(_SLEEPS)
    monkeypatch.chdir(folder)
    return {"model": "sleeper:build", "shapes": {"": [1, 1]}}


def _awaited_pid(folder):
    for _ in range(600):
        if (folder / "pid").is_file() and (told := (folder / "pid").read_text()):
            return int(told)
        time.sleep(0.1)
    raise AssertionError((folder / "log.txt").read_text())


def _ends(pid):
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return True
        time.sleep(0.1)
    return False


def test_a_run_that_is_ended_kills_its_child_jobs(tmp_path, monkeypatch):
    task, running, caught = _sleeper(tmp_path, monkeypatch), child_job.Running(), []

    def work():
        with pytest.raises(EdgekitError) as told:
            child_job.run_child_job("read", task, tmp_path, running=running)
        caught.append(told.value)

    thread = threading.Thread(target=work)
    thread.start()
    pid = _awaited_pid(tmp_path)
    running.end()
    thread.join(10)
    assert not thread.is_alive()
    assert _ends(pid)
    with pytest.raises(EdgekitError):  # nothing begins any more
        child_job.run_child_job("read", task, tmp_path, running=running)


def test_a_child_job_does_not_outlive_a_killed_parent(tmp_path, monkeypatch):
    task = _sleeper(tmp_path, monkeypatch)
    code = "from pathlib import Path; from edgekit_optimize.run.child_job import *"
    call = f"{code}; run_child_job('read', {task}, Path())"
    parent = subprocess.Popen([sys.executable, "-c", call])
    try:
        pid = _awaited_pid(tmp_path)
    finally:
        parent.kill()
        parent.wait()
    ended = _ends(pid)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    assert ended


def test_an_exception_in_one_thread_stops_the_others():
    running, stopped, begun = child_job.Running(), threading.Event(), []

    def work(number):
        begun.append(number)
        if number == 1:
            raise KeyboardInterrupt
        with running.stopped_by(stopped.set):
            assert stopped.wait(10)
        return number

    with pytest.raises(KeyboardInterrupt):
        running.map(2, "work", work, [1, 2, 3, 4, 5, 6])
    assert 6 not in begun
    assert running.map(1, "work", str, [1, 2]) == ["1", "2"]
