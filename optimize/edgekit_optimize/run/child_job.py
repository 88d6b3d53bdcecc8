"""Runs jobs in processes of their own.

Conversion tools crash, leak, print to stdout and disagree about threads: none of that reaches the
command, and what a tool used is given back to the system when its process ends. A child ends with its
parent, however that ends: nobody is left to hear its answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from edgekit.core import errors
from edgekit.core.errors import ConfigError, EdgekitError, ModelError
from edgekit_optimize.run.jobs import JOBS, Progress

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
_LOG = "log.txt"
_TAIL_BYTES = 2000
_MORE_MEMORY = "free some memory, use fewer samples (--samples), or fewer --targets"
_NO_MEMORY = ("memoryerror", "allocate memory", "failed to map segment", "bad_alloc", "bad allocation")
DIED = "the tool's process died"
"""In the message of a ModelError that is no answer of a tool: another time it may go well."""


class Running:
    """What works in threads of one run, so that an interrupt of the run can end all of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops = dict[object, Callable[[], None]]()
        self._is_over = False

    @contextlib.contextmanager
    def stopped_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have ``stop`` called where the run is ended while the body of ``with`` is under way."""
        token = object()
        with self._lock:
            self._stops[token] = stop
            is_over = self._is_over
        try:
            if is_over:
                stop()
            yield
        finally:
            with self._lock:
                del self._stops[token]

    def map(
        self, workers: int, name: str, function: Callable[[_Item], _Found], items: Iterable[_Item]
    ) -> list[_Found]:
        """Return what a function gives for each item, several at a time in threads.

        An exception, an interrupt above all, ends what is under way and begins nothing more.
        """
        pool = ThreadPoolExecutor(workers, name)
        try:
            return list(pool.map(function, items))
        except BaseException:
            self.end()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def end(self) -> None:
        """Stop what is under way, and what begins from now on."""
        with self._lock:
            self._is_over = True
            stops = list(self._stops.values())
        for stop in stops:
            stop()


def run_step(
    job: str,
    task: Mapping[str, Any],
    folder: Path,
    *,
    progress: Progress | None = None,
    threads: int = 0,
    running: Running | None = None,
) -> dict[str, Any]:
    """Run a job in a child process and return its result.

    Args:
        job: A key of ``JOBS``.
        task: Plain data that the job takes.
        folder: Where it writes its files and ``log.txt``, all that its tools printed.
        progress: Told how far it is.
        threads: CPU threads its tools may take; 0 leaves it to them.
        running: Ends the process where the run is ended from another thread.

    Raises:
        EdgekitError: What the job raised, or a ConfigError or ModelError saying how its process died.
    """
    read, write = os.pipe()
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    with (folder / _LOG).open("wb") as log, os.fdopen(read, "r") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit_optimize.run.child_job", job, str(folder), str(write)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(write,),
            env=environment,
        )
        os.close(write)
        assert process.stdin is not None
        try:
            with (running or Running()).stopped_by(process.kill):
                with contextlib.suppress(BrokenPipeError):  # how it died is told below
                    process.stdin.write(json.dumps(task).encode() + b"\n")
                    process.stdin.flush()
                answer = _answer(lines, progress)
                code = process.wait()
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    if answer is None:
        raise _died(job, code, folder / _LOG)
    if "error" in answer:
        raise _error(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _answer(lines: Any, progress: Progress | None) -> dict[str, Any] | None:
    for line in lines:
        if not line.endswith("\n"):  # it died over it
            return None
        message: dict[str, Any] = json.loads(line)
        if "progress" not in message:
            return message
        if progress is not None:
            progress(*message["progress"])
    return None


def _died(job: str, code: int, log: Path) -> EdgekitError:
    tail = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
    if any(sign in tail.lower() for sign in _NO_MEMORY):
        return ConfigError(f"{job}: memory ran out", reasons=tuple(tail.splitlines()[-1:]), hint=_MORE_MEMORY)
    if code == -signal.SIGKILL:
        return ConfigError(
            f"{job}: its process was killed, most likely because memory ran out",
            hint=_MORE_MEMORY,
        )
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return ModelError(f"{job}: {DIED} ({how})", reasons=tuple(tail.splitlines()[-5:]))


def _error(told: Mapping[str, Any]) -> EdgekitError:
    kind = getattr(errors, told["class"], EdgekitError)
    found: EdgekitError = kind(told["message"], reasons=tuple(told["reasons"]), hint=told["hint"])
    return found


def _tell(error: EdgekitError) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "message": error.message,
        "reasons": list(error.reasons),
        "hint": error.hint,
    }


def main(arguments: list[str]) -> int:
    """Do one job: its name, its folder and the descriptor to answer on; the task comes on stdin."""
    job, folder, descriptor = arguments
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - where a user's module:function is looked for first
    task = json.loads(_first_line(sys.stdin.fileno()))
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    with os.fdopen(int(descriptor), "w") as answers:

        def tell(message: dict[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        try:
            result = JOBS[job](task, Path(folder), lambda done, text: tell({"progress": [done, text]}))
        except EdgekitError as error:
            tell({"error": _tell(error)})
        except MemoryError:
            tell({"error": _tell(ConfigError(f"{job}: memory ran out", hint=_MORE_MEMORY))})
        else:
            tell({"result": result})
    return 0


def _first_line(descriptor: int) -> bytes:
    """Return the first line of a pipe on which nothing follows."""
    pieces = []
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)


def _end_with_parent(descriptor: int) -> None:
    """Wait until the other end of a pipe is closed, which is left open as long as the parent lives."""
    os.read(descriptor, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
