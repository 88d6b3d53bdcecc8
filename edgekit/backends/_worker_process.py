"""The process behind a foreign backend: its start, its requests, its shared memory and its death."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from edgekit.backends.foreign_worker import MAX_MESSAGE_BYTES, PROTOCOL, send

_WORKER = Path(__file__).parent / "foreign_worker.py"
_HELLO_TIMEOUT_S = 20.0
_CLOSE_TIMEOUT_S = 2.0
_TAIL_LINES = 20


class WorkerFault(Exception):  # noqa: N818 - never leaves the backend
    """The worker died, hangs or broke the protocol; it has been ended."""


class WorkerProcess:
    """One worker with its two pipes, its shared memory and its last lines of standard error."""

    def __init__(self, python: str, tenant: Path) -> None:
        self._memory_fd = os.memfd_create("edgekit-tensors")
        self._last_lines: deque[str] = deque(maxlen=_TAIL_LINES)
        request_end, self._requests = os.pipe()
        self._answers, answer_end = os.pipe()
        self._is_open = True
        fds = (request_end, answer_end, self._memory_fd)
        try:
            self._process = subprocess.Popen(
                [python, str(_WORKER), str(tenant), *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                cwd="/",
            )
        except OSError as cause:
            self._close_fds()
            raise WorkerFault(str(cause)) from cause
        finally:
            os.close(request_end)
            os.close(answer_end)
        self._listener = threading.Thread(target=self._listen, name=f"foreign-stderr-{self.pid}", daemon=True)
        self._listener.start()
        self._greet()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            WorkerFault: The worker is gone, or its answer is late or malformed.
        """
        if not self._is_open:
            raise WorkerFault("has ended")
        with contextlib.suppress(BrokenPipeError):  # the worker is dead: _receive reports how it died
            send(self._requests, request)
        return self._receive(time.monotonic() + timeout_s, f"{request['op']!r} took over {timeout_s:g} s")

    def share(self, size_bytes: int) -> mmap.mmap:
        """Return shared memory that the worker can map too."""
        os.ftruncate(self._memory_fd, size_bytes)
        return mmap.mmap(self._memory_fd, size_bytes)

    def kill(self) -> None:
        """End the worker at once."""
        if self._is_open:
            self._process.kill()
            self._reap()

    def close(self) -> None:
        """Ask the worker to end, and kill it if it does not; safe to call twice."""
        if not self._is_open:
            return
        with contextlib.suppress(BrokenPipeError):
            send(self._requests, {"op": "close"})
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _greet(self) -> None:
        hello = self._receive(time.monotonic() + _HELLO_TIMEOUT_S, f"said nothing for {_HELLO_TIMEOUT_S:g} s")
        if hello.get("ok", {}).get("protocol") != PROTOCOL:
            self.kill()
            raise WorkerFault(f"speaks another protocol: {hello}")

    def _receive(self, deadline_s: float, late: str) -> dict[str, Any]:
        (length,) = struct.unpack(">I", self._read(4, deadline_s, late))
        if length > MAX_MESSAGE_BYTES:
            raise self._violation(f"announces a message of {length} bytes")
        body = self._read(length, deadline_s, late)
        try:
            answer = json.loads(body)
        except ValueError as cause:
            raise self._violation(f"answers {body[:40]!r}") from cause
        error = answer.get("error") if isinstance(answer, dict) else None
        is_error = isinstance(error, dict) and {"kind", "message"} <= set(error)
        if not isinstance(answer, dict) or not (isinstance(answer.get("ok"), dict) or is_error):
            raise self._violation(f"answers {body[:40]!r}")
        return answer

    def _violation(self, what: str) -> WorkerFault:
        self.kill()
        return WorkerFault(f"does not keep the protocol: {what}")

    def _read(self, length: int, deadline_s: float, late: str) -> bytes:
        data = b""
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        while len(data) < length:
            left_ms = max(0, round((deadline_s - time.monotonic()) * 1e3))
            if not poller.poll(left_ms):
                self.kill()
                raise WorkerFault(f"hangs: {late}")
            part = os.read(self._answers, length - len(data))
            if not part:
                self._process.kill()
                self._reap()
                raise WorkerFault(self._manner_of_death())
            data += part
        return data

    def _manner_of_death(self) -> str:
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        lines = " ".join(self._last_lines)[-300:]
        return f"{how}: {lines}" if lines else how

    def _listen(self) -> None:
        """Keep the last lines of the worker's standard error; without a reader it would block."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_lines.append(line.strip()[:300])

    def _reap(self) -> None:
        self._process.wait()
        self._listener.join(_CLOSE_TIMEOUT_S)
        if self._process.stderr is not None and not self._listener.is_alive():
            self._process.stderr.close()
        self._close_fds()

    def _close_fds(self) -> None:
        if self._is_open:
            self._is_open = False
            for fd in (self._requests, self._answers, self._memory_fd):
                os.close(fd)
