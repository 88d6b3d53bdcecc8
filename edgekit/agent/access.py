"""Who may use the local API, and what every process behind its address is told first."""

from __future__ import annotations

import logging
from pathlib import Path

from edgekit.core.errors import ConfigError, UsageError
from edgekit.serve.address import Address
from edgekit.serve.hosting import Settings
from edgekit.serve.ports import Limits
from edgekit.serve.routes import Access
from edgekit.version import __version__

logger = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_TOKEN_BYTES = 16


def settings_of(
    access: Access,
    limits: Limits,
    address: Address,
    began_s: float,
    *,
    has_page: bool = False,
    jobs: Path | None = None,
) -> Settings:
    """Return what every process behind an address is told first."""
    is_open = bool(address.host) and address.host not in LOOPBACK
    return Settings(
        access=access,
        limits=limits,
        certificate=str(address.certificate or ""),
        key=str(address.key or ""),
        version=__version__,
        began_s=began_s,
        page=("open" if is_open else "local") if has_page else "",
        jobs=str(jobs or ""),
    )


def access_for(address: Address, token_file: Path | None) -> Access:
    """Return who may call: anyone on this machine, or whoever has the token.

    Raises:
        UsageError: Other machines can reach the address, and there is no token.
        ConfigError: The token's file cannot be read, or the token is too short.
    """
    host = address.host
    if token_file is not None:
        token = read_token(token_file)
        if host and host not in LOOPBACK and address.certificate is None:
            logger.warning("the token and all data cross the network in clear: give --tls-cert, --tls-key")
        return Access(token)
    if host and host not in LOOPBACK:
        raise UsageError(
            f"--host {host} can be reached from other machines, and there is no token",
            hint="give --token-file FILE, or leave --host away to serve this machine only",
        )
    return Access(hosts=_LOOPBACK_HOSTS)


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        ConfigError: It cannot be read, is shorter than 16 characters, or is not printable ASCII.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"--token-file {path}: cannot be read: {cause}") from cause
    if len(token) < _TOKEN_BYTES or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {path}: want one word of at least {_TOKEN_BYTES} characters",
            hint=f"head -c 32 /dev/urandom | base64 > {path}",
        )
    return token
