"""A backend in another Python, where the vendor ties its library to one: MYRIAD, TensorRT on a Jetson.

The worker (``foreign_worker.py``) and its tenant run in the configured interpreter. Requests go through
two pipes, tensors through shared memory. A worker that dies, hangs or breaks the protocol is an
``AcceleratorLostError`` here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.backends import FOREIGN_TENANTS
from edgekit.backends._common import (
    ModelSource,
    OpenModel,
    cache_folder,
    fixed_shape,
    short,
    thread_count,
)
from edgekit.backends._worker_process import WorkerFault, WorkerProcess
from edgekit.base.dtypes import DTYPES
from edgekit.core.errors import (
    AcceleratorLostError,
    BackendError,
    BackendUnavailableError,
    InferenceError,
    ModelLoadError,
)
from edgekit.core.spec import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgekit.core.ports import ModelData
    from edgekit.core.spec import Variant

_DEFAULT_PYTHON = "/usr/bin/python3"  # where a board's packages put a vendor's bindings
_START_TIMEOUT_S = 600.0  # TensorRT builds an engine for minutes on a small board
_RUN_TIMEOUT_S = 10.0
_ALIGNMENT = 64
_ERRORS: Mapping[str, type[BackendError]] = MappingProxyType(
    {
        "unavailable": BackendUnavailableError,
        "load": ModelLoadError,
        "inference": InferenceError,
        "lost": AcceleratorLostError,
    }
)


class ForeignBackend(OpenModel):
    """Runs one model through a tenant in another interpreter.

    Options: ``python`` (the interpreter, by default ``/usr/bin/python3``), ``tenant`` (``myriad`` or
    ``tensorrt``, by default the accelerator's name), ``tenant_options``, ``device``, ``cache`` (a
    folder for compiled engines), ``threads``, ``shapes``, ``start_timeout_s`` (load, by default 600),
    ``timeout_s`` (one run, by default 10).
    """

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        path = ModelSource(data, variant).file("a foreign interpreter")
        self._timeout_s = float(options.get("timeout_s", _RUN_TIMEOUT_S))
        tenant = _tenant_file(variant, options)
        super().__init__(f"{tenant.stem} worker of {path}")
        request = _load_request(path, variant, options)
        self._process: WorkerProcess | None = _start(_interpreter(options), tenant)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            loaded = self._ask(request, float(options.get("start_timeout_s", _START_TIMEOUT_S)))
            self.inputs, self.outputs = self._specs(loaded, "inputs"), self._specs(loaded, "outputs")
            for spec in self.inputs:
                fixed_shape(spec.name, spec.shape, {"batch": options.get("batch", 1)})  # refuses another
            self.accelerator = str(loaded.get("accelerator", ""))
            self.version = str(loaded.get("version", ""))
            self._map()
            undo.pop_all()

    def run(self) -> dict[str, NDArray[Any]]:
        """Run in the worker; arrays by output name, valid until the next ``run``."""
        self._ask({"op": "run"}, self._timeout_s)
        return self._results.copy()

    def reset(self) -> None:
        """Forget the state that a recurrent model keeps inside."""
        self._ask({"op": "reset"}, self._timeout_s)

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None after ``close``."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the worker; safe to call twice."""
        super().close()
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._require_open()
        assert self._process is not None
        try:
            answer = self._process.ask(request, timeout_s)
        except WorkerFault as fault:
            raise AcceleratorLostError(
                f"{self._name}: {fault}", hint="open the model again: a new worker starts"
            ) from fault
        if "ok" in answer:
            body: dict[str, Any] = answer["ok"]
            return body
        kind, message = answer["error"]["kind"], short(answer["error"]["message"])
        if kind == "lost":
            self._process.kill()
        raise _ERRORS.get(kind, InferenceError)(f"{self._name}: {message}")

    def _specs(self, loaded: Mapping[str, Any], side: str) -> tuple[TensorSpec, ...]:
        try:
            specs = msgspec.convert(loaded[side], tuple[TensorSpec, ...])
        except (KeyError, msgspec.ValidationError) as cause:
            raise AcceleratorLostError(f"{self._name}: its {side} are malformed: {short(cause)}") from cause
        for spec in specs:
            if spec.datatype not in DTYPES or any(size < 0 for size in spec.shape):
                raise ModelLoadError(
                    f"{self._name}: {spec.name!r} is {spec.datatype} {list(spec.shape)}: cannot be shared",
                    hint="state options.shapes, or convert the model so that its tensors are numbers",
                )
        return specs

    def _map(self) -> None:
        """Place the tensors in shared memory, each on its own cache lines."""
        offset = 0
        rows: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            for spec in specs:
                size = int(np.prod(spec.shape, dtype=np.int64)) * DTYPES[spec.datatype].itemsize
                rows[side].append({"name": spec.name, "offset": offset, "bytes": size})
                offset += -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        assert self._process is not None
        memory = self._process.share(offset)
        self._ask({"op": "map", "bytes": offset, **rows}, self._timeout_s)
        for side, specs, arrays in (
            ("inputs", self.inputs, self._arrays),
            ("outputs", self.outputs, self._results),
        ):
            for spec, row in zip(specs, rows[side], strict=True):
                flat = np.frombuffer(memory, np.uint8, row["bytes"], row["offset"])
                arrays[spec.name] = flat.view(DTYPES[spec.datatype]).reshape(spec.shape)


def _tenant_file(variant: Variant, options: Mapping[str, Any]) -> Path:
    name = str(options.get("tenant", variant.accelerator))
    if name not in FOREIGN_TENANTS:
        raise BackendUnavailableError(
            f"variant {variant.id!r}: there is no tenant {name!r} for a foreign interpreter",
            hint=f"one of: {', '.join(FOREIGN_TENANTS)}",
        )
    return Path(__file__).parent / "tenants" / FOREIGN_TENANTS[name]


def _interpreter(options: Mapping[str, Any]) -> str:
    python = str(options.get("python", _DEFAULT_PYTHON))
    if not os.access(python, os.X_OK):
        raise BackendUnavailableError(
            f"the foreign interpreter {python!r} is not there or not executable",
            hint="set options.python in the device profile to the Python that has the vendor's library",
        )
    return python


def _start(python: str, tenant: Path) -> WorkerProcess:
    try:
        return WorkerProcess(python, tenant)
    except WorkerFault as fault:
        raise BackendUnavailableError(
            f"the foreign interpreter {python!r} does not start a worker: {fault}",
            hint="it must be Python 3.6 or newer; try it by hand",
        ) from fault


def _load_request(path: Path, variant: Variant, options: Mapping[str, Any]) -> dict[str, Any]:
    cache = cache_folder(options)
    return {
        "op": "load",
        "model": str(path.resolve()),
        "accelerator": variant.accelerator,
        "precision": variant.precision,
        "device": options.get("device"),
        "cache": None if cache is None else str(cache),
        "threads": thread_count(options),
        "shapes": options.get("shapes", {}),
        "batch": options.get("batch", 1),
        "tenant_options": options.get("tenant_options", {}),
    }
