"""The report of a whole machine: what ran, what failed, how long the speed lasts, and nothing personal."""

from __future__ import annotations

import getpass
import json
import re
import socket
from pathlib import Path

import msgspec
import pytest
from boards import AMD, RPI5, plant
from bundles import WRONG_OUTPUTS, make_bundle
from provers import Prover

from edgekit.bench.selftest import SelftestReport, selftest
from edgekit.cli.main import main
from edgekit.hardware.machine import machine_kind
from edgekit.hardware.tree import Tree
from edgekit.model.bundle import open_bundle

WRONG = {"id": "wrong", "backend": "null", "options": {"outputs": WRONG_OUTPUTS}}
ELSEWHERE = {"id": "elsewhere", "backend": "null", "requires": {"memory_mb": 1 << 30}}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alice") / "b"
    bundle = open_bundle(make_bundle(folder, more_variants=(WRONG, ELSEWHERE), options={"latency_ms": 1.0}))
    prover = Prover(fails={("onnxruntime", "cpu"): f"{folder}: cannot open for {socket.gethostname()}"})
    return selftest([bundle], 0.5, prover=prover)


def test_a_right_variant_has_figures_and_a_wrong_one_its_reason(report):
    (model,) = report.models
    rows = {row.id: row for row in model.variants}
    assert (model.model, model.golden, rows["null"].error) == ("motion", 1, None)
    assert rows["null"].p50_ms >= 1.0
    assert "golden" in rows["wrong"].error
    assert [failure.split(" of ")[0] for failure in report.failures] == ["wrong"]
    assert "memory" in rows["elsewhere"].error


def test_under_load_the_rate_is_read_again_and_again(report):
    endurance = report.endurance
    assert (endurance.model, endurance.variant) == ("motion", "null")
    assert endurance.seconds >= 0.5
    assert len(endurance.readings) >= 3
    assert all(reading.inferences_per_s > 0 for reading in endurance.readings)
    assert 0.5 < endurance.kept_ratio < 2.0


def test_the_report_names_no_host_user_or_folder(report):
    text = msgspec.json.encode(report).decode()
    assert "...: cannot open for ..." in text
    for private in ("alice", str(Path.home()), "/tmp/"):
        assert private not in text
    for name in (socket.gethostname(), getpass.getuser()):
        assert name not in re.findall(r"[\w-]+", text)


def test_a_report_is_read_back_as_it_was_written(report):
    assert msgspec.json.decode(msgspec.json.encode(report), type=SelftestReport) == report


def test_without_a_bundle_or_a_runtime_the_report_still_says_what_the_machine_is():
    every = {(name, "cpu"): f"{name} is not installed" for name in ("litert", "onnxruntime", "openvino")}
    report = selftest([], 0.2, prover=Prover(fails=every))
    assert (report.models, report.endurance) == ((), None)
    assert report.facts.cores >= 1
    assert report.profile


def test_without_a_bundle_the_load_is_a_tiny_model_of_a_runtime_that_works():
    report = selftest([], 0.2, prover=Prover())
    assert report.endurance.model == "relu"
    assert report.endurance.readings[0].inferences_per_s > 100


def test_the_command_writes_the_file_and_ends_with_4_where_a_variant_is_wrong(tmp_path, capsys):
    bundle, out = make_bundle(tmp_path / "b", more_variants=(WRONG,)), tmp_path / "report.json"
    code = main(["selftest", str(bundle), "--report", str(out), "--seconds", "0.2", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == 4
    assert document == json.loads(out.read_text())
    assert document["format"] == 1


@pytest.mark.parametrize(
    ("files", "machine", "kind"),
    [
        (RPI5, "aarch64", "board"),
        (AMD, "aarch64", "emulated"),
        (AMD, "x86_64", "board"),
        (
            AMD | {"/proc/cpuinfo": AMD["/proc/cpuinfo"].replace(" avx2", " avx2 hypervisor")},
            "x86_64",
            "virtual",
        ),
        (AMD | {"/sys/class/dmi/id/sys_vendor": "QEMU\n"}, "x86_64", "virtual"),
        (RPI5 | {"/proc/device-tree/compatible": "linux,dummy-virt\0"}, "aarch64", "virtual"),
    ],
)
def test_a_machine_that_is_no_board_says_so(tmp_path, files, machine, kind):
    assert machine_kind(Tree(plant(tmp_path, files)), machine) == kind
