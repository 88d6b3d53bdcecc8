"""A backend in another Python, where the vendor ties its library to one: MYRIAD, TensorRT on a Jetson.

The worker (``foreign_worker.py``) and its tenant run in the configured interpreter, as a ``Child``; tensors
are in shared memory. A worker that dies, hangs or breaks the protocol is an ``AcceleratorLostError``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.backends import FOREIGN_TENANTS
from edgekit.backends._common import (
    ModelSource,
    OpenModel,
    cache_folder,
    fixed_shape,
    short,
    thread_count,
)
from edgekit.base.child import Child, ChildFault
from edgekit.base.dtypes import DTYPES
from edgekit.core.errors import AcceleratorLostError, BackendUnavailableError, EdgekitError, ModelLoadError
from edgekit.core.ports import ModelData
from edgekit.core.spec import TensorSpec, Variant

_WORKER = Path(__file__).parent / "foreign_worker.py"
_DEFAULT_PYTHON = "/usr/bin/python3"  # where a board's packages put a vendor's bindings
_HELLO_TIMEOUT_S = 20.0
_START_TIMEOUT_S = 600.0  # TensorRT builds an engine for minutes on a small board
_RUN_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_ALIGNMENT = 64
T = TypeVar("T")


class _Loaded(msgspec.Struct):
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accelerator: str
    version: str


class ForeignBackend(OpenModel):
    """Runs one model through a tenant in another interpreter.

    Options: ``python`` (the interpreter, by default ``/usr/bin/python3``), ``tenant`` (``myriad`` or
    ``tensorrt``, by default the accelerator's name), ``tenant_options``, ``device``, ``cache`` (a folder for
    compiled engines), ``threads``, ``shapes``, ``start_timeout_s`` (by default 600), ``timeout_s`` (of a
    run, by default 10).
    """

    keeps_state = True  # perhaps: a tenant does not report it

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        path = ModelSource(data, variant).file("a foreign interpreter")
        self._timeout_s = float(options.get("timeout_s", _RUN_TIMEOUT_S))
        tenant = _tenant_file(variant, options)
        super().__init__(f"{tenant.stem} worker of {path}")
        request = _load_request(path, variant, options)
        self._memory_fd = os.memfd_create("edgekit-tensors")
        self._child: Child | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._child = self._start(_interpreter(options), tenant)
            loaded = self._ask(request, float(options.get("start_timeout_s", _START_TIMEOUT_S)), _Loaded)
            self.inputs, self.outputs = loaded.inputs, loaded.outputs
            self._check(options)
            self.accelerator, self.version = loaded.accelerator, loaded.version
            self._map()
            undo.pop_all()

    def run(self) -> dict[str, NDArray[Any]]:
        """Run in the worker; arrays by output name, valid until the next ``run``."""
        self._ask({"op": "run"}, self._timeout_s, object)
        return self._results.copy()

    def reset(self) -> None:
        """Forget the state that a recurrent model keeps inside."""
        self._ask({"op": "reset"}, self._timeout_s, object)

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None after its end."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """End the worker; safe to call twice."""
        if self._is_open:
            os.close(self._memory_fd)
        super().close()
        if self._child is not None:
            with contextlib.suppress(ChildFault):
                self._child.ask({"op": "close"}, object, _CLOSE_TIMEOUT_S)
            self._end()

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def _start(self, python: str, tenant: Path) -> Child:
        hint = "it must be Python 3.6 or newer; try it by hand"
        try:
            words = [str(tenant), str(self._memory_fd)]
            child = Child(str(_WORKER), words, keeps_log=True, python=python, pass_fds=[self._memory_fd])
        except OSError as cause:
            raise BackendUnavailableError(
                f"{python!r} does not start a worker: {cause}", hint=hint
            ) from cause
        try:
            child.ask({"op": "hello"}, object, _HELLO_TIMEOUT_S)
        except ChildFault as fault:
            child.close()
            raise BackendUnavailableError(
                f"the foreign interpreter {python!r} does not start a worker: {fault}{child.last_words()}",
                hint=hint,
            ) from fault
        return child

    def _ask(self, request: dict[str, Any], timeout_s: float, kind: type[T]) -> T:
        self._require_open()
        hint = "open the model again: a new worker starts"
        if self._child is None:
            raise AcceleratorLostError(f"{self._name} has ended", hint=hint)
        try:
            return self._child.ask(request, kind, timeout_s)
        except ChildFault as fault:
            message = f"{self._name} {fault}{self._child.last_words()}"
            self._end()
            raise AcceleratorLostError(message, hint=hint) from fault
        except EdgekitError as error:
            if isinstance(error, AcceleratorLostError):
                self._end()
            raise type(error)(f"{self._name}: {short(error.message)}") from error

    def _check(self, options: Mapping[str, Any]) -> None:
        """Refuse tensors that cannot be shared, and a model of another batch size."""
        for spec in (*self.inputs, *self.outputs):
            if spec.datatype not in DTYPES or any(size < 0 for size in spec.shape):
                raise ModelLoadError(
                    f"{self._name}: {spec.name!r} is {spec.datatype} {list(spec.shape)}: cannot be shared",
                    hint="state options.shapes, or convert the model so that its tensors are numbers",
                )
        for spec in self.inputs:
            fixed_shape(spec.name, spec.shape, {"batch": options.get("batch", 1)})

    def _map(self) -> None:
        """Place the tensors in shared memory, each on its own cache lines."""
        offset = 0
        rows: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            for spec in specs:
                size = int(np.prod(spec.shape, dtype=np.int64)) * DTYPES[spec.datatype].itemsize
                rows[side].append({"name": spec.name, "offset": offset, "bytes": size})
                offset += -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        os.ftruncate(self._memory_fd, offset)
        memory = mmap.mmap(self._memory_fd, offset)
        self._ask({"op": "map", "bytes": offset, **rows}, self._timeout_s, object)
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
