"""Serve one tenant to a ``ForeignBackend`` in another process, over two pipes and shared memory.

Started by path in whatever Python the vendor's library needs, so this file and the tenants are
clean for Python 3.6, import only the standard library, and never import edgekit.

Usage: ``python foreign_worker.py TENANT_FILE REQUESTS_FD ANSWERS_FD MEMORY_FD``

Each message is a length (4 bytes, big endian, at most 1 MiB) and that many bytes of JSON. A request
has ``op`` (``load``, ``map``, ``run``, ``reset``, ``close``) and gets one answer: ``{"ok": ...}``,
or ``{"error": {"kind", "message"}}`` with kind ``unavailable``, ``load``, ``inference`` or ``lost``.
Tensors are in the shared memory, at the offsets that ``map`` names, and never go through the pipes.

A tenant is a file with ``load(request, fail)``, which returns an object with ``inputs`` and
``outputs`` (lists of ``{"name", "datatype", "shape"}``), ``accelerator``, ``version``, and the methods
``bind(inputs, outputs)`` (byte memoryviews by name), ``run()``, ``reset()``, ``close()``. It reports a
fault by ``raise fail(kind, message)``.
"""

import importlib.util
import json
import mmap
import os
import struct
import sys
import threading
import time
from pathlib import Path

MAX_MESSAGE_BYTES = 1 << 20
PROTOCOL = 1


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
    os.dup2(2, 1)  # a vendor's library that prints must not reach the answers
    worker = _Worker(arguments[1], int(arguments[4]))
    requests, answers = int(arguments[2]), int(arguments[3])
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), name="parent-watch", daemon=True).start()
    send(answers, {"ok": {"protocol": PROTOCOL, "pid": os.getpid(), "python": sys.version.split()[0]}})
    while True:
        request = receive(requests)
        if request is None or request["op"] == "close":
            worker.close()
            return 0
        send(answers, worker.answer(request))


class _Worker:
    """One tenant, its model and its memory."""

    def __init__(self, tenant_file: str, memory_fd: int) -> None:
        self._file = tenant_file
        self._memory_fd = memory_fd
        self._model = None  # type: Any

    def answer(self, request: "dict[str, Any]") -> "dict[str, Any]":
        """Do what one request asks; a fault becomes an answer."""
        kind = "inference" if request["op"] == "run" else "load"
        try:
            return {"ok": getattr(self, "_" + request["op"])(request)}
        except TenantError as fault:
            return _error(fault.kind, fault)
        except ImportError as fault:
            return _error("unavailable", fault)
        except Exception as fault:  # noqa: BLE001 - vendors' exceptions have no common base
            return _error(kind, fault)

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()

    def _load(self, request: "dict[str, Any]") -> "dict[str, Any]":
        spec = importlib.util.spec_from_file_location("edgekit_tenant", self._file)
        if spec is None or spec.loader is None:
            raise TenantError("unavailable", "there is no tenant " + self._file)
        tenant = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tenant)
        self._model = tenant.load(request, TenantError)
        return {key: getattr(self._model, key) for key in ("inputs", "outputs", "accelerator", "version")}

    def _map(self, request: "dict[str, Any]") -> "dict[str, Any]":
        memory = memoryview(mmap.mmap(self._memory_fd, request["bytes"]))
        views = [
            {row["name"]: memory[row["offset"] : row["offset"] + row["bytes"]] for row in request[side]}
            for side in ("inputs", "outputs")
        ]
        self._model.bind(views[0], views[1])
        return {}

    def _run(self, request: "dict[str, Any]") -> "dict[str, Any]":
        del request
        self._model.run()
        return {}

    def _reset(self, request: "dict[str, Any]") -> "dict[str, Any]":
        del request
        self._model.reset()
        return {}


def send(fd: int, message: "dict[str, Any]") -> None:
    """Write one message."""
    body = json.dumps(message).encode("utf-8")
    data = memoryview(struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]


def receive(fd: int) -> "dict[str, Any] | None":
    """Read one message; None at the end.

    Raises:
        ValueError: The bytes are not a message.
    """
    head = _read(fd, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes")
    body = _read(fd, length)
    if body is None:
        return None
    message = json.loads(body.decode("utf-8"))
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - whatever is wrong with a message is a ValueError
    return message


def _read(fd: int, length: int) -> "bytes | None":
    data = b""
    while len(data) < length:
        part = os.read(fd, length - len(data))
        if not part:
            return None
        data += part
    return data


def _error(kind: str, fault: BaseException) -> "dict[str, Any]":
    return {"error": {"kind": kind, "message": (str(fault) or type(fault).__name__)[:2000]}}


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
