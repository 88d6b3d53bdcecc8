"""Child processes with an owner that stops them, and logs that outlive them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.core.errors import EdgekitError, ServerError

_STOP_TIMEOUT_S = 15.0


class Child:
    """One process of the demonstration, in a process group of its own.

    Args:
        name: Names its log file.
        command: What to run.
        logs: Folder for the log.
        environment: Added to this process's.
    """

    def __init__(self, name: str, command: Sequence[str], logs: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,
            )

    def first_line(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the one JSON line that says the process is ready.

        Raises:
            ServerError: It ended, or stayed silent.
        """
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(timeout_s) else b""
        try:
            document: dict[str, Any] = json.loads(line)
        except ValueError as cause:
            raise ServerError(f"{self.name} did not start", hint=f"see {self.log}") from cause
        return document

    def stop(self) -> None:
        """Ask it to end, then insist; safe to call twice."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):  # whatever it left behind in its group
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_STOP_TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


def children_of(pid: int) -> dict[int, str]:
    """Return the command line of each process that ``pid`` started, and that those started."""
    lines: dict[int, str] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text("utf-8", "replace")
            lines[int(entry.name)] = (
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            )
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return {child: lines.get(child, "") for child in found - {pid}}


def run(command: Sequence[str], log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a command that prints one JSON document.

    Raises:
        EdgekitError: It failed; what it printed is in the log.
    """
    with log.open("ab") as errors:
        shown = [
            "***" if before == "--token" else word
            for before, word in zip(("", *command), command, strict=False)
        ]
        errors.write(f"$ {' '.join(shown)}\n".encode())
        errors.flush()
        done = subprocess.run(
            list(command), stdout=subprocess.PIPE, stderr=errors, env=os.environ | environment, check=False
        )
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        document = {}
    if done.returncode:
        said = document.get("error", {}).get("message", "")
        words = " ".join(Path(word).name if word.startswith("/") else word for word in command[:4])
        raise EdgekitError(f"{words} ended with exit code {done.returncode}: {said}", hint=f"see {log}")
    return document


def wait_for(what: str, test: Callable[[], Any], timeout_s: float, poll_s: float = 0.5) -> Any:
    """Ask until the answer is true, and return it.

    Raises:
        ServerError: It did not become true in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if answer := test():
            return answer
        if time.monotonic() > deadline:
            raise ServerError(f"waited {timeout_s:.0f} s in vain for: {what}", hint="see .demo/run/logs")
        time.sleep(poll_s)
