"""A backend in another Python, where the vendor ties its library to one: MYRIAD, TensorRT on a Jetson.

The worker (``foreign_worker.py``) and its tenant run in the configured interpreter. Control passes
two pipes, tensors lie in shared memory, and a worker that dies, hangs or talks nonsense is an
``AcceleratorLostError`` here and nothing worse.
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
    DTYPES,
    ModelSource,
    cache_folder,
    closed,
    copy_feeds,
    fixed_shape,
    no_input,
    short,
    thread_count,
)
from edgekit.backends._worker_process import WorkerFault, WorkerProcess
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
_PING_TIMEOUT_S = 2.0
_ALIGNMENT = 64
_ERRORS: Mapping[str, type[BackendError]] = MappingProxyType(
    {
        "unavailable": BackendUnavailableError,
        "load": ModelLoadError,
        "inference": InferenceError,
        "lost": AcceleratorLostError,
    }
)


class ForeignBackend:
    """Runs one model through a tenant in another interpreter.

    Options: ``python`` (the interpreter; ``/usr/bin/python3`` unless stated), ``tenant`` (``myriad``,
    ``tensorrt``; the accelerator's name unless stated), ``tenant_options``, ``device``, ``cache`` (a
    folder for compiled engines), ``threads``, ``shapes``, ``start_timeout_s`` (load, 600 unless
    stated), ``timeout_s`` (one run, 10 unless stated).
    """

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        path = ModelSource(data, variant).file("a foreign interpreter")
        self._timeout_s = float(options.get("timeout_s", _RUN_TIMEOUT_S))
        tenant = _tenant_file(variant, options)
        self._what = f"{tenant.stem} worker of {path}"
        request = _load_request(path, variant, options)
        self._arrays: dict[str, NDArray[Any]] = {}
        self._results: dict[str, NDArray[Any]] = {}
        self._process: WorkerProcess | None = _start(_interpreter(options), tenant)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            loaded = self._ask(request, _start_timeout(options))
            self.inputs, self.outputs = self._specs(loaded, "inputs"), self._specs(loaded, "outputs")
            for spec in self.inputs:
                fixed_shape(spec.name, spec.shape, {"batch": options.get("batch", 1)})  # refuses another
            self.accelerator = str(loaded.get("accelerator", ""))
            self.version = str(loaded.get("version", ""))
            self._map()
            undo.pop_all()

    def view(self, name: str) -> NDArray[Any]:
        """Return the writable shared memory of one input."""
        try:
            return self._arrays[name]
        except KeyError:
            raise closed(self._what) if self._process is None else no_input(name, self.inputs) from None

    def run(self) -> dict[str, NDArray[Any]]:
        """Run in the worker; arrays by output name, valid until the next ``run``."""
        self._ask({"op": "run"}, self._timeout_s)
        return self._results.copy()

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Copy the feeds into the inputs and ``run``."""
        if self._process is None:
            raise closed(self._what)
        copy_feeds(self.inputs, self.view, feeds)
        return self.run()

    def reset(self) -> None:
        """Forget the state that a recurrent model keeps inside."""
        self._ask({"op": "reset"}, self._timeout_s)

    def ping(self) -> None:
        """Ask an idle worker whether it lives.

        Raises:
            AcceleratorLostError: It does not.
        """
        self._ask({"op": "ping"}, _PING_TIMEOUT_S)

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None after ``close``."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the worker; safe to call twice."""
        self._arrays, self._results = {}, {}
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self._process is None:
            raise closed(self._what)
        try:
            answer = self._process.ask(request, timeout_s)
        except WorkerFault as fault:
            raise AcceleratorLostError(
                f"{self._what}: {fault}", hint="open the model again: a new worker starts"
            ) from fault
        if "ok" in answer:
            found: dict[str, Any] = answer["ok"]
            return found
        kind, message = answer["error"]["kind"], short(answer["error"]["message"])
        if kind == "lost":
            self._process.kill()
        raise _ERRORS.get(kind, InferenceError)(f"{self._what}: {message}")

    def _specs(self, loaded: Mapping[str, Any], side: str) -> tuple[TensorSpec, ...]:
        try:
            specs = msgspec.convert(loaded[side], tuple[TensorSpec, ...])
        except (KeyError, msgspec.ValidationError) as cause:
            raise AcceleratorLostError(f"{self._what}: its {side} make no sense: {short(cause)}") from cause
        for spec in specs:
            if spec.datatype not in DTYPES or any(size < 0 for size in spec.shape):
                raise ModelLoadError(
                    f"{self._what}: {spec.name!r} is {spec.datatype} {list(spec.shape)}: cannot be shared",
                    hint="state options.shapes, or convert the model so that its tensors are numbers",
                )
        return specs

    def _map(self) -> None:
        """Lay the tensors out in shared memory, each on a cache line of its own."""
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


def _start_timeout(options: Mapping[str, Any]) -> float:
    return float(options.get("start_timeout_s", _START_TIMEOUT_S))


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
