"""Jobs in processes of their own: results, errors and deaths come back as what they are."""

import signal

import pytest

from edgekit.core.errors import ConfigError, EdgekitError, ModelError, UsageError
from edgekit.optimize import jobs, steps


def test_an_error_comes_back_as_the_error_it_was(tmp_path):
    with pytest.raises(UsageError) as caught:
        steps.run_step("read", {"model": "no-such-model.xyz", "shapes": {}}, tmp_path)
    assert "no-such-model.xyz" in caught.value.message
    assert caught.value.reasons


def test_a_broken_job_is_told_with_the_end_of_its_log(tmp_path):
    with pytest.raises(ModelError, match="died") as caught:
        steps.run_step("make", {}, tmp_path)
    assert any("KeyError" in line for line in caught.value.reasons)
    assert "KeyError" in (tmp_path / "log.txt").read_text()


def test_a_killed_job_says_that_memory_ran_out(tmp_path):
    error = steps._died("make", -signal.SIGKILL, tmp_path / "log.txt")
    assert isinstance(error, ConfigError)
    assert "memory" in error.message
    assert error.hint


def test_every_error_class_survives_the_way(tmp_path):
    for kind in _every(EdgekitError):
        if kind.__module__ != EdgekitError.__module__:
            continue  # a test's or the fleet's own
        found = steps._error(steps._tell(kind("what", reasons=("why",), hint="way out")))
        assert type(found) is kind
        assert (found.message, found.reasons, found.hint) == ("what", ("why",), "way out")


def test_the_jobs_of_the_table_exist():
    assert set(jobs.JOBS) == {"read", "check", "make", "sensitivity", "shrink"}
    assert all(callable(job) for job in jobs.JOBS.values())


def test_what_a_tool_prints_never_reaches_the_terminal(tmp_path, capfd):
    with pytest.raises(EdgekitError):
        steps.run_step("make", {"plan": {}}, tmp_path)
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")
    assert (tmp_path / "log.txt").stat().st_size


def _every(kind):
    yield kind
    for child in kind.__subclasses__():
        yield from _every(child)
