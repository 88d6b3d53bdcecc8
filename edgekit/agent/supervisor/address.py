"""The address of the local API: held by the supervisor, answered by the workers that host the models."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.access import access_for, settings_of
from edgekit.agent.config import PipelinePlan, Serving, in_the_file
from edgekit.agent.front import Front
from edgekit.agent.grpc_child import GrpcChild
from edgekit.agent.peer import Peer
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.served import Served
from edgekit.core.errors import ConfigError, UsageError
from edgekit.serve.address import listening
from edgekit.serve.hosting import Answered, FromHost, Offers, Pipe, Row, Settings
from edgekit.serve.traffic import Traffic

logger = logging.getLogger(__name__)
Admit = Callable[[socket.socket, int, int], "Door"]
SILENT = "its process does not respond"


class LocalAddress:
    """Listens where ``[serve]`` says, and hands connections to the workers.

    Args:
        serving: The table.
        reactor: Runs it.
        state: The agent's folder.
        plans: The agent's pipelines.

    Raises:
        ConfigError: Other machines can reach the address and there is no token, or it is weak; the address
            cannot be used; or gRPC is asked for and its libraries are not installed, or the address has no
            host for it; a model in ``[[serve.model]]`` contradicts itself or the pipelines.
        BundleError: A bundle there is not one.
    """

    def __init__(
        self, serving: Serving, reactor: Reactor, state: Path, plans: Collection[PipelinePlan] = ()
    ) -> None:
        self._served = Served(serving.models, plans)
        address, limits, port = serving.address, serving.limits, serving.grpc_port
        try:
            access = access_for(address, serving.token_file)
            self._grpc = None if port is None else GrpcChild(reactor, address, port)
        except UsageError as error:
            raise ConfigError(
                f"[serve]: {in_the_file(error.message)}", hint=in_the_file(error.hint)
            ) from error
        self._reactor, self._stack = reactor, contextlib.ExitStack()
        jobs = state / "jobs" if serving.jobs else None
        self._settings = settings_of(
            access, limits, address, reactor.now_s(), has_page=serving.page, jobs=jobs
        )
        sockets, self.urls = self._stack.enter_context(listening(address))
        is_tls = address.certificate is not None
        listeners = [(bound, is_tls and bound.family != socket.AF_UNIX) for bound in sockets]
        self._front = Front(reactor, listeners, is_open=not access.token, traffic=self._traffic)
        self._doors: list[Door] = []
        self._served.start(self._settings, reactor, self._front)
        self._place()
        self._front.listen()
        if self._grpc is not None:
            self._grpc.start(self.urls[0])
        logger.info("the local API is at %s", ", ".join(self.urls))

    def admit(self, ours: socket.socket, pid: int, restarts: int) -> Door:
        """Have a worker answer, at the other end of ``ours``, for the models that it offers."""
        door = Door(ours, pid, restarts, self._settings, self._reactor, self._front, self._forget)
        self._doors.append(door)
        self._place()
        return door

    def _place(self) -> None:
        self._front.peers = [*self._doors, *self._served.hosts]

    def _forget(self, door: Door) -> None:
        self._doors.remove(door)
        self._place()
        self._front.changed()

    def _traffic(self) -> tuple[Traffic, ...]:
        return self._served.traffic(row for door in self._doors for row in door.rows)

    def status(self) -> list[dict[str, Any]]:
        """Return a row for each model in ``[[serve.model]]``: who gets its requests, and what came of it."""
        return self._served.status(self._front.peers, self._traffic())

    def stop(self) -> None:
        """Have the processes that serve bundles end; ``has_ended`` says when they have."""
        self._served.stop(self._reactor.after)

    @property
    def has_ended(self) -> bool:
        """Whether no bundle's process runs."""
        return self._served.have_ended

    def close(self) -> None:
        """Accept no more, and close what nobody answers."""
        self._front.stop()
        if self._grpc is not None:
            self._grpc.stop()
        self._front.close()
        for door in list(self._doors):
            door.close()
        self._stack.close()


class Door(Peer):
    """A worker, as the one who holds the address sees it."""

    def __init__(
        self,
        ours: socket.socket,
        pid: int,
        restarts: int,
        settings: Settings,
        reactor: Reactor,
        front: Front,
        on_end: Callable[[Door], None],
    ) -> None:
        super().__init__(reactor, settings.limits.quiet_s, front.call, front.refuse)
        self._front, self._on_end = front, on_end
        self._process, self._offered = {"pid": pid, "restarts": restarts}, Offers(())
        self._is_shown = False
        self._connect(Pipe(ours, FromHost))
        self._send(settings)

    @property
    def rows(self) -> tuple[Row, ...]:
        """What every worker is to know of this one's models."""
        if not self._is_shown:
            return ()
        known: dict[str, Any] = {**self._process, "is_answering": self.is_answering}
        if not self.is_answering:
            known |= {"state": "UNAVAILABLE", "reason": SILENT}
        return tuple(msgspec.structs.replace(row, **known) for row in self._offered.rows)

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The pipelines whose page it has."""
        return self._offered.pipelines if self.is_answering else ()

    @property
    def answered(self) -> tuple[Answered, ...]:
        """What its models answered."""
        return self._offered.answered if self._is_shown else ()

    @property
    def is_answering(self) -> bool:
        """Whether it takes connections: it was heard of a moment ago, and is no standby."""
        return self._is_shown and super().is_answering

    def show(self, *, is_shown: bool, recycled: int = 0) -> None:
        """Hand it connections from now on, or no more; those that it has are answered."""
        self._is_shown, self._process["recycled"] = is_shown, recycled
        self._front.changed()

    def close(self) -> None:
        """Hand over no more; safe to call twice."""
        self._disconnect()

    def _handle(self, message: object) -> None:
        if isinstance(message, Offers) and message != self._offered:
            self._offered = message
            self._front.changed()

    def _ended(self) -> None:
        self._on_end(self)
