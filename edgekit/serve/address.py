"""Where a server listens: TCP and UNIX sockets, bound here; without the server itself."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgekit.core.errors import ConfigError, UsageError

DEFAULT_PORT = 8000


class Address(msgspec.Struct, frozen=True):
    """Where a server listens: a TCP host and port (0: any free one), a UNIX socket's path, or both."""

    host: str = ""
    port: int = 0
    uds: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def address_of(
    host: str | None, port: int | None, uds: Path | None, certificate: Path | None, key: Path | None
) -> Address:
    """Return where to listen: on loopback, unless told otherwise, or if only a UNIX socket is named.

    Raises:
        UsageError: The port is out of range, or only one of certificate and key is given; in the words of
            the command line.
    """
    if not 0 <= (port or 0) <= 65535:
        raise UsageError(f"--port: want a number from 0 to 65535, got {port}")
    if (certificate is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    is_tcp = uds is None or host is not None or port is not None
    return Address(
        host=(host or "127.0.0.1") if is_tcp else "",
        port=DEFAULT_PORT if port is None else port,
        uds=uds,
        certificate=certificate,
        key=key,
    )


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
