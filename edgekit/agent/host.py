"""Hosts one served model: ``python -m edgekit.agent.host``, started by a front."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec

from edgekit.agent.answering import Answering, answered_by
from edgekit.base.child import ORPHANED
from edgekit.base.failures import failure_of
from edgekit.base.interpreter import share_interpreter
from edgekit.base.logs import log_to_stderr
from edgekit.base.signals import die_with_parent
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import RETRY_S
from edgekit.model.exclusions import Exclusion, Exclusions
from edgekit.model.joined import offer_of
from edgekit.serve.hosting import Failed, Pipe, ReplicaRow, Report, Start, ToHost, Trying
from edgekit.serve.models import LOADING, READY, UNAVAILABLE, Entry, Models
from edgekit.serve.ports import Held

logger = logging.getLogger(__name__)
_REASON, _SHORT = 2000, 300
_FILES = 8192
"""Descriptors, most of them for connections; 1,024 are the usual limit."""


class _Host:
    """One model in this process, kept open, and what the front is to know of it."""

    def __init__(self, pipe: Pipe, start: Start) -> None:
        def trying(variant: str, left: int) -> None:
            pipe.send(Trying(variant, left))

        self._pipe = pipe
        rows = msgspec.convert(start.exclusions, dict[str, Exclusion])
        self._exclusions, self._has_opened = Exclusions(rows=rows), False
        self._offer = offer_of(start.path, start.threads, self._exclusions, trying, start.replicas)
        self._entry = self._entry_for(start)
        self._entry.should_load = start.should_load
        self._entry.state, self._entry.reason = (
            (LOADING, "") if start.should_load else (UNAVAILABLE, "unloaded")
        )
        # nobody is there to hand over connections, or to end this process, once the front has ended
        self._answering = Answering(
            pipe,
            start.settings,
            Models([self._entry]),
            self._report,
            self._begin,
            lambda: os._exit(ORPHANED),
        )
        self._opening: asyncio.Task[None] | None = None

    def _entry_for(self, start: Start) -> Entry:
        limits = start.settings.limits
        if not self._offer.replicas:
            return Entry(msgspec.structs.replace(self._offer, open=self._open), limits)
        from edgekit.serve.replicas import Replicated  # memory that few need

        return Replicated(self._offer, limits, needs_all=start.needs_all)

    def run(self) -> None:
        """Serve until the front says stop; the process exits where the front has ended."""
        self._answering.run()
        self._entry.end()

    def _open(self) -> Held:
        """Open the model; once it was tried, every variant may be chosen again."""
        if self._has_opened:
            self._exclusions.forget()
        self._has_opened = True
        return self._offer.open()

    def _begin(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._keep_open())

    def _report(self) -> Report:
        entry, replicas = self._entry, self._entry.replicas()
        is_stuck = entry.state == READY and entry.lane.is_stuck  # opening a model may take minutes
        return Report(
            state=entry.state,
            reason=entry.reason[:_REASON],
            variant=entry.servable.variant if entry.servable and not replicas else "",
            exclusions=msgspec.to_builtins(self._exclusions.rows),
            should_load=entry.should_load,
            is_stuck=is_stuck,
            answered=answered_by(entry),
            replicas=tuple(
                ReplicaRow(row["name"], row["variant"], row["state"], row["reason"][:_SHORT], row["losses"])
                for row in replicas
            ),
        )

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
                self._answering.report()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)


def main(arguments: Sequence[str]) -> int:
    """Serve the model that the front names until it says stop; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the front, which ends this process
        signal.signal(number, lambda *_: None)
    die_with_parent()
    share_interpreter()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _FILES)), hard))
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
