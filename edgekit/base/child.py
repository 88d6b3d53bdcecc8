"""Child processes of this package that answer in JSON: both ends of the pipes.

The parent writes requests to the child's stdin, one JSON value a line. The child answers each with lines
``{"progress": ...}``, any number of them, and then one ``{"result": ...}`` or ``{"error": ...}``, on what
was its stdout; what it prints otherwise, native libraries included, goes to its stderr. stdin stays open
as long as the parent lives: a child whose stdin ends has nobody to answer, and exits at once.

The parent::

    with Child("edgekit.agent.children", ["survey"]) as child:
        found = child.ask(None, Survey, timeout_s=60)

The child::

    if __name__ == "__main__":
        sys.exit(run_job(lambda request, progress: survey()))
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

import msgspec

from edgekit.base.failures import Failure, error_of, failure_of
from edgekit.core.errors import EdgekitError, UsageError
from edgekit.core.structure import decode_json

ORPHANED = 130
"""The exit code of a child whose parent is gone."""
_PIECE_BYTES = 1 << 16
_LINGER_S = 10.0
_MAX_LINE_BYTES = 64 << 20
_NONSENSE = "does not keep the protocol"
T = TypeVar("T")


class ChildFault(Exception):  # noqa: N818 - whoever started the child raises an error of its own
    """A child ended, hung or broke the protocol instead of answering; it has been killed.

    Args:
        how: What happened, as the predicate of a sentence: "ended without a result (killed by SIGSEGV)".
        code: The exit code; None where it was still running.
    """

    def __init__(self, how: str, code: int | None = None) -> None:
        super().__init__(how)
        self.code = code


def exit_reason(code: int) -> str:
    """Return what an exit code says.

    >>> exit_reason(-11), exit_reason(4)
    ('killed by SIGSEGV', 'exit code 4')
    """
    return f"exit code {code}" if code >= 0 else f"killed by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """Return a signal's name; "signal 200" where it has none."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


class _Line(msgspec.Struct):
    """A line of an answer; exactly one field is there."""

    progress: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: Failure | None = None


class Child:
    """A child process, for one thread; any other may ``kill`` it.

    Args:
        module: What ``python -m`` runs; it calls ``run_job`` or uses ``Parent``.
        arguments: The words after it.
        environment: Its environment variables; None for this process's.
        log: Where its stderr goes; None for this process's.
        leads_group: Whether it leads a process group, so that its own children end with it.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        log: IO[bytes] | int | None = None,
        leads_group: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=None if environment is None else dict(environment),
            start_new_session=leads_group,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)  # a child that does not read must not stop us
        self._leads_group = leads_group
        self._kill_lock = threading.Lock()
        self._is_killed = False
        self._unsent, self._unread = b"", bytearray()

    def __enter__(self) -> Child:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(0.0 if kind else _LINGER_S)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(
        self,
        request: Any,
        kind: type[T],
        timeout_s: float,
        on_progress: Callable[[msgspec.Raw], object] = lambda _: None,
    ) -> T:
        """Send a request and return its answer.

        Args:
            request: What msgspec encodes.
            kind: The answer's type.
            timeout_s: How long it may take.
            on_progress: Called with each progress, still encoded; what it raises comes out here.

        Raises:
            EdgekitError: What the child raised, of the same class.
            ChildFault: It has no answer.
        """
        self._unsent += msgspec.json.encode(request) + b"\n"
        return self.answer(kind, timeout_s, on_progress)

    def answer(
        self,
        kind: type[T],
        timeout_s: float,
        on_progress: Callable[[msgspec.Raw], object] = lambda _: None,
    ) -> T:
        """Return an answer that needs no request, as ``ask`` does."""
        deadline_s = time.monotonic() + timeout_s
        try:
            while True:
                line = msgspec.json.decode(self._line(deadline_s, timeout_s), type=_Line)
                if line.error is not None:
                    raise error_of(line.error)
                if data := bytes(line.result):
                    return msgspec.json.decode(data, type=kind)
                on_progress(line.progress)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            self.kill()
            raise ChildFault(f"{_NONSENSE}: {cause}") from cause

    def _line(self, deadline_s: float, timeout_s: float) -> bytes:
        searched = 0
        while not (length := self._unread.find(b"\n", searched) + 1):
            searched = len(self._unread)
            if searched > _MAX_LINE_BYTES:
                self.kill()
                raise ChildFault(f"{_NONSENSE}: a line of over {_MAX_LINE_BYTES} bytes")
            if not (ready := self._ready(deadline_s)):
                self.kill()
                raise ChildFault(f"was not done within {timeout_s:g} s")
            if self._answers.fileno() not in ready:
                self._write()
            elif piece := os.read(self._answers.fileno(), 1 << 20):
                self._unread += piece
            else:
                raise self._ended()
        line = bytes(self._unread[:length])
        del self._unread[:length]
        return line

    def _ready(self, deadline_s: float) -> set[int]:
        """Wait for a pipe that can go on; empty where none can in time."""
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        if self._unsent:
            poller.register(self._requests, select.POLLOUT)
        # asked each time: one that says more and more has no more time than a silent one
        while (left_s := deadline_s - time.monotonic()) > 0:
            if ready := poller.poll(min(left_s, 60.0) * 1e3):
                return {descriptor for descriptor, _ in ready}
        return set()

    def _write(self) -> None:
        try:
            written = os.write(self._requests.fileno(), self._unsent[:_PIECE_BYTES])
        except BrokenPipeError:  # the end of its answers says how it ended
            written = len(self._unsent)
        self._unsent = self._unsent[written:]

    def _ended(self) -> ChildFault:
        try:
            code = self._process.wait(_LINGER_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return ChildFault("closed its output")
        self.kill()
        return ChildFault(f"ended without a result ({exit_reason(code)})", code)

    def kill(self) -> None:
        """End it, and its process group where it leads one; safe to call twice."""
        with self._kill_lock:
            if not self._is_killed:
                self._is_killed = True  # its number may be another's from here on
                with contextlib.suppress(ProcessLookupError):
                    if self._leads_group:
                        os.killpg(self.pid, signal.SIGKILL)
                    self._process.kill()
        self._process.wait()

    def close(self, linger_s: float = 0.0) -> None:
        """End it after a while in which it may end by itself; free the pipes. Safe to call twice."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(linger_s)
        self.kill()
        self._requests.close()
        self._answers.close()


# ---------------------------------------------------------------------------------------------
# In the child


class Parent:
    """The process that started this one and waits for its answers. Make one only, before any library.

    Args:
        leads_group: Whether this process leads a group, which then ends with it.
    """

    def __init__(self, *, leads_group: bool = False) -> None:
        self._answers = os.dup(1)
        os.dup2(2, 1)  # a library that prints must not spoil an answer
        self._leads_group = leads_group
        self._requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def requests(self, kind: type[T]) -> Iterator[T]:
        """Yield requests, for ever: the process ends where there are no more.

        Raises:
            UsageError: It is not of this type.
        """
        while True:
            yield decode_json(self._requests.get(), kind, "request", UsageError)

    def progress(self, what: Any) -> None:
        """Say how far the work is."""
        self._send({"progress": what})

    def result(self, what: Any) -> None:
        """Answer a request."""
        self._send({"result": what})

    def error(self, error: EdgekitError) -> None:
        """Answer a request that cannot be carried out."""
        self._send({"error": failure_of(error)})

    def _send(self, line: dict[str, Any]) -> None:
        data = memoryview(msgspec.json.encode(line) + b"\n")
        try:
            while data:
                data = data[os.write(self._answers, data) :]
        except BrokenPipeError:
            self._end()

    def _listen(self) -> None:
        rest = b""
        while piece := os.read(0, _PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._requests.put(line)
        self._end()

    def _end(self) -> None:
        if self._leads_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(ORPHANED)


def run_job(
    work: Callable[[T, Callable[[Any], None]], Any], kind: type[T], *, leads_group: bool = False
) -> int:
    """Take one request from the parent, and answer it.

    Args:
        work: Does it, given the request and a function that takes progress; returns the result.
        kind: The request's type.
        leads_group: As the parent started this process.

    Returns:
        The process's exit code, that of the error.
    """
    parent = Parent(leads_group=leads_group)
    try:
        parent.result(work(next(parent.requests(kind)), parent.progress))
    except EdgekitError as error:
        parent.error(error)
        return error.exit_code
    return 0
