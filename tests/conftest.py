"""Rules for the whole suite."""

import os

import pytest

_skipped: list[str] = []


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache and state."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("EDGEKIT_STATE", str(folder / "state"))


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(f"{report.nodeid}: {report.longrepr[2] if report.longrepr else ''}")


def pytest_sessionfinish(session):
    """Where everything can be installed, a skip is a failure."""
    if os.environ.get("CI") == "true" and _skipped and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if _skipped:
        terminalreporter.write_line("skipped:")
        for line in _skipped:
            terminalreporter.write_line(f"  {line}")
        if os.environ.get("CI") == "true":
            terminalreporter.write_line("CI skips nothing: the skips above are failures")
