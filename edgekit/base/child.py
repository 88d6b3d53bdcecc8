"""Child processes of this package that answer in JSON: both ends of the pipes.

The parent writes requests to the child's stdin, one JSON value a line. The child answers each on its stdout
with lines ``{"progress": ...}`` and one ``{"result": ...}`` or ``{"error": ...}``; prints of native
libraries go to its stderr. A child whose stdin ends has lost its parent and exits at once.

The parent::

    with Child("edgekit.agent.children", ["survey"]) as child:
        survey = child.ask(None, Survey, timeout_s=60)

The child::

    if __name__ == "__main__":
        sys.exit(run_job(lambda request, progress: survey()))
"""

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
"""Exit code of a child whose parent has ended."""
_PIECE_BYTES = 1 << 16
_LINGER_S = 10.0
_MAX_LINE_BYTES = 64 << 20
_LOG_END_BYTES = 4096
_NONSENSE = "does not keep the protocol"
_NATIVE_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
T = TypeVar("T")


class ChildFault(Exception):  # noqa: N818 - whoever started the child raises an error of its own
    """A child was killed since it did not answer: ``how`` is a predicate, ``code`` its own exit code."""

    def __init__(self, how: str, code: int | None = None) -> None:
        super().__init__(how)
        self.code = code


def exit_reason(code: int) -> str:
    """Return an exit code in words.

    >>> exit_reason(-11), exit_reason(4)
    ('killed by SIGSEGV', 'exit code 4')
    """
    return f"exit code {code}" if code >= 0 else f"killed by {signal_name(-code)}"


def is_native_crash(code: int) -> bool:
    """Return whether native code went wrong; SIGKILL comes from people and from a machine without memory.

    >>> is_native_crash(-signal.SIGABRT), is_native_crash(-signal.SIGKILL), is_native_crash(1)
    (True, False, False)
    """
    return -code in _NATIVE_CRASHES


def signal_name(number: int) -> str:
    """Return a signal's name; "signal 200" where it has none."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


class _Line(msgspec.Struct):
    """A line of an answer; exactly one field is set."""

    progress: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: Failure | None = None


class Child:
    """The process ``python -m module arguments``, for one thread; any thread may ``kill`` it.

    ``environment`` and ``log`` (its stderr): None for this process's. ``keeps_log``: keep the end of its
    stderr for ``last_words``. ``leads_group``: start a process group, so that its own children end with it.
    A ``module`` that ends with ``.py`` is a file, which may run in another ``python``.

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
        keeps_log: bool = False,
        leads_group: bool = False,
        python: str = sys.executable,
        pass_fds: Sequence[int] = (),
    ) -> None:
        start = [module] if module.endswith(".py") else ["-m", module]
        self._process = subprocess.Popen(
            [python, *start, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if keeps_log else log,
            bufsize=0,
            env=None if environment is None else dict(environment),
            start_new_session=leads_group,
            pass_fds=pass_fds,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)  # a child that does not read must not stop us
        self._leads_group = leads_group
        self._kill_lock = threading.Lock()
        self._is_killed = False
        self._unsent, self._unread = b"", bytearray()
        self._log_end = b""
        self._log_reader = threading.Thread(target=self._read_log, name=f"log-{self.pid}", daemon=True)
        self._log_reader.start()

    def __enter__(self) -> "Child":  # noqa: PYI034 - typing.Self is newer than Python 3.10
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
        """Send a request and return its answer, decoded as ``kind``.

        ``on_progress`` is called with each progress, still encoded; its exceptions propagate.

        Raises:
            EdgekitError: What the child raised, of the same class.
            ChildFault: It did not answer within ``timeout_s``.
        """
        self._unsent += msgspec.json.encode(request) + b"\n"
        return self.answer(kind, timeout_s, on_progress)

    def answer(
        self,
        kind: type[T],
        timeout_s: float,
        on_progress: Callable[[msgspec.Raw], object] = lambda _: None,
    ) -> T:
        """Return an answer that needs no request; see ``ask``."""
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
        """Wait until a pipe is ready; empty after the deadline."""
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        if self._unsent:
            poller.register(self._requests, select.POLLOUT)
        # progress does not extend the deadline
        while (left_s := deadline_s - time.monotonic()) > 0:
            if ready := poller.poll(min(left_s, 60.0) * 1e3):
                return {descriptor for descriptor, _ in ready}
        return set()

    def _write(self) -> None:
        try:
            written = os.write(self._requests.fileno(), self._unsent[:_PIECE_BYTES])
        except BrokenPipeError:  # its exit code, read later, is the reason
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

    def _read_log(self) -> None:
        """Keep the end of its stderr; without a reader it would block."""
        if self._process.stderr is not None:
            with self._process.stderr as log:
                while piece := log.read(_PIECE_BYTES):
                    self._log_end = (self._log_end + piece)[-_LOG_END_BYTES:]

    def last_words(self) -> str:
        """Return ``: `` and the last line of a dead child's stderr; empty if none is kept."""
        self._log_reader.join(_LINGER_S)
        lines = [line.strip() for line in self._log_end.decode(errors="replace").split("\n")]
        return next((f": {line[-300:]}" for line in reversed(lines) if line), "")

    def kill(self) -> None:
        """Kill it, and its process group if it leads one; safe to call twice."""
        with self._kill_lock:
            if not self._is_killed:
                self._is_killed = True  # from here on the pid may be reused
                with contextlib.suppress(ProcessLookupError):
                    if self._leads_group:
                        os.killpg(self.pid, signal.SIGKILL)
                    self._process.kill()
        self._process.wait()

    def close(self, linger_s: float = 0.0) -> None:
        """Wait ``linger_s`` for its exit, kill it, and free the pipes; safe to call twice."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(linger_s)
        self.kill()
        self._log_reader.join(_LINGER_S)
        self._requests.close()
        self._answers.close()


# -- In the child


class Parent:
    """The pipes to the parent, in the child; made once, before importing any library."""

    def __init__(self, *, leads_group: bool = False) -> None:
        self._answers = os.dup(1)
        os.dup2(2, 1)  # a library that prints must not spoil an answer
        self._leads_group = leads_group
        self._requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def requests(self, kind: type[T]) -> Iterator[T]:
        """Yield requests; the process exits when the parent ends.

        Raises:
            UsageError: A request is not of this type.
        """
        while True:
            yield decode_json(self._requests.get(), kind, "request", UsageError)

    def progress(self, what: Any) -> None:
        """Report progress."""
        self._send({"progress": what})

    def result(self, what: Any) -> None:
        """Answer a request."""
        self._send({"result": what})

    def error(self, error: EdgekitError) -> None:
        """Answer a request with an error."""
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
    """Answer one request, of type ``kind``, with ``work(request, report_progress)``; return the exit code."""
    parent = Parent(leads_group=leads_group)
    try:
        parent.result(work(next(parent.requests(kind)), parent.progress))
    except EdgekitError as error:
        parent.error(error)
        return error.exit_code
    return 0
