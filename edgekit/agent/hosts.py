"""The process that hosts one served model, as the process that holds the address sees it.

A host that ends or hangs is started again. A variant that made it do so, by a native crash or a hang, is
excluded with the reason, and another runs; where none is left, all may run again and the waits grow.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Callable

import msgspec

from edgekit.agent.peer import Peer
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts
from edgekit.base.child import exit_reason, is_native_crash
from edgekit.base.failures import error_of
from edgekit.core.errors import BackendError, EdgekitError
from edgekit.model.exclusions import Exclusion, Exclusions
from edgekit.serve.hosting import (
    Answered,
    Call,
    Failed,
    FromHost,
    Pipe,
    Report,
    Row,
    Start,
    Stop,
    Trying,
)

logger = logging.getLogger(__name__)
COMMAND = (sys.executable, "-m", "edgekit.agent.host")
OPENING_S = 150.0
"""A host that opens a model may be silent for this long: a runtime may hold the interpreter's lock."""


class Host(Peer):
    """One model's process; all methods belong to the reactor's thread.

    Args:
        name: The model's name.
        version: Its version.
        start: How the model is opened.
        reactor: Runs it.
        restarts: How long to wait before a start.
        exclusions: The variants that were lost.
        call: Hands a connection to another host.
        refuse: Answers on a connection that this host did not take.
        on_change: Called after each change of what ``row`` says.
    """

    def __init__(
        self,
        name: str,
        version: str,
        start: Start,
        reactor: Reactor,
        restarts: Restarts,
        exclusions: Exclusions,
        call: Callable[[socket.socket, Call], None],
        refuse: Callable[[socket.socket, Peer], None],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(reactor, start.settings.limits.quiet_s, call, refuse)
        self.name, self.version = name, version
        self.has_opened = self.is_begun = False
        self.error: EdgekitError | None = None
        self._start, self._limits, self._restarts = start, start.settings.limits, restarts
        self._exclusions, self._on_change = exclusions, on_change
        self._is_stopping = False
        self._reason = "it is being opened"
        self._process: subprocess.Popen[bytes] | None = None
        self._reset()

    def _reset(self) -> None:
        self._report = Report(
            state="LOADING",
            reason="",
            variant="",
            exclusions={},
            should_load=self._start.should_load,
            is_stuck=False,
        )
        self._trying = Trying("", 0)
        self._started_s = 0.0
        self._why_killed = ""
        self._is_suspect_guilty = False

    @property
    def has_ended(self) -> bool:
        """Whether there is no process."""
        return self._process is None

    @property
    def rows(self) -> tuple[Row, ...]:
        """What all hosts are to know of its model."""
        reason = "its process does not respond" if self._heard_s else self._reason
        row = Row(
            name=self.name,
            version=self.version,
            state=self._report.state if self.is_answering else "UNAVAILABLE",
            reason=self._report.reason if self.is_answering else reason,
            should_load=self._report.should_load,
            pid=0 if self._process is None else self._process.pid,
            restarts=self._restarts.total,
            is_answering=self.is_answering,
            replicas=self._report.replicas if self.is_answering else (),
        )
        return (row,)

    @property
    def answered(self) -> tuple[Answered, ...]:
        """What its model answered."""
        answered = self._report.answered
        return () if answered is None else (answered,)

    # -- what its owner asks of it

    def begin(self) -> None:
        """Start the process; it opens its model once ``open`` is called."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            self._process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno()), self.name, self.version],  # names: for lists of processes
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # whatever a native library prints there
            )
            undo.pop_all()
        self._connect(Pipe(ours, FromHost))

    def open(self) -> None:
        """Have it open its model."""
        self.is_begun, self._started_s = True, self._reactor.now_s()
        rows = msgspec.to_builtins(self._exclusions.rows)
        needs_all = self._start.needs_all and not self.has_opened
        self._send(msgspec.structs.replace(self._start, exclusions=rows, needs_all=needs_all))

    def check(self) -> None:
        """Kill it where it hangs."""
        if not self._started_s or self._why_killed or self._is_stopping:
            return
        silent_s = self._reactor.now_s() - max(self._heard_s, self._started_s)
        most_s = OPENING_S if self._report.state == "LOADING" else self._limits.silent_s
        if self._report.is_stuck:
            self._is_suspect_guilty = True
            self.kill(f"an inference took longer than {self._limits.stuck_s:g} s")
        elif silent_s > most_s:
            self._is_suspect_guilty = True
            self.kill(f"its process did not respond for {most_s:g} s")

    def stop(self) -> None:
        """Ask it to end after the requests that run."""
        self._is_stopping = True
        self._send(Stop())

    def kill(self, reason: str) -> None:
        """Kill it."""
        self._why_killed = reason
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    # -- what it says

    def _broke(self, reason: str) -> None:
        self.kill(reason)

    def _handle(self, message: object) -> None:
        if isinstance(message, Trying):
            self._trying = message
        elif isinstance(message, Failed):
            self.error = error_of(message.failure)
            self._on_change()
        elif isinstance(message, Report) and message != self._report:
            self._report = message
            self._exclusions.rows = msgspec.convert(message.exclusions, dict[str, Exclusion])
            if message.variant:  # another one that was tried in vain is no longer a suspect
                self._trying = Trying(message.variant, self._trying.left)
            if message.state == "READY":
                self.has_opened, self.error = True, None
            self._on_change()

    # -- its end

    def _ended(self) -> None:
        assert self._process is not None
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        failure = self.error.message if self.error is not None and code > 0 else ""
        reason = self._why_killed or failure or f"its process ended ({exit_reason(code)})"
        is_guilty = self._is_suspect_guilty or (not self._why_killed and is_native_crash(code))
        suspect, self._process = self._trying, None
        self._start_again(reason, suspect if is_guilty else Trying("", 0))

    def _start_again(self, reason: str, guilty: Trying) -> None:
        """Start again: at once without a variant that ended it, else after a wait that grows."""
        should_load = self._report.should_load
        self._start = msgspec.structs.replace(self._start, should_load=should_load)
        self._reset()
        self._reason = f"{reason}; it is opened again"
        if self._is_stopping:
            return
        self._restarts.crashed(self._reactor.now_s())
        delay_s = self._restarts.delay_s
        if guilty.left > 0:
            delay_s = 0.0
            self._exclusions.add(guilty.variant, reason, self._reactor.now_s())
            logger.error("%s %s: variant %s is excluded: %s", self.name, self.version, guilty.variant, reason)
        elif self.has_opened:
            if guilty.variant:
                self._exclusions.forget()  # whatever is left did not help: begin again with the best
            logger.error("%s %s: %s; opened again in %.1f s", self.name, self.version, reason, delay_s)
        else:
            self.error = self.error or BackendError(f"{self.name} {self.version}: {reason}")
        self._on_change()
        self._reactor.after(delay_s, self._begin_again)

    def _begin_again(self) -> None:
        if self._is_stopping:
            return
        try:
            self.begin()
        except OSError as cause:
            self._start_again(f"its process cannot be started: {cause.strerror}", Trying("", 0))
        else:
            self.open()
