"""Ready for the Edge TPU or not, operation by operator; and what its compiler says."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.quantize import observe, quantize
from edgekit_optimize.graph.tflite import write_tflite
from edgekit_optimize.makers.edgetpu import compile_file, left_on_cpu, readiness

from .nets import conv, dense

LOG = """Edge TPU Compiler version 16.0.384591198
Input model: model.tflite
On-chip memory used for caching model parameters: 4.31MiB
Off-chip memory used for streaming uncached model parameters: 0.00B

Operator                       Count      Status

CONV_2D                        33         Mapped to Edge TPU
"""
ROWS = "HARD_SWISH  2   Operation is not supported\nSOFTMAX  1   More than one subgraph is not supported\n"


def int8(*layers, shape=(1, 8, 8, 4), keep=(), **options):
    network = Network({"x": shape}, layers, (layers[-1].output,))
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(4)]
    options.setdefault("dense_per_channel", False)
    return write_tflite(network, quantize(network, observe(network, samples), keep_float=keep, **options))


def weights(*shape):
    return np.random.default_rng(1).normal(0, 0.4, shape).astype(np.float32)


def test_a_plain_classifier_is_ready():
    data = int8(
        conv("a", "x", weights(6, 3, 3, 4), activation="relu6"),
        conv("b", "a", weights(1, 3, 3, 6), kind="depthwise"),
        Layer("max_pool", ("b",), "c", window=(2, 2), stride=(2, 2)),
        Layer("mean", ("c",), "d"),
        dense("e", "d", weights(5, 6)),
        Layer("softmax", ("e",), "y"),
    )
    found = readiness(data)
    assert found.ready
    assert [verdict.operator for verdict in found.operators][:2] == ["CONV_2D", "DEPTHWISE_CONV_2D"]
    assert "all 6 operations" in found.sentence()
    assert found.reasons() == ()


NOT_READY = {
    "not among the supported": int8(Layer("hard_swish", ("x",), "y")),
    "dilation differs": int8(conv("y", "x", weights(6, 3, 3, 4), dilation=(2, 1))),
    "has groups": int8(conv("y", "x", weights(6, 3, 3, 2))),
    "is dilated": int8(conv("y", "x", weights(1, 3, 3, 4), kind="depthwise", dilation=(2, 2))),
    "reduces more than height and width": int8(Layer("mean", ("x",), "y", axes=(1, 3))),
    "pads more than": int8(Layer("pad", ("x",), "y", pads=((0, 0), (0, 0), (0, 0), (1, 1)))),
    "only one row is supported": int8(Layer("softmax", ("x",), "y")),
    "not 8 bits": int8(conv("y", "x", weights(6, 1, 1, 4)), keep=("y",)),
    "more than three axes": int8(Layer("reshape", ("x",), "y", shape=(2, 4, 8, 4))),
    "more than one axis": int8(Layer("reshape", ("x",), "r", shape=(64, 4)), dense("y", "r", weights(5, 4))),
    "one scale per output": int8(
        Layer("mean", ("x",), "m"), dense("y", "m", weights(5, 4)), dense_per_channel=True
    ),
    "its steps are not 1": int8(
        Layer("slice", ("x",), "y", starts=(0, 0, 0, 0), shape=(1, 4, 8, 4), steps=(1, 2, 1, 1))
    ),
}


@pytest.mark.parametrize("reason", NOT_READY)
def test_an_operation_that_the_edge_tpu_does_not_run_has_a_reason(reason):
    found = readiness(NOT_READY[reason])
    assert not found.ready
    assert reason in " ".join(found.reasons())
    assert "not ready" in found.sentence()


def test_a_float_file_is_not_ready():
    network = Network({"x": (1, 8, 8, 4)}, (conv("y", "x", weights(6, 3, 3, 4)),), ("y",))
    assert readiness(write_tflite(network)).reasons()[0].endswith("is float32, not 8 bits")


def test_a_file_that_is_none_is_refused():
    with pytest.raises(ModelError, match="TFL3"):
        readiness(b"nothing")


def test_a_compilers_table_tells_what_stays_on_the_cpu():
    assert left_on_cpu(LOG) == []
    assert left_on_cpu(LOG + ROWS) == [
        ("HARD_SWISH", 2, "Operation is not supported"),
        ("SOFTMAX", 1, "More than one subgraph is not supported"),
    ]


def compiler(folder: Path, log: str, code: int = 0, out: str = "compiled") -> str:
    """Return a program that says and does what Coral's compiler does."""
    (folder / "log").write_text(log)
    program = folder / "edgetpu_compiler"
    write = f'printf {out} > "$5/model_edgetpu.tflite"' if out else ":"
    program.write_text(f"#!/bin/sh\ncat {folder}/log\n{write}\nexit {code}\n")
    os.chmod(program, 0o755)  # noqa: PTH101 - a script that must run
    return str(program)


def test_a_file_that_maps_whole_is_returned_with_what_the_compiler_says_of_memory(tmp_path):
    found = compile_file(b"model", compiler(tmp_path, LOG))
    assert found.data == b"compiled"
    assert found.notes[0] == "On-chip memory used for caching model parameters: 4.31MiB"


def test_operations_left_on_the_cpu_are_an_error_that_names_them(tmp_path):
    with pytest.raises(ModelError, match="leaves 3 operations on the CPU") as caught:
        compile_file(b"model", compiler(tmp_path, LOG + ROWS))
    assert caught.value.reasons[0] == "2 x HARD_SWISH: Operation is not supported"


def test_a_compiler_that_fails_or_does_not_run_is_an_error(tmp_path):
    data = NOT_READY["has groups"]
    with pytest.raises(ModelError, match="Invalid model") as caught:
        compile_file(data, compiler(tmp_path, "Invalid model: model.tflite", 1, ""))
    assert "has groups" in caught.value.reasons[0]
    with pytest.raises(BackendUnavailableError, match="does not run"):
        compile_file(data, str(tmp_path / "nothing"))
