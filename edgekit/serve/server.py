"""Runs the application on uvicorn, on sockets bound here. The only file that imports uvicorn."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError
from edgekit.serve.ports import Limits

if TYPE_CHECKING:
    from edgekit.serve.app import App

logger = logging.getLogger(__name__)
_GRACE_S = 5
_BACKLOG = 128


@dataclass(frozen=True)
class Address:
    """Where a server listens: a TCP host and port (0: any free one), a UNIX socket's path, or both."""

    host: str = ""
    port: int = 0
    uds: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@contextlib.contextmanager
def listening(address: Address) -> Iterator[tuple[list[socket.socket], list[str]]]:
    """Yield the bound sockets and their URLs; remove the UNIX socket at the end.

    Raises:
        ConfigError: An address is in use, not this machine's, or may not be bound.
    """
    with contextlib.ExitStack() as stack:
        sockets, urls = [], []
        if address.host:
            bound = stack.enter_context(_tcp(address.host, address.port))
            name = f"[{address.host}]" if ":" in address.host else address.host
            scheme = "https" if address.certificate else "http"
            sockets.append(bound)
            urls.append(f"{scheme}://{name}:{bound.getsockname()[1]}")
        if address.uds is not None:
            sockets.append(stack.enter_context(_uds(address.uds)))
            urls.append(f"unix:{address.uds}")
            stack.callback(address.uds.unlink, missing_ok=True)
        yield sockets, urls


def _tcp(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as cause:
        raise ConfigError(f"cannot listen on {host}: {cause.strerror or cause}") from cause
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as cause:
        bound.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {cause.strerror}",
            hint="give another --port, or --port 0 for a free one",
        ) from cause
    return bound


def _uds(path: Path) -> socket.socket:
    """Bind a UNIX socket that only this user may open, in place of one that a dead server left."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError as cause:
        bound.close()
        raise ConfigError(f"cannot listen on {path}: {cause.strerror or cause}") from cause
    return bound


def _is_abandoned(path: Path) -> bool:
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def run(
    app: App,
    address: Address,
    limits: Limits,
    *,
    on_listening: Callable[[list[str]], object] = lambda _: None,
) -> int:
    """Serve until SIGINT or SIGTERM; return the signal.

    Args:
        app: The application.
        address: Where to listen.
        limits: The bounds.
        on_listening: Called with the URLs once the sockets accept connections.

    Raises:
        ConfigError: uvicorn is not installed, or an address cannot be used.
    """
    uvicorn = _uvicorn()
    server = uvicorn.Server(_config(uvicorn, app, address, limits))
    with listening(address) as (sockets, urls), _recorded(server) as signals:
        for bound in sockets:
            bound.listen(_BACKLOG)
        on_listening(urls)
        server.run(sockets=sockets)
    return signals[0] if signals else 0


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as cause:
        raise ConfigError(
            "serving needs uvicorn, which is not installed", hint=install_hint("serve")
        ) from cause
    return uvicorn


def _config(uvicorn: Any, app: App, address: Address, limits: Limits) -> Any:
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
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )


@contextlib.contextmanager
def _recorded(server: Any) -> Iterator[list[int]]:
    """Yield the signals that end the server; uvicorn raises them again once it has ended."""
    signals: list[int] = []

    def note(number: int, _: object) -> None:
        signals.append(number)
        server.should_exit = True

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
