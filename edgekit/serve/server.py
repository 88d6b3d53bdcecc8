"""Runs the application on uvicorn, on connections that another process accepted. Alone imports uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError
from edgekit.serve.ports import Limits

if TYPE_CHECKING:
    from edgekit.serve.app import App

logger = logging.getLogger(__name__)


class Server:
    """Answers on the connections that it is given; use it from one thread.

    ``certificate`` and ``key`` are PEM files; empty for HTTP without TLS.

    Raises:
        ConfigError: uvicorn is not installed, or the certificate or key cannot be used.
    """

    def __init__(self, app: App, limits: Limits, certificate: str = "", key: str = "") -> None:
        uvicorn = _uvicorn()
        self._config = _config(uvicorn, app, limits, certificate, key)
        try:
            self._config.load()
        except OSError as cause:  # ssl.SSLError is one
            raise ConfigError(f"--tls-cert {certificate}, --tls-key {key}: {cause}") from cause
        self._server = uvicorn.Server(self._config)
        self._server.capture_signals = contextlib.nullcontext  # whoever hands connections over stops it
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Serve until ``stop``."""
        self._server.run(sockets=[])

    def take(self, connection: socket.socket) -> None:
        """Answer on a connection, in the loop that ``run`` began."""
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._take(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as cause:
        raise ConfigError(
            "serving needs uvicorn, which is not installed", hint=install_hint("serve")
        ) from cause
    return uvicorn


def _config(uvicorn: Any, app: App, limits: Limits, certificate: str, key: str) -> Any:
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
        limit_concurrency=limits.connections,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=limits.grace_s,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
    )
