"""Hosts one served model: ``python -m edgekit.agent.host``, started by a front."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec

from edgekit.base.child import ORPHANED
from edgekit.base.failures import failure_of
from edgekit.base.logs import log_to_stderr
from edgekit.base.signals import die_with_parent
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import RETRY_S
from edgekit.model.exclusions import Exclusion, Exclusions
from edgekit.model.servable import offer
from edgekit.serve.app import App
from edgekit.serve.hosting import (
    Call,
    Connection,
    Failed,
    Pipe,
    Report,
    Row,
    Start,
    Stop,
    Table,
    Taken,
    ToHost,
    Trying,
)
from edgekit.serve.models import LOADING, READY, UNAVAILABLE, Entry, Models
from edgekit.serve.ports import Held
from edgekit.serve.server import Server
from edgekit.serve.siblings import Siblings

logger = logging.getLogger(__name__)
_BEAT_S = 0.5
_REASON = 2000


class _Host:
    """What happens in the event loop besides requests: messages of the front, and reports to it."""

    def __init__(self, pipe: Pipe, start: Start) -> None:
        def trying(variant: str, left: int) -> None:
            pipe.send(Trying(variant, left))

        def call(row: Row, connection: socket.socket) -> bool:
            return pipe.send(Call(row.name, row.version), connection)

        self._pipe, self._siblings = pipe, Siblings(call)
        rows = msgspec.convert(start.exclusions, dict[str, Exclusion])
        self._exclusions, self._has_opened = Exclusions(rows=rows), False
        self._offer = offer(start.path, start.threads, self._exclusions, trying)
        self._entry = Entry(dataclasses.replace(self._offer, open=self._open), start.limits)
        self._entry.should_load = start.should_load
        self._entry.state, self._entry.reason = (
            (LOADING, "") if start.should_load else (UNAVAILABLE, "unloaded")
        )
        app = App(
            Models([self._entry]),
            start.access,
            start.limits,
            start.version,
            self._siblings,
            self._begin,
            start.began_s,
        )
        self._server = Server(app, start.limits, start.certificate, start.key)
        self._opening: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until the front says stop; the process exits where the front has ended."""
        self._server.run()
        self._entry.end()

    def _open(self) -> Held:
        """Open the model; once it was tried, every variant may be chosen again."""
        if self._has_opened:
            self._exclusions.forget()
        self._has_opened = True
        return self._offer.open()

    def _begin(self) -> None:
        """Begin with the event loop, and report every change."""
        if self._opening is None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._pipe.fileno(), self._read)
            self._opening = loop.create_task(self._keep_open())
            loop.call_later(_BEAT_S, self._beat)
        self._report()

    def _beat(self) -> None:
        asyncio.get_running_loop().call_later(_BEAT_S, self._beat)
        self._report()

    def _report(self) -> None:
        entry = self._entry
        is_stuck = entry.state == READY and entry.lane.is_stuck  # opening a model may take minutes
        self._pipe.send(
            Report(
                state=entry.state,
                reason=entry.reason[:_REASON],
                variant=entry.servable.variant if entry.servable else "",
                exclusions=msgspec.to_builtins(self._exclusions.rows),
                should_load=entry.should_load,
                is_stuck=is_stuck,
            )
        )

    def _read(self) -> None:
        while True:
            try:
                received = self._pipe.receive()
            except BlockingIOError:
                return
            if received is None:  # nobody is there to hand over connections, or to end this process
                os._exit(ORPHANED)
            message, connection = received
            if isinstance(message, Connection) and connection is not None:
                self._pipe.send(Taken())
                self._server.take(connection)
            elif isinstance(message, Table):
                self._siblings.table = message
            elif isinstance(message, Stop):
                self._server.stop()

    async def _keep_open(self) -> None:
        """Open the model; one that cannot be opened is tried again, ever more rarely."""
        entry, (wait_s, longest_s) = self._entry, RETRY_S
        while True:
            if entry.should_load and not entry.is_held:
                try:
                    await entry.load()
                except EdgekitError as error:
                    self._pipe.send(Failed(failure_of(error)))
                except Exception:
                    logger.exception("%s cannot be opened", entry.offer.name)
                    os._exit(1)  # a bug, which would be silent in a task
                self._report()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)


def main(arguments: Sequence[str]) -> int:
    """Serve the model that the front names until it says stop; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the front, which ends this process
        signal.signal(number, lambda *_: None)
    die_with_parent()
    end = socket.socket(fileno=int(arguments[0]))
    with contextlib.closing(Pipe(end, ToHost)) as pipe:
        select.select([pipe], [], [])
        received = pipe.receive()
        start = received[0] if received is not None else None
        if not isinstance(start, Start):  # the front has ended, or is to end
            return ORPHANED
        log_to_stderr(start.log_level)
        try:
            _Host(pipe, start).run()
        except EdgekitError as error:
            pipe.send(Failed(failure_of(error)))
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
