"""The null backend does what its script says, every time the same."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.errors import AcceleratorLostError, ConfigError, InferenceError
from edgekit.core.spec import Variant
from edgekit.testing import null_backend, null_variant


def test_outputs_are_the_constants_of_the_script():
    backend = null_backend(outputs={"y": {"datatype": "INT8", "shape": [1, 3], "value": [[1, -2, 3]]}})
    found = backend.run()["y"]
    assert found.dtype == np.int8
    assert found.tolist() == [[1, -2, 3]]


def test_latency_is_at_least_what_the_script_says():
    backend = null_backend(latency_ms=20)
    begun = time.perf_counter()
    backend.run()
    assert time.perf_counter() - begun >= 0.02


def test_jitter_is_the_same_for_the_same_seed():
    delays = [
        [null._delay_s() for _ in range(5)] for null in (null_backend(jitter_ms=9, seed=3) for _ in range(2))
    ]
    assert delays[0] == delays[1]
    assert len(set(delays[0])) == 5


def test_a_scripted_failure_hits_its_run_and_no_other():
    backend = null_backend(fail_at=[2, 4])
    outcomes = []
    for _ in range(5):
        try:
            backend.run()
            outcomes.append("ok")
        except InferenceError:
            outcomes.append("failed")
    assert outcomes == ["ok", "failed", "ok", "failed", "ok"]


def test_a_lost_accelerator_stays_lost():
    backend = null_backend(lose_at=2)
    backend.run()
    for _ in range(3):
        with pytest.raises(AcceleratorLostError):
            backend.run()


@pytest.mark.parametrize(
    "options",
    [
        {"fail_at": 0},
        {"fail_at": ["x"]},
        {"outputs": {"y": {"datatype": "FP99", "shape": [1]}}},
        {"inputs": {"x": {}}},
    ],
)
def test_a_script_that_makes_no_sense_is_a_configuration_error(options):
    with pytest.raises(ConfigError):
        null_backend(**options)


def test_the_variant_needs_no_file():
    variant = null_variant("quick", accelerator="npu")
    assert variant == Variant(id="quick", backend="null", accelerator="npu")
    assert not Path("/dev/null").is_file()
