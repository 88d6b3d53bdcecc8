"""A broker's address, and the identity that a device shows it."""

import ssl
import time
from pathlib import Path
from urllib.parse import unquote

import msgspec

from edgekit.base.tls import trusting
from edgekit.core.addresses import shown, split_address
from edgekit.core.errors import ConfigError


class SystemClock:
    """The machine's own time."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary start."""
        return time.monotonic_ns()

    def unix_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class Tls(msgspec.Struct, frozen=True):
    """Files of a TLS identity: the trusted CA (None: the system's), and the own certificate and key."""

    ca: Path | None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts only this CA; files are read now, so a renewal takes effect.

        Raises:
            ConfigError: A file is missing or not valid.
        """
        try:
            context = trusting(self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as cause:
            raise ConfigError(f"identity {self.certificate or self.ca} cannot be used: {cause}") from cause
        return context


class Address(msgspec.Struct, frozen=True):
    """The parts of a broker's URL."""

    host: str
    port: int
    is_tls: bool
    user: str = ""
    password: str = ""

    @property
    def destination(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Return the parts of a broker's URL.

    >>> parse_url("mqtts://broker.local")
    Address(host='broker.local', port=8883, is_tls=True, user='', password='')

    Raises:
        ConfigError: It is not ``mqtt://`` or ``mqtts://`` with a host.
    """
    try:
        parts = split_address(url)
    except ValueError as problem:
        raise ConfigError(f"broker: {problem}") from problem
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise ConfigError(f"broker: want mqtt://host:port or mqtts://host:port, got {shown(url)!r}")
    is_tls = parts.scheme == "mqtts"
    login = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(parts.hostname, parts.port or (8883 if is_tls else 1883), is_tls, *login)
