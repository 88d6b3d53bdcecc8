"""Rules for the whole suite."""

import ctypes
import fcntl
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import httpx
import hypothesis
import pytest

from edgekit.model.doctor import facts_with_proofs

sys.path[:0] = [
    str(Path(__file__).parent / "kit"),
    str(Path(__file__).parent),
]  # bundles and networks that several folders use

_skipped: list[str] = []
_count = itertools.count()
_LONG = (
    "tests/e2e/",
    "tests/optimize/run/",
    "tests/optimize/shrink/",
    "tests/pipeline/test_rtsp.py",
    "tests/zoo/",
    "tests/sync/",
    "tests/agent/",
    "tests/fleet/",
    "tests/benchmarks/",
    "tests/cli/",
    "tests/importer/",
    "tests/optimize/",
    "tests/serve/",
    "tests/examples/",
)
_OPEN_MODELS = (
    "agent",
    "bench",
    "benchmarks",
    "cli",
    "docs",
    "e2e",
    "examples",
    "importer",
    "model",
    "optimize",
    "pipeline",
    "recordings",
    "serve",
    "zoo",
)


class _SignalStack(ctypes.Structure):
    """The ``stack_t`` of sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None)


def pytest_configure():
    """No example is a failure for the time that a busy machine takes for it, no answer after httpx's 5 s."""
    waits = httpx._config.DEFAULT_TIMEOUT_CONFIG  # every function's default argument: one object
    waits.connect = waits.read = waits.write = waits.pool = 60.0
    hypothesis.settings.register_profile(
        "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("busy machine")


def pytest_collection_modifyitems(items):
    """Long files come first, so that at the end no process of ./check waits for a long one."""
    items.sort(
        key=lambda item: next(
            (n for n, start in enumerate(_LONG) if item.nodeid.startswith(start)), len(_LONG)
        )
    )


def _folder(item):
    """Return the name of the folder below tests/ that a test is in."""
    return item.path.relative_to(Path(__file__).parent).parts[0]


def _point_at(folder, patch):
    folder.mkdir()
    patch.setenv("COLUMNS", "80")  # whatever terminal this runs in
    patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
    patch.setenv("EDGEKIT_STATE", str(folder / "state"))


@pytest.fixture(scope="session")
def _homes(tmp_path_factory):
    """A folder of the tests' homes: pytest's own lists all of its folders for each one that it makes."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="session", autouse=True)
def _no_users_folders(_homes):
    """No fixture that serves several tests reads or writes the user's cache and state."""
    with pytest.MonkeyPatch.context() as patch:
        _point_at(_homes / "session", patch)
        yield


@pytest.fixture(scope="session")
def _proofs(tmp_path_factory, _no_users_folders):
    """Prove this machine's backends, once for all processes of a run; return the file of the proofs."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    proved = folder / "proved" / "facts.json"
    proved.parent.mkdir(exist_ok=True)
    with (folder / "proved.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not proved.exists():
            patch.setenv("EDGEKIT_CACHE", str(proved.parent))
            facts_with_proofs()
    return proved


@pytest.fixture(scope="session")
def proved_cache(tmp_path_factory, _proofs):
    """Return a function that makes a cache folder in which this machine's backends are proved."""

    def make():
        folder = tmp_path_factory.mktemp("cache")
        shutil.copy(_proofs, folder)
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def _first_signal_stack():
    stack = _SignalStack()
    assert _libc.sigaltstack(None, ctypes.byref(stack)) == 0
    return stack


@pytest.fixture(autouse=True)
def _a_signal_stack_that_exists(_first_signal_stack):
    """OpenVINO, called in the tests' own thread by the compression kit's makers, leaves it a freed one.

    The next signal, in a test of something else, would then end the whole process. edgekit's backend opens
    and frees OpenVINO's models in a thread of its own, and the kit runs its makers in child processes.
    """
    yield
    assert _libc.sigaltstack(ctypes.byref(_first_signal_stack), None) == 0


@pytest.fixture(autouse=True)
def _own_folders(request, _homes, monkeypatch):
    """No test reads or writes what another one has; proofs of the backends are there, where it opens any."""
    home = _homes / str(next(_count))
    _point_at(home, monkeypatch)
    if _folder(request.node) in _OPEN_MODELS:
        (home / "cache").mkdir()
        shutil.copy(request.getfixturevalue("_proofs"), home / "cache")


@pytest.fixture
def short_path():
    """A folder for UNIX sockets, whose paths have 108 characters, wherever ``tmp_path`` lies."""
    with tempfile.TemporaryDirectory(prefix="ek-", dir="/tmp") as folder:
        yield Path(folder)


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
