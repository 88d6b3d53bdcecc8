"""A worker process as the supervisor holds it: started, heard, timed, ended."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.agent.ipc import Channel, FromWorker, Run, Stop
from edgekit.core.errors import LinkError

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "edgekit.agent.worker")


class WorkerProcess:
    """One started worker and the channel to it.

    Args:
        run: The first message.
        environment: The process's environment variables.
        now_s: The monotonic time.
        command: What is started; ``--channel FD`` is added.

    Raises:
        LinkError: It does not take its first message.
        OSError: The process cannot be started.
    """

    def __init__(
        self, run: Run, environment: Mapping[str, str], now_s: float, command: Sequence[str] = COMMAND
    ) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, "--channel", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # whatever a native library prints there
                    env=dict(environment),
                )
        except OSError:
            ours.close()
            raise
        self.channel = Channel(ours, FromWorker)
        self.started_s = now_s
        self.progressed_s = now_s
        self.heard_s = now_s
        self.stop_deadline_s: float | None = None
        self.channel.send(run)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def stop(self, deadline_s: float) -> None:
        """Ask it to end; ``is_overdue`` tells from the deadline on that it did not."""
        self.stop_deadline_s = deadline_s
        with contextlib.suppress(LinkError):
            self.channel.send(Stop())

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end."""
        return self.stop_deadline_s is not None

    def is_overdue(self, now_s: float) -> bool:
        """Whether it was asked to end and took too long."""
        return self.stop_deadline_s is not None and now_s >= self.stop_deadline_s

    def send(self, message: Any) -> bool:
        """Hand it a message; False where it is gone."""
        try:
            self.channel.send(message)
        except LinkError as error:
            logger.warning("worker %d: %s", self.pid, error)
            return False
        return True

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def reap(self, wait_s: float = 2.0) -> int:
        """Collect its exit code after its channel closed; kills it where it lingers. Frees all."""
        self.channel.close()
        try:
            code = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        return code


def rss_mb(pid: int) -> float:
    """Return a process's resident memory in MiB; 0 where it is gone.

    Source: proc(5), /proc/PID/statm.
    """
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - read each few seconds
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
