"""``edgekit doctor``: what it prints, for people and for programs, and how it ends."""

import json
import os
import subprocess
import sys

from boards import CORAL_STICK, EDGETPU_LIBRARY, RPI4, RPI5, plant
from provers import Prover

from edgekit.backends import probe
from edgekit.cli import doctor as command
from edgekit.core.errors import UsageError

KEYS = ["profile", "board", "arch", "cores", "memory_mb", "accelerators", "backends", "warnings", "decoders"]
BACKEND_KEYS = ["name", "version", "accelerator", "works", "ms", "reason"]


def run_doctor(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "edgekit.cli.main", "doctor", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(env or {})},
    )


def test_doctor_on_this_machine_proves_the_cpu_backends_and_prints_one_document():
    """A real child process, real runtimes; nothing but the document is on stdout."""
    done = run_doctor("--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert list(document) == KEYS
    assert all(list(backend) == BACKEND_KEYS for backend in document["backends"])
    works = {b["name"] for b in document["backends"] if b["works"] and b["accelerator"] == "cpu"}
    assert works == {"litert", "onnxruntime", "openvino"}
    assert all(b["ms"] > 0 and b["version"] for b in document["backends"] if b["works"])
    assert document["cores"] >= 1
    assert document["memory_mb"] > 0


def test_doctor_reads_a_captured_board_and_says_that_its_accelerators_are_not_proved(tmp_path):
    root = plant(tmp_path, RPI5 | CORAL_STICK | EDGETPU_LIBRARY)
    done = run_doctor("--json", "--sysfs-root", str(root))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["profile"] == "rpi5-coral-usb"
    tpu = next(b for b in document["backends"] if b["accelerator"] == "edgetpu")
    assert (tpu["works"], tpu["reason"]) == (False, "not proved: captured facts")
    assert any(b["works"] for b in document["backends"] if b["accelerator"] == "cpu")
    assert any("captured" in w or "read below" in w for w in document["warnings"])


def test_doctor_reads_as_plain_text(tmp_path):
    root = plant(tmp_path, RPI5 | CORAL_STICK)
    done = run_doctor("--sysfs-root", str(root))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "board     Raspberry Pi 5 Model B Rev 1.0"
    assert "now       51.2 C, clock at 62%, not throttled" in lines
    assert any("NO  library     libedgetpu.so.1 is not installed" in line for line in lines)
    assert any("fix: install libedgetpu1-std" in line for line in lines)
    assert "\x1b" not in done.stdout
    assert max(map(len, lines[:8])) < 120


def test_doctor_dumps_what_it_read(tmp_path):
    root = plant(tmp_path / "board", RPI4)
    done = run_doctor("--json", "--sysfs-root", str(root), "--dump", str(tmp_path / "board.tar.gz"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "board.tar.gz").stat().st_size > 500


def test_a_dump_that_cannot_be_written_is_a_clear_error(tmp_path):
    root = plant(tmp_path / "board", RPI4)
    done = run_doctor("--sysfs-root", str(root), "--dump", str(tmp_path / "none" / "board.tar.gz"))
    assert done.returncode == 3
    assert "No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_root_that_is_no_folder_is_a_usage_error(tmp_path):
    done = run_doctor("--sysfs-root", str(tmp_path / "none"))
    assert done.returncode == UsageError.exit_code
    assert "there is no such folder" in done.stderr


def test_doctor_exits_with_5_where_no_backend_works(tmp_path, monkeypatch):
    rows = {(name, "cpu"): "is not installed" for name in ("litert", "onnxruntime", "openvino")}
    prover = Prover(rows)
    monkeypatch.setattr(probe, "prove", prover)
    args = command.argparse.Namespace(sysfs_root=plant(tmp_path, RPI5), dump=None)
    report = command.run(args)
    assert report.exit_code == 5
    assert [b["reason"] for b in report.document["backends"]].count("is not installed") == 3
    assert any("edgekit-runtime[litert]" in w for w in report.document["warnings"])


def test_where_every_backend_crashes_doctor_says_so_and_does_not_say_install(tmp_path, monkeypatch):
    crash = "crashed with SIGILL; fix: install a build of this library for this processor"
    rows = {(name, "cpu"): crash for name in ("litert", "onnxruntime", "openvino")}
    monkeypatch.setattr(probe, "prove", Prover(rows))
    report = command.run(command.argparse.Namespace(sysfs_root=plant(tmp_path, RPI5), dump=None))
    assert report.exit_code == 5
    assert sum(crash in w for w in report.document["warnings"]) == 3
    assert any("is installed and failed its proof" in w for w in report.document["warnings"])
    assert "pip install" not in report.text
