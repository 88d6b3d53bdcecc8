"""A broker as a child process: started, watched, restarted when it ends, ended with its fleet manager."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edgekit.base.files import write_durably
from edgekit.core.errors import LinkError, StorageError
from edgekit_fleet.broker.broker_log import BrokerLog

logger = logging.getLogger(__name__)

START_S = 20.0
STOP_S = 10.0
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 60.0
_START_TRIES = 3
_LOOK_S = 1.0
_SICK_LOOKS = 3
_SICK_STOP_S = 2.0


class Program(Protocol):
    """A broker's program: what it is started with, and how to see that it works.

    ``address`` is where devices reach it; ``is_it`` asks, for a hint, whether the program is a broker.
    """

    config_path: Path
    log: BrokerLog
    address: str
    is_it: str
    command: list[str]
    environment: Mapping[str, str]

    def write_files(self) -> None:
        """Write its configuration, before its first start."""

    def is_healthy(self) -> bool:
        """Say whether it works."""

    def look_after(self, pid: int) -> None:
        """Do what has to be done once a second while it runs."""


class Supervised:
    """A broker's process, watched by a thread.

    Args:
        program: What is started.
        on_start: Called each time before it starts: no device is connected then.
        has_room: Whether the disk has room: one that is full is no reason to restart it.
    """

    def __init__(
        self,
        program: Program,
        *,
        on_start: Callable[[], None] = lambda: None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.program = program
        self._folder = program.config_path.parent
        self._on_start, self._has_room = on_start, has_room
        self.problem = ""
        """What is wrong with it, for people; empty while it is well."""
        self._sick_looks = 0
        self._next_look_s = 0.0
        self.restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="broker-supervisor", daemon=True)

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it is healthy.

        Raises:
            LinkError: It did not become healthy; the reasons are from its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._end_orphan()
        self.program.write_files()
        self._thread.start()
        deadline_s = time.monotonic() + START_S
        while not self._ready.wait(0.05):
            if time.monotonic() > deadline_s or self.restarts >= _START_TRIES:
                self.stop()
                raise self._not_started()

    def _not_started(self) -> LinkError:
        reasons = self._log_tail()
        if any("address already in use" in reason.lower() for reason in reasons):
            hint = "another process is on that port: end it, or choose another --broker-port"
        else:
            hint = f"see {self.program.log.path}; {self.program.is_it}"
        ended = f"; it ended {self.restarts} times ({self._exit_code()})" if self.restarts else ""
        return LinkError(
            f"the broker did not start on {self.program.address}{ended}",
            reasons=tuple(reasons or [self.problem] if reasons or self.problem else ()),
            hint=hint,
        )

    def turned_away(self) -> Counter[tuple[str, str]]:
        """Return how often it refused something of a device since the last call, by device and reason."""
        return self.program.log.read()

    def stop(self) -> None:
        """Stop it and wait for its end; safe twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S + 5)

    def reload(self) -> None:
        """Have it read its certificate and who is barred again, without a restart.

        A nats-server closes the connections of devices, as at every reload where a callout decides who may
        connect; they come back within seconds.
        """
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGHUP)

    def is_healthy(self) -> bool:
        """Say whether its health check passes."""
        return self.program.is_healthy()

    def _supervise(self) -> None:
        """Run it until stopped; the pause before a restart grows while it keeps failing."""
        failures = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            is_begun = self._begin()
            if is_begun:
                self._watch()
            if self._stopping.is_set():
                break
            is_expected = self._sick_looks >= _SICK_LOOKS or time.monotonic() - began_s > _STEADY_S
            failures = 0 if is_begun and is_expected else failures + 1
            self._sick_looks = 0
            self.restarts += 1
            pause_s = _BACKOFF_S[min(max(failures - 1, 0), len(_BACKOFF_S) - 1)]
            logger.error("the broker ended (%s); restarting it in %.1f s", self._exit_code(), pause_s)
            self._stopping.wait(pause_s)
        self._end()

    def _begin(self) -> bool:
        """Start the process; False if that failed, for instance because the disk is full."""
        try:
            self._on_start()
            self._spawn()
        except (OSError, StorageError) as cause:
            self.problem = f"The broker cannot be started: {cause}"
            logger.error("%s", self.problem)  # noqa: TRY400 - no bug
            return False
        return True

    def _spawn(self) -> None:
        command = self.program.command
        # The kernel ends it when this thread, and so this process, has ended: a broker without its
        # fleet manager would accept no device and keep the port.
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            command = [setpriv, "--pdeathsig", "TERM", *command]
        with self._errors_path.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**self.program.environment, **os.environ},
            )
        try:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (hard, hard))  # one file a device
            write_durably(self._pid_path, str(self._process.pid).encode())
        except OSError:  # a full disk: it must not run unwatched beside the next one
            self._process.kill()
            self._process.wait()
            raise

    def _watch(self) -> None:
        while not self._stopping.is_set() and self._process is not None and self._process.poll() is None:
            if not self._ready.is_set() and self.is_healthy():
                self._ready.set()
            if self._ready.is_set():
                self._look_after()
            self._stopping.wait(0.5 if self._ready.is_set() else 0.05)

    def _look_after(self) -> None:
        """Restart it if it is not healthy and the disk has room.

        A nats-server that met a full disk answers with its remembered error for ever, whatever room there
        is. It keeps nothing that devices and this fleet manager do not send again.
        """
        now_s = time.monotonic()
        if now_s < self._next_look_s or self._process is None:
            return
        self._next_look_s = now_s + _LOOK_S
        self.program.look_after(self._process.pid)
        is_sick = not self.is_healthy()
        self._sick_looks = self._sick_looks + 1 if is_sick else 0
        self.problem = "The broker does not work (its health check fails)." if is_sick else ""
        if self._sick_looks >= _SICK_LOOKS and self._has_room():
            logger.error("the broker is not healthy: restarting it")
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SICK_STOP_S)
                return
            self._process.kill()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            logger.warning("the broker did not end within %.0f s; killing it", STOP_S)
            process.kill()
            process.wait()
        self._pid_path.unlink(missing_ok=True)

    def _end_orphan(self) -> None:
        """End the broker of a fleet manager that was killed: it still holds the port and the messages."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_path.read_text())
            if not self._is_ours(pid):
                return
            logger.warning("ending the broker %d of a fleet manager that is gone", pid)
            os.kill(pid, signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_S
            while self._is_ours(pid) and time.monotonic() < deadline_s:
                time.sleep(0.02)
            if self._is_ours(pid):
                os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        """Say whether a process runs with a file of this folder; raises OSError without such a process."""
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty if it has ended
        return any(word.startswith(os.fsencode(f"{self._folder}/")) for word in command.split(b"\0"))

    def _exit_code(self) -> str:
        return "not started" if self._process is None else f"exit code {self._process.returncode}"

    def _log_tail(self) -> list[str]:
        lines: list[str] = []
        for path in (self.program.log.path, self._errors_path):
            with contextlib.suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()[-5:]
        return lines

    @property
    def _pid_path(self) -> Path:
        return self._folder / "broker.pid"

    @property
    def _errors_path(self) -> Path:
        return self._folder / "broker.err"
