"""The seam to a foreign interpreter: whatever happens to the worker is an error here and no more."""

from __future__ import annotations

import ast
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from other_pythons import foreign_python, other_pythons

from edgekit.backends import FOREIGN_TENANTS, open_backend, tiny
from edgekit.backends import foreign as foreign_module
from edgekit.core.errors import (
    AcceleratorLostError,
    BackendUnavailableError,
    InferenceError,
    ModelLoadError,
)
from edgekit.core.spec import Variant

FOLDER = Path(foreign_module.__file__).parent
VARIANT = Variant(id="far", backend="foreign")
ECHO = Path(__file__).parent / "echo_tenant.py"
MODEL = tiny.tiny_model("foreign")


def open_echo(python: str = "", **options):
    faults = {key: options.pop(key) for key in list(options) if key.endswith("_at")}
    settings = {"tenant": "echo", "python": python or foreign_python(), "tenant_options": faults, **options}
    return open_backend(MODEL, VARIANT, settings)


@pytest.mark.parametrize("python", other_pythons() or [sys.executable])
def test_every_other_python_on_this_machine_can_be_a_worker(python):
    backend = open_echo(python)
    found = backend.infer({"x": np.array([tiny.INPUTS], np.float32)})["y"]
    assert found.ravel().tolist() == list(tiny.expected())
    backend.close()


def test_worker_and_tenants_are_written_for_python_3_6():
    for path in [
        FOLDER / "foreign_worker.py",
        ECHO,
        *(FOLDER / "tenants" / name for name in FOREIGN_TENANTS.values()),
    ]:
        tree = ast.parse(path.read_text(), feature_version=(3, 6))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name and name.startswith(("edgekit", "__future__")) for name in names), path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash_at", "SIGKILL"),
        ("garbage_at", "does not keep the protocol"),
        ("hang_at", "was not done within 0.5 s"),
    ],
)
def test_a_worker_that_dies_hangs_or_babbles_is_a_lost_accelerator(fault, words):
    backend = open_echo(**{fault: 3})
    backend.run()
    backend.run()
    backend._timeout_s = 0.5  # not before: a busy machine takes its time for a run that is well
    pid = backend.pid
    with pytest.raises(AcceleratorLostError, match=words):
        backend.run()
    with pytest.raises(AcceleratorLostError, match="has ended"):
        backend.run()
    assert not Path(f"/proc/{pid}").exists()
    backend.close()
    backend.close()


def test_a_worker_killed_in_the_middle_of_a_run_is_a_lost_accelerator():
    backend = open_echo(timeout_s=30, hang_at=1)
    killer = threading.Timer(0.1, os.kill, (backend.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(AcceleratorLostError, match="SIGKILL"):
        backend.run()
    killer.join()
    backend.close()


def test_after_a_loss_opening_again_starts_a_new_worker():
    backend = open_echo(crash_at=1)
    with pytest.raises(AcceleratorLostError):
        backend.run()
    backend.close()
    again = open_echo()
    assert again.infer({"x": np.array([tiny.INPUTS], np.float32)})["y"].ravel().tolist() == list(
        tiny.expected()
    )
    again.close()


def test_one_failed_inference_leaves_the_worker_alive():
    backend = open_echo(fail_at=2)
    backend.run()
    with pytest.raises(InferenceError, match="scripted to fail"):
        backend.run()
    backend.run()
    backend.reset()
    backend.close()


def test_a_tenant_that_says_lost_ends_the_worker():
    backend = open_echo(lose_at=1)
    with pytest.raises(AcceleratorLostError, match="scripted to lose"):
        backend.run()
    with pytest.raises(AcceleratorLostError, match="has ended"):
        backend.reset()
    backend.close()


def test_an_idle_worker_that_died_is_noticed_by_the_next_request():
    backend = open_echo()
    backend.reset()
    os.kill(backend.pid, signal.SIGKILL)
    with pytest.raises(AcceleratorLostError, match="SIGKILL"):
        backend.reset()
    backend.close()


def test_close_leaves_no_process_and_no_descriptor():
    open_echo().close()
    gc.collect()  # what other tests left to it would be closed meanwhile
    before = len(list(Path("/proc/self/fd").iterdir()))
    for fault in ({}, {"crash_at": 1}, {"garbage_at": 1}):
        backend = open_echo(**fault)
        pid = backend.pid
        if fault:
            with pytest.raises(AcceleratorLostError):
                backend.run()
        backend.close()
        assert not Path(f"/proc/{pid}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_worker_ends_when_its_parent_is_killed(is_busy):
    code = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from edgekit.backends import foreign, open_backend\n"
        "from edgekit.core.spec import Variant\n"
        "foreign.FOREIGN_TENANTS = {'echo': sys.argv[4]}\n"
        "backend = open_backend(Path(sys.argv[1]), Variant(id='far', backend='foreign'),\n"
        "    {'tenant': 'echo', 'python': sys.argv[2], 'tenant_options': {'hang_at': 1}})\n"
        "if sys.argv[3] == 'True':\n"
        "    threading.Thread(target=backend.run, daemon=True).start()\n"
        "    time.sleep(0.2)\n"
        "print(backend.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(MODEL), foreign_python(), str(is_busy), str(ECHO)],
        capture_output=True,
        text=True,
        check=False,
        cwd=FOLDER.parents[1],
    )
    worker = int(done.stdout)
    waited = threading.Event()
    for _ in range(1200):
        if not _is_running(worker):
            return
        waited.wait(0.05)
    pytest.fail(f"worker {worker} outlived its parent")


def _is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"python": "/nowhere/python3"}, "not there or not executable"),
        ({"python": "/bin/false"}, "does not start a worker"),
        ({"python": "/etc/passwd"}, "not there or not executable"),
        ({"tenant": "nobody"}, "no tenant 'nobody'"),
    ],
)
def test_what_cannot_start_is_unavailable_with_a_reason(options, words):
    with pytest.raises(BackendUnavailableError, match=words):
        open_backend(MODEL, VARIANT, {"tenant": "echo", "python": sys.executable, **options})


@pytest.mark.parametrize("tenant", ["myriad", "tensorrt"])
def test_a_vendor_library_that_is_not_there_is_unavailable(tenant):
    clean = foreign_python()
    with pytest.raises((BackendUnavailableError, ModelLoadError), match=f"{tenant} worker of"):
        open_backend(MODEL, VARIANT, {"tenant": tenant, "python": clean})


def test_threads_of_a_closed_backend_are_gone():
    backend = open_echo()
    backend.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log-")]
