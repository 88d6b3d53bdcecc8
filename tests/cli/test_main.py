import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit.backends.tiny
from edgekit.cli.main import commands, main

TINY = Path(edgekit.backends.tiny.__file__).parent


def edgekit_command(*words):
    return subprocess.run(
        [sys.executable, "-m", "edgekit.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert "example:" in capsys.readouterr().out


def test_an_unknown_command_is_a_usage_error(capsys):
    assert main(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err


_HEAVY = """
import sys
from edgekit.cli.main import main
main(["--help"])
print([name for name in ("numpy", "onnxruntime", "openvino", "cv2", "paho") if name in sys.modules])
"""


def test_help_imports_no_runtime():
    done = subprocess.run([sys.executable, "-c", _HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_error_is_one_document_on_stdout_and_a_text_on_stderr(tmp_path):
    done = edgekit_command("verify", tmp_path / "nothing", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["code"] == "model.bundle"
    assert "fix:" in done.stderr


def test_bench_measures_each_variant_in_its_own_process_and_selection_uses_it():
    done = edgekit_command("bench", TINY / "relu.onnx", "--seconds", "0.3", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [row["error"] for row in document["variants"]] == [None, None]
    fastest = min(document["variants"], key=lambda row: row["p50_ms"])
    assert document["chosen"] == fastest["id"]
    explained = json.loads(edgekit_command("explain", TINY / "relu.onnx", "--json").stdout)
    assert explained["chosen"] == fastest["id"]
    assert "measurement on this device" in explained["why"]


def test_bench_says_what_is_wrong_with_a_corrupt_model(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"not a model" * 50)
    done = edgekit_command("bench", tmp_path / "broken.tflite", "--seconds", "0.3", "--json")
    document = json.loads(done.stdout)
    assert all("broken.tflite" in row["error"] for row in document["variants"])
    assert (done.returncode, document["chosen"]) == (4, None)
    explained = edgekit_command("explain", tmp_path / "broken.tflite", "--json")
    assert (explained.returncode, json.loads(explained.stdout)["chosen"]) == (4, None)
