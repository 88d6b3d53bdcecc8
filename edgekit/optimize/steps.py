"""Runs jobs in processes of their own.

Conversion tools crash, leak, print to stdout and disagree about threads: none of that reaches the
command, and what a tool used is given back to the system when its process ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core import errors
from edgekit.core.errors import ConfigError, EdgekitError, ModelError
from edgekit.optimize.jobs import JOBS, Progress

_LOG = "log.txt"
_TAIL_BYTES = 2000
DIED = "the tool's process died"
"""In the message of a ModelError that is no answer of a tool: another time it may go well."""


def run_step(
    job: str, task: Mapping[str, Any], folder: Path, *, progress: Progress | None = None, threads: int = 0
) -> dict[str, Any]:
    """Run a job in a child process and return its result.

    Args:
        job: A key of ``JOBS``.
        task: Plain data that the job takes.
        folder: Where it writes its files and ``log.txt``, all that its tools printed.
        progress: Told how far it is.
        threads: CPU threads its tools may take; 0 leaves it to them.

    Raises:
        EdgekitError: What the job raised, or a ConfigError or ModelError saying how its process died.
    """
    read, write = os.pipe()
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    with (folder / _LOG).open("wb") as log, os.fdopen(read, "r") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.optimize.steps", job, str(folder), str(write)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(write,),
            env=environment,
        )
        os.close(write)
        try:
            assert process.stdin is not None
            with process.stdin as stdin:
                stdin.write(json.dumps(task).encode())
            answer = _answer(lines, progress)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if answer is None:
        raise _died(job, code, folder / _LOG)
    if "error" in answer:
        raise _error(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _answer(lines: Any, progress: Progress | None) -> dict[str, Any] | None:
    for line in lines:
        message: dict[str, Any] = json.loads(line)
        if "progress" not in message:
            return message
        if progress is not None:
            progress(*message["progress"])
    return None


def _died(job: str, code: int, log: Path) -> EdgekitError:
    if code == -signal.SIGKILL:
        return ConfigError(
            f"{job}: its process was killed, most likely because memory ran out",
            hint="free some memory, use fewer samples (--samples), or fewer --targets",
        )
    tail = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return ModelError(f"{job}: {DIED} ({how})", reasons=tuple(tail[-5:]))


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
    task = json.load(sys.stdin)
    with os.fdopen(int(descriptor), "w") as answers:

        def tell(message: dict[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        try:
            result = JOBS[job](task, Path(folder), lambda done, text: tell({"progress": [done, text]}))
        except EdgekitError as error:
            tell({"error": _tell(error)})
        except MemoryError:
            tell(
                {"error": _tell(ConfigError(f"{job}: memory ran out", hint="use fewer samples (--samples)"))}
            )
        else:
            tell({"result": result})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
