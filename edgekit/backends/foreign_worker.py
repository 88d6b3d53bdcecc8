"""Serve one tenant to a ``ForeignBackend`` in another process, by the protocol of ``edgekit.base.child``.

Started by path in whatever Python the vendor's library needs, so this file and the tenants fit Python
3.6, import only the standard library, and never import edgekit.

Usage: ``python foreign_worker.py TENANT_FILE MEMORY_FD``

A request has ``op``: ``hello``, ``load``, ``map``, ``run``, ``reset`` or ``close``. Tensors are in the
shared memory, at the offsets that ``map`` names, and never go through the pipes.

A tenant is a file with ``load(request, fail)``, which returns an object with ``inputs`` and
``outputs`` (lists of ``{"name", "datatype", "shape"}``), ``accelerator``, ``version``, and the methods
``bind(inputs, outputs)`` (byte memoryviews by name), ``run()``, ``reset()``, ``close()``. It reports a
fault by ``raise fail(kind, message)``, with kind ``unavailable``, ``load``, ``inference`` or
``accelerator_lost``.
"""

import importlib.util
import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path


class TenantError(Exception):
    """A fault whose kind the tenant knows."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(arguments: "list[str]") -> int:
    """Serve until the requests end; return the exit code."""
    here = Path(__file__).resolve().parent
    # This folder has files named like vendors' packages (openvino.py), which would hide them.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    answers = os.dup(1)
    os.dup2(2, 1)  # a vendor's library that prints must not reach the answers
    worker = _Worker(arguments[1], int(arguments[2]))
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), name="parent-watch", daemon=True).start()
    for line in sys.stdin.buffer:
        request = json.loads(line.decode("utf-8"))
        if request["op"] == "close":
            break
        answer = memoryview(json.dumps(worker.answer(request)).encode("utf-8") + b"\n")
        while answer:
            answer = answer[os.write(answers, answer) :]
    worker.close()
    return 0


class _Worker:
    """One tenant, its model and its memory."""

    def __init__(self, tenant_file: str, memory_fd: int) -> None:
        self._file = tenant_file
        self._memory_fd = memory_fd
        self._model = None  # type: Any

    def answer(self, request: "dict[str, Any]") -> "dict[str, Any]":
        """Do what one request asks; a fault becomes an answer."""
        try:
            return {"result": self._do(request["op"], request)}
        except TenantError as fault:
            return _error(fault.kind, fault)
        except ImportError as fault:
            return _error("unavailable", fault)
        except Exception as fault:  # noqa: BLE001 - vendors' exceptions have no common base
            return _error("inference" if request["op"] == "run" else "load", fault)

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()

    def _do(self, op: str, request: "dict[str, Any]") -> "dict[str, Any]":
        if op == "load":
            return self._load(request)
        if op == "map":
            self._map(request)
        elif op != "hello":
            getattr(self._model, op)()  # run or reset
        return {}

    def _load(self, request: "dict[str, Any]") -> "dict[str, Any]":
        spec = importlib.util.spec_from_file_location("edgekit_tenant", self._file)
        if spec is None or spec.loader is None:
            raise TenantError("unavailable", "there is no tenant " + self._file)
        tenant = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tenant)
        self._model = tenant.load(request, TenantError)
        return {key: getattr(self._model, key) for key in ("inputs", "outputs", "accelerator", "version")}

    def _map(self, request: "dict[str, Any]") -> None:
        memory = memoryview(mmap.mmap(self._memory_fd, request["bytes"]))
        views = [
            {row["name"]: memory[row["offset"] : row["offset"] + row["bytes"]] for row in request[side]}
            for side in ("inputs", "outputs")
        ]
        self._model.bind(views[0], views[1])


def _error(kind: str, fault: BaseException) -> "dict[str, Any]":
    message = (str(fault) or type(fault).__name__)[:2000]
    return {"error": {"code": "backend." + kind, "message": message}}


def _die_with_parent(parent: int) -> None:
    """End a worker whose parent was killed while a run keeps it from reading the pipe."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


TYPE_CHECKING = False  # importing ``typing`` for this would cost a small board 10 ms at each start
if TYPE_CHECKING:
    from typing import Any

if __name__ == "__main__":
    sys.exit(main(sys.argv))
