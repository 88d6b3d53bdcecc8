"""Debian's mosquitto as a broker that the fleet manager starts: a fourth of the memory of nats-server.

Devices come to a listener with TLS, where name, client id and certificate are one; the fleet manager to one
of its own, on loopback and with a password. Nothing is kept on disk: a device sends again what the fleet has
not acknowledged, and the fleet publishes again what it desires (docs/decisions/0020).

Source: mosquitto.conf(5) of mosquitto 2.0; its plugin-less password file is PBKDF2 with SHA-512.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.core import wire
from edgekit.core.errors import ConfigError
from edgekit_fleet.broker.broker_log import FOREIGN_TOPIC, TOO_LARGE, BrokerLog, Refusals
from edgekit_fleet.broker.embedded import USER, TlsFiles, free_port
from edgekit_fleet.broker.mosquitto import DEVICES_ACCESS
from edgekit_fleet.broker.mqtt import Access
from edgekit_fleet.broker.takeover import take_over
from edgekit_fleet.identity.authority import Authority

PROGRAM = "mosquitto"
REFUSALS = Refusals(
    re.compile(rb"[Cc]lient ([\w-]{1,64}):? (disconnected due to oversize packet|Unknown error)"),
    {b"disconnected due to oversize packet": TOO_LARGE, b"Unknown error": FOREIGN_TOPIC},
)
MAX_LOG_BYTES = 10 << 20
MAX_QUEUED_BYTES = 128 << 20
"""What waits for the fleet manager, at most; beyond it the newest messages are dropped, and sent again."""
_ITERATIONS = 101  # what mosquitto_passwd takes; the password is random
_CONNECT_S = 2.0


class MosquittoServer:
    """mosquitto as the ``Program`` of a broker that the fleet manager starts.

    Args:
        folder: Keeps its configuration and log.
        host: Address of the listener for devices.
        port: Its port.
        tls: Files of the listener for devices.
        authority: Lists the certificates that are revoked.
        revoked: Gives their serial numbers.

    Raises:
        ConfigError: There is no mosquitto on this machine.
    """

    environment: Mapping[str, str] = {}

    def __init__(
        self,
        folder: Path,
        *,
        host: str,
        port: int,
        tls: TlsFiles,
        authority: Authority,
        revoked: Callable[[], list[str]],
    ) -> None:
        program = find_mosquitto()
        self.config_path = folder / "mosquitto.conf"
        self.log = BrokerLog(folder / "mosquitto.log", REFUSALS)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.is_it = f"is {program} a mosquitto (2.0 or later)?"
        self.command = [program, "-c", str(self.config_path)]
        self._folder, self._host, self._port, self._tls = folder, host, port, tls
        self._authority, self._revoked = authority, revoked
        self._own_port = free_port()
        self._password = secrets.token_urlsafe(32)
        self._is_up = False
        self._told: list[str] | None = None
        self._lock = threading.Lock()

    @property
    def access(self) -> Access:
        """How the fleet manager connects to it (loopback)."""
        return Access(f"mqtt://127.0.0.1:{self._own_port}", user=USER, password=self._password)

    def write_files(self) -> None:
        """Write its configuration, who may do what, and which certificates are revoked."""
        folder = self._folder
        write_durably(folder / "devices.acl", DEVICES_ACCESS.encode())
        write_durably(folder / "fleet.acl", f"user {USER}\ntopic readwrite {wire.ROOT}/#\n".encode())
        write_durably(folder / "passwords", f"{USER}:{_hashed(self._password)}\n".encode(), mode=0o600)
        self._told = None
        self.write_revoked()
        write_durably(self.config_path, self._configuration().encode(), mode=0o600)

    def write_revoked(self) -> bool:
        """Write which certificates are revoked, if that has changed; mosquitto reads it at a reload."""
        with self._lock:
            serials = self._revoked()
            if serials == self._told:
                return False
            write_durably(self._crl_path, self._authority.revocation_list(serials).encode())
            self._told = serials
        return True

    def disconnect(self, device: str) -> None:
        """Close a device's connection.

        Raises:
            LinkError: The broker does not answer.
        """
        take_over(device, self._authority, self._host, self._port)

    def is_healthy(self) -> bool:
        """Say whether it has begun to listen; its end is seen without being asked for.

        Each connection is two lines of its log, so it is not asked again.
        """
        if not self._is_up:
            try:
                socket.create_connection(("127.0.0.1", self._own_port), _CONNECT_S).close()
            except OSError:
                return False
            self._is_up = True
        return True

    def look_after(self, pid: int) -> None:
        """Begin a new log once this one is large; the one before is kept."""
        if self.log.path.exists() and self.log.path.stat().st_size > MAX_LOG_BYTES:
            self.log.path.replace(self.log.path.with_suffix(".log.1"))
            os.kill(pid, signal.SIGHUP)

    @property
    def _crl_path(self) -> Path:
        return self._folder / "revoked.pem"

    def _configuration(self) -> str:
        """Return the configuration.

        ``max_queued_messages 0``: by default mosquitto drops what it has accepted beyond 1000 messages.
        ``max_inflight_messages``: the default of 20 makes ingest wait for round trips.
        """
        user = "user root\n" if os.geteuid() == 0 else ""  # else it becomes one who may not read the folder
        return f"""# written by edgekit-fleet at each start
{user}per_listener_settings true
persistence false
max_queued_messages 0
max_queued_bytes {MAX_QUEUED_BYTES}
max_inflight_messages 1000
max_packet_size {wire.MAX_MESSAGE_BYTES * 2}
log_dest file {self.log.path}
log_type error
log_type warning
log_type notice

listener {self._own_port} 127.0.0.1
allow_anonymous false
password_file {self._folder}/passwords
acl_file {self._folder}/fleet.acl

listener {self._port} {self._host}
allow_anonymous false
cafile {self._tls.ca}
certfile {self._tls.certificate}
keyfile {self._tls.key}
crlfile {self._crl_path}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
acl_file {self._folder}/devices.acl
"""


def find_mosquitto() -> str:
    """Return the path of mosquitto.

    Raises:
        ConfigError: It is not installed.
    """
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ConfigError(
            "--broker mosquitto: there is no mosquitto on this machine",
            hint="apt-get install mosquitto, or leave --broker away for the embedded nats-server",
        )
    return program


def _hashed(password: str) -> str:
    salt = os.urandom(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"
