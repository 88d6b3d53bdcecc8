"""How ``edgekit-fleet serve`` was called, and what follows from it: addresses, host names, ports."""

from __future__ import annotations

import ipaddress
import json
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError
from edgekit_fleet.broker.embedded import free_port


@dataclass(frozen=True)
class Options:
    """The command line.

    Args:
        data: The fleet's folder.
        database: A database URL; None for a file in ``data``.
        broker: ``embedded`` (nats-server) or ``mosquitto``, started here; or the URL of an MQTT broker.
        host: Address to listen on.
        port: Port of the API; 0 for a free one, the same at each start.
        tls: Whether the API speaks TLS; ``auto``: unless ``host`` is loopback.
        public_host: How devices reach this machine; empty for ``host`` or this machine's name.
        other_hosts: Further names that devices may still use, as before a move; certificates have them.
        broker_port: Port of a broker that is started here; 0 for a free one, the same at each start; None for
            8883, or 1883 without TLS.
        broker_tls: Whether a broker that is started here speaks TLS.
        broker_ca: CA of another broker's certificate; None for the fleet's own.
        broker_certificate: The fleet manager's certificate for another broker; None for one of its CA.
        broker_key: That certificate's key.
    """

    data: Path
    database: str | None = None
    broker: str = "embedded"
    host: str = "127.0.0.1"
    port: int = 8080
    tls: Literal["auto", "on", "off"] = "auto"
    public_host: str = ""
    other_hosts: tuple[str, ...] = ()
    broker_port: int | None = None
    broker_tls: Literal["on", "off"] = "on"
    broker_ca: Path | None = None
    broker_certificate: Path | None = None
    broker_key: Path | None = None

    @property
    def is_tls(self) -> bool:
        """Whether the API speaks TLS."""
        return self.tls == "on" or (self.tls == "auto" and not is_loopback(self.host))

    @property
    def name(self) -> str:
        """The host name or address in the URLs that devices get."""
        return self.public_host or (socket.gethostname() if self.is_any_address else self.host)

    @property
    def hosts(self) -> list[str]:
        """Every host name and address that a server certificate must be valid for."""
        names = [self.name, self.host, socket.gethostname(), *self.other_hosts, "localhost", "127.0.0.1"]
        return [host for host in names if not _is_any(host)]

    @property
    def is_any_address(self) -> bool:
        """Whether the fleet manager listens on every address of this machine."""
        return _is_any(self.host)


class Ports:
    """Ports chosen at the first start and kept, because devices remember the URLs they were given."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fixed(self, name: str, requested: int) -> int:
        """Return the requested port, or for 0 the one that was free at the first start.

        Raises:
            ConfigError: The file of kept ports is damaged.
        """
        if requested:
            return requested
        try:
            known: dict[str, int] = json.loads(self._path.read_text()) if self._path.exists() else {}
            if name not in known:
                known[name] = free_port()
                write_durably(self._path, json.dumps(known).encode())
            return int(known[name])
        except (ValueError, AttributeError) as cause:
            raise ConfigError(f"{self._path}: {cause}", hint="remove it; devices must enrol again") from cause


def close_to_others(data: Path) -> None:
    """Take every right from group and others on what a data folder holds.

    Others may pass through the folder itself, but not list it: a mosquitto of its own user reads
    ``DIR/mosquitto``, which stays as it is.

    Raises:
        ConfigError: The files belong to another user.
    """
    paths = [path for path in data.rglob("*") if data / "mosquitto" not in (path, *path.parents)]
    try:
        for path, taken in [(data, 0o066), *((path, 0o077) for path in paths)]:
            mode = path.lstat().st_mode
            if mode & taken and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~taken)
    except PermissionError as cause:
        raise ConfigError(
            f"{cause.filename}: others may read it, and it is not ours",
            hint="chown -R it to the fleet's user",
        ) from cause


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url(scheme: str, host: str, port: int) -> str:
    """Return a URL; an IPv6 address gets its brackets.

    >>> url("http", "::1", 8080)
    'http://[::1]:8080'
    """
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _is_any(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
