"""The broker that ``--broker`` names: the embedded one, set up and supervised, or one that runs already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.errors import UsageError
from edgekit_fleet.app.options import Options, Ports, is_loopback, url
from edgekit_fleet.broker.admission import Admission
from edgekit_fleet.broker.callout import Callout
from edgekit_fleet.broker.embedded import USER, EmbeddedBroker, TlsFiles
from edgekit_fleet.broker.mosquitto import FLEET_USER, hand_over
from edgekit_fleet.broker.mqtt import Access
from edgekit_fleet.broker.nkey import AccountKey
from edgekit_fleet.identity.authority import Authority
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.devices import Devices

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Broker:
    """How the fleet manager and its devices reach the broker.

    Args:
        access: How the fleet manager reaches it.
        url: How devices reach it.
        embedded: The supervised process; None for a broker that runs already.
        callout: Decides who may connect to the embedded broker.
        admission: Tells it the embedded broker.
    """

    access: Access
    url: str
    embedded: EmbeddedBroker | None = None
    callout: Callout | None = None
    admission: Admission | None = None

    @property
    def restarts(self) -> int:
        """How often the embedded broker ended by itself and was started again."""
        return self.embedded.restarts if self.embedded else 0

    @property
    def problem(self) -> str:
        """What is wrong with the embedded broker; empty if it is well."""
        return self.embedded.problem if self.embedded else ""

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

    def strangers(self, since_ms: int) -> dict[str, int]:
        """Return devices with a certificate of this fleet that were refused since a time, and when."""
        return self.callout.strangers.since(since_ms) if self.callout else {}

    def disconnect(self, device: str) -> None:
        """Close a device's connection at once; another broker than the embedded one is not told."""
        if self.embedded is not None:
            self.embedded.kicker.bar(device)

    def disconnect_again(self, is_welcome: Callable[[str], bool]) -> None:
        """Close connections that a device barred a moment ago may have got since."""
        if self.embedded is not None:
            self.embedded.kicker.again(is_welcome)


def embedded_broker(
    options: Options,
    ports: Ports,
    authority: Authority,
    *,
    data: Path,
    devices: Devices,
    on_start: Callable[[], None],
    has_room: Callable[[], bool],
) -> Broker:
    """Return the embedded broker, not started yet.

    Args:
        options: The command line.
        ports: Keeps the port that is chosen at the first start.
        authority: Issues the broker's certificate.
        data: The fleet's data folder.
        devices: Say who may connect.
        on_start: Called each time before the broker starts: no device is connected then.
        has_room: Whether the disk has room: one that is full is no reason to restart the broker.

    Raises:
        UsageError: TLS is off on an address that other machines can reach.
    """
    is_tls = options.broker_tls == "on"
    if not is_tls and not is_loopback(options.host):
        raise UsageError(
            f"--broker-tls off with --host {options.host}: anyone could speak for any device",
            hint="leave --broker-tls on, or listen on 127.0.0.1",
        )
    requested = options.broker_port if options.broker_port is not None else (8883 if is_tls else 1883)
    port = ports.fixed("mqtt", requested)
    ca = authority.certificate_path
    tls = TlsFiles(*authority.server_files("broker", options.hosts), ca) if is_tls else None
    issuer = AccountKey()
    process = EmbeddedBroker(
        data / "broker",
        host=options.host,
        port=port,
        issuer=issuer.public,
        tls=tls,
        on_start=on_start,
        has_room=has_room,
    )
    scheme = "mqtts" if is_tls else "mqtt"
    access = Access(
        url(scheme, "127.0.0.1" if options.is_any_address else options.host, port),
        user=USER,
        password=process.password,
        ca=ca,
        certificate=tls.certificate if tls else None,
        key=tls.key if tls else None,
    )
    callout = Callout(issuer, devices.is_welcome, devices.is_barred, needs_certificate=is_tls)
    admission = Admission(process.nats, callout)
    return Broker(access, url(scheme, options.name, port), process, callout, admission)


def other_broker(options: Options, authority: Authority, data: Path, devices: Devices) -> Broker:
    """Return how to reach a broker that runs already.

    Without ``--broker-cert`` the fleet's CA issues a certificate for it, and the files that a mosquitto
    of this fleet needs are written below the data folder.
    """
    certificate, key = options.broker_certificate, options.broker_key
    ca = options.broker_ca or authority.certificate_path
    host, port, is_tls = Access(options.broker).address()
    if is_tls and certificate is None:
        certificate, key = authority.server_files(FLEET_USER, options.hosts)
        serials = devices.revoked_serials(unix_ms())
        config = hand_over(data / "mosquitto", authority, host, port, serials)
        logger.info("what a mosquitto needs to serve this fleet is in %s", config)
    return Broker(Access(options.broker, ca=ca, certificate=certificate, key=key), options.broker)
