"""Run jobs in child processes.

Conversion tools crash, leak memory, print to stdout and disagree about threads. In a child process
none of that reaches the command, and the memory is freed at its end. A child ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.base.child import Child, ChildFault, exit_reason, run_job
from edgekit.core.errors import ConfigError, EdgekitError, ModelError
from edgekit_optimize.run.jobs import JOBS, Progress

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
_LOG = "log.txt"
_TAIL_BYTES = 2000
_TIMEOUT_S = 30 * 24 * 3600.0
"""Generous, since a training may take days; the user can interrupt it."""
_MORE_MEMORY = "free some memory, use fewer samples (--samples), or fewer --targets"
_NO_MEMORY = ("memoryerror", "allocate memory", "failed to map segment", "bad_alloc", "bad allocation")
DIED = "the tool's process died"
"""Part of the message of a ModelError after a crash, which must not be cached as the tool's answer."""


class Running:
    """The work under way in a run's threads, so that an interrupt can stop all of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops = dict[object, Callable[[], None]]()
        self._is_over = False

    @contextlib.contextmanager
    def stopped_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` if the run is ended while the body of ``with`` is under way."""
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
        """Return a function's result for each item, computed by several threads.

        An exception (such as an interrupt) stops the work under way and starts no more.
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
        """Stop the work under way, and any that starts later."""
        with self._lock:
            self._is_over = True
            stops = list(self._stops.values())
        for stop in stops:
            stop()


def run_child_job(
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
        task: The job's arguments, as plain data.
        folder: Where it writes its files, and its tools' output as ``log.txt``.
        progress: Called with the share that is done and a text.
        threads: CPU threads for its tools; 0 for their default.
        running: Kills the process if the run is ended from another thread.

    Raises:
        EdgekitError: What the job raised, or a ConfigError or ModelError that says how its process died.
    """
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}

    def report(data: msgspec.Raw) -> None:
        if progress is not None:
            progress(*msgspec.json.decode(data, type=tuple[float, str]))

    words = (job, str(folder))
    with (
        (folder / _LOG).open("wb") as log,
        Child("edgekit_optimize.run.child_job", words, environment=environment, log=log) as child,
        (running or Running()).stopped_by(child.kill),
    ):
        try:
            # JSON in a string, since a task or result may hold NaN, which msgspec's JSON does not support
            result: dict[str, Any] = json.loads(child.ask(json.dumps(task), str, _TIMEOUT_S, report))
        except ChildFault as fault:
            raise _died(job, fault, folder / _LOG) from fault
    return result


def _died(job: str, fault: ChildFault, log: Path) -> EdgekitError:
    tail = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
    if any(sign in tail.lower() for sign in _NO_MEMORY):
        return ConfigError(f"{job}: memory ran out", reasons=tuple(tail.splitlines()[-1:]), hint=_MORE_MEMORY)
    if fault.code == -signal.SIGKILL:
        return ConfigError(
            f"{job}: its process was killed, most likely because memory ran out",
            hint=_MORE_MEMORY,
        )
    how = exit_reason(fault.code) if fault.code is not None else str(fault)
    return ModelError(f"{job}: {DIED} ({how})", reasons=tuple(tail.splitlines()[-5:]))


def _do(task: str, progress: Callable[[tuple[float, str]], None]) -> str:
    job, folder = sys.argv[1:]
    try:
        result = JOBS[job](json.loads(task), Path(folder), lambda done, text: progress((done, text)))
    except MemoryError as cause:
        raise ConfigError(f"{job}: memory ran out", hint=_MORE_MEMORY) from cause
    return json.dumps(result)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a user's module:function is searched there first
    sys.exit(run_job(_do, str))
