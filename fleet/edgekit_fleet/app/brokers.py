"""The broker that ``--broker`` names: one that is started and watched here, or one that runs already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.errors import UsageError
from edgekit_fleet.app.options import Options, Ports, is_loopback, url
from edgekit_fleet.broker.admission import Admission
from edgekit_fleet.broker.callout import Callout
from edgekit_fleet.broker.embedded import USER, NatsServer, TlsFiles
from edgekit_fleet.broker.kick import Kicker
from edgekit_fleet.broker.mosquitto import hand_over
from edgekit_fleet.broker.mqtt import Access
from edgekit_fleet.broker.nats_thread import NatsAccess
from edgekit_fleet.broker.nkey import AccountKey
from edgekit_fleet.broker.own_mosquitto import MosquittoServer
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.broker.supervised import Supervised
from edgekit_fleet.identity.authority import FLEET_NAME, Authority
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.devices import Devices

logger = logging.getLogger(__name__)

EMBEDDED, MOSQUITTO = "embedded", "mosquitto"
NATS_DEVICES = 3000
"""From how many devices on mosquitto should be used: nats-server takes 120 KB for each, mosquitto 30 KB."""


@dataclass(frozen=True)
class Broker:
    """How the fleet manager and its devices reach the broker.

    Args:
        access: How the fleet manager reaches it.
        url: How devices reach it.
        child: Its process, if it is started here.
        nats: How the embedded nats-server is reached by its own protocol; None for any other broker.
        callout: Decides who may connect to nats-server.
        admission: Tells it nats-server.
        kicker: Closes connections of devices, if the broker is started here.
        write_revoked: Writes the list of revoked certificates for a mosquitto that is started here, if it has
            changed, and says so.
    """

    access: Access
    url: str
    child: Supervised | None = None
    nats: NatsAccess | None = None
    callout: Callout | None = None
    admission: Admission | None = None
    kicker: Kicker | None = None
    write_revoked: Callable[[], bool] | None = None

    @property
    def restarts(self) -> int:
        """How often a broker that is started here ended by itself and was started again."""
        return self.child.restarts if self.child else 0

    @property
    def problem(self) -> str:
        """What is wrong with a broker that is started here; empty if it is well."""
        return self.child.problem if self.child else ""

    def counters(self) -> dict[str, int]:
        """Return the connections that were refused, by reason, and those that a busy server lost."""
        if self.callout is None:
            return {}
        refused = {f"connections_refused_{reason}": count for reason, count in self.callout.refused.items()}
        return {
            "connections_refused": self.callout.refused.total(),
            "connections_unavailable": self.callout.late,
            **refused,
        }

    def advice(self, devices: int) -> list[str]:
        """Return what an operator should know of this broker with so many devices, a sentence each."""
        if self.nats is None or devices < NATS_DEVICES:
            return []
        advice = (
            f"The embedded broker takes {devices * 0.12:.0f} MB for {devices} devices, mosquitto a fourth."
            " Install it (apt-get install mosquitto) and restart with --broker mosquitto; no device has to"
            " enrol again."
        )
        return [advice]

    def shut(self, device: str) -> None:
        """Close the connection of a device that may not connect any more, at once.

        A broker that is not started here is not told; it reads ``GET /api/v1/crl``.
        """
        self._tell_revoked()
        if self.kicker is not None:
            self.kicker.bar(device)

    def reopen(self) -> None:
        """Let devices connect again that were revoked and are welcome now."""
        self._tell_revoked()

    def keep(self, is_welcome: Callable[[str], bool]) -> None:
        """Repeat what could not be done; close connections that barred devices may have got since."""
        self._tell_revoked()
        if self.kicker is not None:
            self.kicker.again(is_welcome)

    def _tell_revoked(self) -> None:
        """Have a mosquitto that is started here know which certificates are revoked."""
        try:
            if self.write_revoked is not None and self.child is not None and self.write_revoked():
                self.child.reload()
        except OSError as cause:  # a full disk; ``keep`` tries again
            logger.warning("the broker is not told which certificates are revoked: %s", cause)


def own_broker(
    options: Options,
    ports: Ports,
    authority: Authority,
    *,
    data: Path,
    devices: Devices,
    strangers: Strangers,
    on_start: Callable[[], None],
    has_room: Callable[[], bool],
) -> Broker:
    """Return the broker that is started here, not started yet: nats-server or mosquitto.

    Args:
        options: The command line.
        ports: Keeps the port that is chosen at the first start, whichever broker.
        authority: Issues the broker's certificate.
        data: The fleet's data folder.
        devices: Say who may connect.
        strangers: Remembers whom nats-server asked for in vain.
        on_start: Called each time before the broker starts: no device is connected then.
        has_room: Whether the disk has room: one that is full is no reason to restart the broker.

    Raises:
        UsageError: TLS is off on an address that other machines can reach, or with mosquitto.
        ConfigError: The broker's program is not installed.
    """
    is_tls = options.broker_tls == "on"
    if not is_tls and not is_loopback(options.host):
        raise UsageError(
            f"--broker-tls off with --host {options.host}: anyone could speak for any device",
            hint="leave --broker-tls on, or listen on 127.0.0.1",
        )
    requested = options.broker_port if options.broker_port is not None else (8883 if is_tls else 1883)
    port, tls = ports.fixed("mqtt", requested), None
    if is_tls:
        tls = TlsFiles(*authority.server_files("broker", options.hosts), authority.certificate_path)
    if options.broker == MOSQUITTO:
        program = _mosquitto(options, port, authority, tls, data / "broker", devices)
        child = Supervised(program, on_start=on_start, has_room=has_room)
        return Broker(
            program.access,
            url("mqtts", options.name, port),
            child,
            kicker=Kicker(program.disconnect),
            write_revoked=program.write_revoked,
        )
    issuer = AccountKey()
    server = NatsServer(data / "broker", host=options.host, port=port, issuer=issuer.public, tls=tls)
    callout = Callout(issuer, devices.is_welcome, devices.is_barred, strangers, needs_certificate=is_tls)
    return Broker(
        _nats_access(options, port, authority, tls, server.password),
        url("mqtts" if is_tls else "mqtt", options.name, port),
        Supervised(server, on_start=on_start, has_room=has_room),
        nats=server.nats,
        callout=callout,
        admission=Admission(server.nats, callout),
        kicker=Kicker(server.kick.disconnect),
    )


def _mosquitto(
    options: Options, port: int, authority: Authority, tls: TlsFiles | None, folder: Path, devices: Devices
) -> MosquittoServer:
    if tls is None:
        raise UsageError(
            "--broker mosquitto with --broker-tls off: it knows devices by their certificates",
            hint="leave --broker-tls on",
        )
    return MosquittoServer(
        folder,
        host=options.host,
        port=port,
        tls=tls,
        authority=authority,
        revoked=lambda: devices.revoked_serials(unix_ms()),
    )


def _nats_access(
    options: Options, port: int, authority: Authority, tls: TlsFiles | None, password: str
) -> Access:
    host = "127.0.0.1" if options.is_any_address else options.host
    return Access(
        url("mqtts" if tls else "mqtt", host, port),
        user=USER,
        password=password,
        ca=authority.certificate_path,
        certificate=tls.certificate if tls else None,
        key=tls.key if tls else None,
    )


def other_broker(options: Options, authority: Authority, data: Path, devices: Devices) -> Broker:
    """Return how to reach a broker that runs already.

    Without ``--broker-cert`` the fleet's CA issues a certificate for it, and the files that a mosquitto
    of this fleet needs are written below the data folder.
    """
    certificate, key = options.broker_certificate, options.broker_key
    ca = options.broker_ca or authority.certificate_path
    host, port, is_tls = Access(options.broker).address()
    if is_tls and certificate is None:
        certificate, key = authority.server_files(FLEET_NAME, options.hosts)
        serials = devices.revoked_serials(unix_ms())
        config = hand_over(data / "mosquitto", authority, host, port, serials)
        logger.info("what a mosquitto needs to serve this fleet is in %s", config)
    return Broker(Access(options.broker, ca=ca, certificate=certificate, key=key), options.broker)
