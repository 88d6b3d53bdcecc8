"""Runs an application on uvicorn, on connections that another process accepted. Alone imports uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError
from edgekit.serve.app import App
from edgekit.serve.connections import Connections, with_bounds
from edgekit.serve.fast_path import with_fast_path
from edgekit.serve.ports import Limits

logger = logging.getLogger(__name__)
_LOOK_S = 5.0
_ROOM_S = 0.01
_KEEP_ALIVE_S = 60
_OTHER_FILES = 128
"""Descriptors that are not connections: of the runtime, the model's files, the pipes."""
Application = Callable[..., Awaitable[None]]
"""An ASGI application that answers lifespan events."""


class Server:
    """Answers on the connections that it is given; use it from one thread.

    ``certificate`` and ``key`` are PEM files; empty for HTTP without TLS.

    Raises:
        ConfigError: uvicorn is not installed, or the certificate or key cannot be used.
    """

    def __init__(self, app: Application, limits: Limits, certificate: str = "", key: str = "") -> None:
        uvicorn = _uvicorn()
        self._config = _config(uvicorn, app, limits, certificate, key)
        try:
            load(self._config, app, limits)
        except OSError as cause:  # ssl.SSLError is one
            raise ConfigError(f"--tls-cert {certificate}, --tls-key {key}: {cause}") from cause
        self._server = uvicorn.Server(self._config)
        self._server.capture_signals = contextlib.nullcontext  # whoever hands connections over stops it
        self._tasks: set[asyncio.Task[None]] = set()
        self._arriving: deque[tuple[socket.socket, Callable[[], object]]] = deque()
        most = min(limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)
        self._connections = Connections(
            lambda: self._server.server_state.connections, most, 1.25 * _KEEP_ALIVE_S, limits.body_s
        )
        self._is_looking = False

    def run(self, listeners: Sequence[socket.socket] = ()) -> None:
        """Serve until ``stop``, at bound sockets too where there is no front that hands connections over."""
        self._server.run(sockets=[*listeners])

    def take(self, connection: socket.socket, on_taken: Callable[[], object] = lambda: None) -> None:
        """Answer on a connection, in the loop that ``run`` began, as soon as there is room for one more.

        ``on_taken`` is called then; until then whoever hands connections over should hold back.
        """
        self._arriving.append((connection, on_taken))
        if len(self._arriving) == 1:
            self._admit()
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _admit(self) -> None:
        loop = asyncio.get_running_loop()
        while self._arriving:
            if not self._connections.has_room(len(self._tasks)):
                loop.call_later(_ROOM_S, self._admit)
                return
            connection, on_taken = self._arriving.popleft()
            on_taken()
            connection.setblocking(False)
            task = loop.create_task(self._take(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _look(self) -> None:
        self._connections.look()
        asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    async def _take(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._config.ssl if connection.family != socket.AF_UNIX else None,
            )
        except OSError as cause:
            logger.debug("a connection ended before its first request: %s", cause)
            connection.close()

    def _protocol(self) -> Any:
        server = self._server
        return self._config.http_protocol_class(
            config=self._config, server_state=server.server_state, app_state=server.lifespan.state
        )

    def stop(self) -> None:
        """End ``run`` after the requests that run, at most ``Limits.grace_s`` later."""
        self._server.should_exit = True


def load(config: Any, app: Application, limits: Limits) -> None:
    """Load uvicorn's configuration, and give its protocol bounds and the fast path to models."""
    config.load()
    config.http_protocol_class = with_bounds(config.http_protocol_class)
    if isinstance(app, App):
        config.http_protocol_class = with_fast_path(config.http_protocol_class, app, limits)


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as cause:
        raise ConfigError(
            "serving needs uvicorn, which is not installed", hint=install_hint("serve")
        ) from cause
    return uvicorn


def _config(uvicorn: Any, app: Application, limits: Limits, certificate: str, key: str) -> Any:
    return uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=limits.grace_s,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
    )
