"""A worker process and the supervisor's channel to it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.agent.ipc import Channel, FromWorker, Stop
from edgekit.core.errors import LinkError

if TYPE_CHECKING:
    from edgekit.agent.supervisor.address import Door

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "edgekit.agent.worker")


class WorkerProcess:
    """One started worker, which sends progress each ``progress_s`` seconds, and the channel to it.

    With ``has_api`` there is a second one, ``api``, by which it is handed connections of local programs.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        now_s: float,
        progress_s: float = 1.0,
        command: Sequence[str] = COMMAND,
        *,
        has_api: bool = False,
    ) -> None:
        ours, theirs = socket.socketpair()
        self.api: socket.socket | None = None
        given = {"--channel": theirs}
        if has_api:
            self.api, given["--api"] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = [word for option, end in given.items() for word in (option, str(end.fileno()))]
        try:
            with contextlib.ExitStack() as stack:
                for end in given.values():
                    stack.enter_context(end)
                self._process = subprocess.Popen(
                    [*command, *ends, "--progress-s", str(progress_s)],
                    pass_fds=[end.fileno() for end in given.values()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # whatever a native library prints there
                    env=dict(environment),
                )
        except OSError:
            ours.close()
            if self.api is not None:
                self.api.close()
            raise
        self.channel = Channel(ours, FromWorker)
        self.door: Door | None = None
        """Through which it is handed connections, while there is a local API."""
        self.heard_s = now_s
        self.stop_deadline_s: float | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def stop(self, deadline_s: float) -> None:
        """Ask it to end; from the deadline on ``is_overdue`` is true."""
        self.stop_deadline_s = deadline_s
        self.send(Stop())

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end."""
        return self.stop_deadline_s is not None

    def is_overdue(self, now_s: float) -> bool:
        """Whether it was asked to end and missed the deadline."""
        return self.stop_deadline_s is not None and now_s >= self.stop_deadline_s

    def send(self, message: Any) -> bool:
        """Send a message; return False if the process is gone."""
        try:
            self.channel.send(message)
        except LinkError as error:
            logger.warning("worker %d: %s", self.pid, error)
            return False
        return True

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def reap(self, wait_s: float = 2.0) -> int:
        """Return its exit code after its channel closed; kill it if it does not end in time."""
        self.channel.close()
        try:
            code = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        return code


def rss_mb(pid: int) -> float:
    """Return a process's resident memory in MiB; 0 if it is gone.

    Source: proc(5), /proc/PID/statm.
    """
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - read each few seconds
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def pss_mb(pid: int) -> float:
    """Return a process's memory in MiB, of what several processes map its share only; 0 if it is gone.

    Source: proc(5), /proc/PID/smaps_rollup.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123 - as above
            kib = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0
    return kib / 1024


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since the machine's start.

    Source: proc(5), /proc/vmstat, ``oom_kill``; 0 before Linux 4.13.
    """
    try:
        with open("/proc/vmstat", encoding="ascii") as file:  # noqa: PTH123 - as above
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
