"""Answers, in one event loop, on the connections that a front hands over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.serve.app import App
from edgekit.serve.hosting import Answered, Call, Connection, Pipe, Settings, Stop, Table, Taken
from edgekit.serve.models import Entry, Models
from edgekit.serve.server import Server
from edgekit.serve.siblings import Siblings

if TYPE_CHECKING:
    from edgekit.serve.view.page import Page
    from edgekit.serve.view.ports import View

_BEAT_S = 0.5


class Answering:
    """The server of one process behind the address.

    Args:
        pipe: To the front.
        settings: How it answers.
        models: What this process hosts.
        document: Returns what the front is to know, twice a second and after each change.
        on_begin: Called in the event loop when it begins.
        on_end: Called in the event loop when the front has ended.
        views: The pipelines of this process whose page it has, by name.

    Raises:
        ConfigError: uvicorn is not installed, or the certificate or key cannot be used.
    """

    def __init__(
        self,
        pipe: Pipe,
        settings: Settings,
        models: Models,
        document: Callable[[], Any],
        on_begin: Callable[[], object],
        on_end: Callable[[], object],
        views: Mapping[str, View] | None = None,
    ) -> None:
        self._pipe, self._document = pipe, document
        self._on_begin, self._on_end = on_begin, on_end
        self._siblings = Siblings(self._call)
        self._page = _page(settings, views, self._siblings) if settings.page and views is not None else None
        app = App(
            models,
            settings.access,
            settings.limits,
            settings.version,
            self._siblings,
            self._changed,
            settings.began_s,
            self._page,
            Path(settings.jobs) if settings.jobs else None,
        )
        self._server = Server(app, settings.limits, settings.certificate, settings.key)
        self._has_begun = False

    def run(self) -> None:
        """Answer until ``stop``, or the front says so."""
        self._server.run()

    def stop(self) -> None:
        """End ``run`` after the requests that run."""
        if self._page is not None:
            self._page.close()
        self._server.stop()

    def report(self) -> None:
        """Send the front what it is to know."""
        self._pipe.send(self._document())

    def _call(self, whom: Call, connection: socket.socket) -> bool:
        return self._pipe.send(whom, connection)

    def _changed(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            loop = asyncio.get_running_loop()
            loop.add_reader(self._pipe.fileno(), self._read)
            self._on_begin()
            loop.call_later(_BEAT_S, self._beat)
        self.report()

    def _beat(self) -> None:
        asyncio.get_running_loop().call_later(_BEAT_S, self._beat)
        self.report()

    def _read(self) -> None:
        while True:
            try:
                received = self._pipe.receive()
            except BlockingIOError:
                return
            if received is None:
                asyncio.get_running_loop().remove_reader(self._pipe.fileno())
                self._on_end()
                return
            message, connection = received
            if isinstance(message, Connection) and connection is not None:
                self._server.take(connection, lambda: self._pipe.send(Taken()))
            elif isinstance(message, Table):
                self._siblings.table = message
            elif isinstance(message, Stop):
                self.stop()


def answered_by(entry: Entry) -> Answered:
    """Return what the front is to know of a model's answers."""
    offer, shadow = entry.offer, entry.shadow
    return Answered(
        offer.name, offer.version, entry.meter.answers.get(200, 0), shadow.status() if shadow else None
    )


def _page(settings: Settings, views: Mapping[str, View], siblings: Siblings) -> Page:
    from edgekit.serve.view.login import Login
    from edgekit.serve.view.page import Page

    login = Login(settings.access.token, is_tls=bool(settings.certificate))
    return Page(lambda: views, login, siblings)
