"""A backend without a runtime: scripted outputs, latency and faults, the same in every run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.backends._common import OpenModel, short
from edgekit.base.dtypes import DTYPES
from edgekit.core.errors import AcceleratorLostError, ConfigError, InferenceError
from edgekit.core.ports import ModelData
from edgekit.core.spec import TensorSpec, Variant

_DEFAULT_INPUTS = {"x": {"datatype": "FP32", "shape": [1, 16]}}
_DEFAULT_OUTPUTS = {"y": {"datatype": "FP32", "shape": [1, 4]}}
_FAULTS = ("fail_at", "lose_at", "hang_at", "crash_at")


class NullBackend(OpenModel):
    """Returns constant outputs after a scripted time, with scripted faults.

    Options: ``inputs`` and ``outputs`` map a name to ``{"datatype", "shape"}`` and, for an output,
    ``"value"`` (a number, or nested lists of that shape); ``latency_ms`` of a run, plus up to
    ``jitter_ms`` from a generator seeded with ``seed``; ``load_ms`` of the constructor. These are run
    numbers from 1, one or a list: ``fail_at`` raises ``InferenceError``, ``lose_at`` raises
    ``AcceleratorLostError`` from then on, ``hang_at`` never returns, ``crash_at`` kills the process with
    SIGSEGV. ``keeps_state`` says that the model keeps state from run to run.
    """

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        del data  # there is no file to read
        super().__init__(f"null variant {variant.id!r}")
        self._options = options
        self._faults = {name: _run_numbers(name, options.get(name, ())) for name in _FAULTS}
        self._random = random.Random(int(options.get("seed", 0)))  # noqa: S311 - repeatable on purpose
        self._runs = 0
        self.accelerator = variant.accelerator
        self.keeps_state = bool(options.get("keeps_state", False))
        self.inputs, self._arrays = _tensors(options.get("inputs", _DEFAULT_INPUTS))
        self.outputs, self._results = _tensors(options.get("outputs", _DEFAULT_OUTPUTS))
        time.sleep(float(options.get("load_ms", 0.0)) / 1e3)

    def run(self) -> dict[str, NDArray[Any]]:
        """Return the scripted outputs, or the scripted fault of this run."""
        self._require_open()
        self._runs += 1
        if self._faults["lose_at"] and self._runs >= min(self._faults["lose_at"]):
            raise AcceleratorLostError(f"{self._name}: run {self._runs} is scripted to lose the accelerator")
        if self._runs in self._faults["fail_at"]:
            raise InferenceError(f"{self._name}: run {self._runs} is scripted to fail")
        if self._runs in self._faults["crash_at"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        while self._runs in self._faults["hang_at"]:
            time.sleep(1.0)
        if delay_s := self._delay_s():  # even a sleep of 0 s lets another thread run
            time.sleep(delay_s)
        return {name: array.copy() for name, array in self._results.items()}

    def _delay_s(self) -> float:
        jitter_ms = float(self._options.get("jitter_ms", 0.0)) * self._random.random()
        return (float(self._options.get("latency_ms", 0.0)) + jitter_ms) / 1e3


def _run_numbers(name: str, value: Any) -> frozenset[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise ConfigError(f"option {name!r}: want run numbers from 1, got {value!r}")
    return frozenset(numbers)


def _tensors(
    described: Mapping[str, Mapping[str, Any]],
) -> tuple[tuple[TensorSpec, ...], dict[str, NDArray[Any]]]:
    specs, arrays = [], {}
    for name, row in described.items():
        try:
            spec = TensorSpec(name=name, datatype=row["datatype"], shape=tuple(row["shape"]))
            shape = tuple(1 if size < 0 else size for size in spec.shape)
            values = np.asarray(row.get("value", 0), DTYPES[spec.datatype])
            arrays[name] = np.array(np.broadcast_to(values, shape))
        except (KeyError, TypeError, ValueError) as cause:
            raise ConfigError(
                f"tensor {name!r} of a null variant: {short(cause)}",
                hint='want {"datatype": "FP32", "shape": [1, 4], "value": 0}',
            ) from cause
        specs.append(spec)
    return tuple(specs), arrays
