"""The address of a network camera, its credentials apart from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from edgekit.core.addresses import split_address
from edgekit.core.errors import SourceError

PORTS = {"rtsp": 554, "rtsps": 322}
"""Source: RFC 7826, 19.2 and IANA's table of ports."""


@dataclass(frozen=True)
class Address:
    """A parsed ``rtsp://`` or ``rtsps://`` address."""

    scheme: str
    host: str
    port: int
    path: str
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def url(self, relay_port: int = 0) -> str:
        """Return the address with its credentials, for FFmpeg alone; or of a relay on this machine."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        place = f"127.0.0.1:{relay_port}" if relay_port else f"{self._bracketed}:{self.port}"
        return f"rtsp://{login}{place}{self.path}"


def parse_address(uri: str) -> Address:
    """Return an address's parts; its query counts as part of its path.

    Raises:
        ValueError: It is no such address; the text, which has no part of it, says what is wanted.
    """
    parts = split_address(uri)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("want an address rtsp://host/path or rtsps://host/path, got another one")
    return Address(
        parts.scheme,
        parts.hostname,
        parts.port or PORTS[parts.scheme],
        parts.path + (f"?{parts.query}" if parts.query else ""),
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


def read_password(file: Path | None, variable: str) -> str:
    """Return the first line of a file, or the value of an environment variable; empty if neither is named.

    It is read at each attempt to connect, so a changed password is used without a restart.

    Raises:
        SourceError: The file cannot be read, or the variable is not set.
    """
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as cause:
            raise SourceError(
                f"password_file: {file} cannot be read: {cause}", fault="AUTH_FAILED"
            ) from cause
    if variable and variable not in os.environ:
        raise SourceError(f"password_env: {variable} is not set in the environment", fault="AUTH_FAILED")
    return os.environ.get(variable, "") if variable else ""
