"""The fleet manager put together: every part made, started in order, stopped in reverse."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.core import wire
from edgekit.core.errors import ConfigError, EdgekitError, UsageError
from edgekit_fleet.broker.callout import Callout
from edgekit_fleet.broker.downlink import MqttDownlink
from edgekit_fleet.broker.embedded import USER, EmbeddedBroker, TlsFiles, free_port
from edgekit_fleet.broker.mosquitto import FLEET_USER, hand_over
from edgekit_fleet.broker.mqtt import Access
from edgekit_fleet.broker.nkey import AccountKey
from edgekit_fleet.bus import Bus
from edgekit_fleet.commanding import Commanding
from edgekit_fleet.files import write_durably
from edgekit_fleet.identity.authority import Authority
from edgekit_fleet.identity.enrol import Enrolment
from edgekit_fleet.ingest.chunks import Chunks
from edgekit_fleet.ingest.intake import Ingest, Intake, now_ms
from edgekit_fleet.ingest.jetstream import JetStreamIngest
from edgekit_fleet.ingest.shared import SharedIngest
from edgekit_fleet.measuring import service as measuring
from edgekit_fleet.registry import service as registry
from edgekit_fleet.rollout import service as rollout
from edgekit_fleet.services import Answer, Health, Hooks, Services, Settings
from edgekit_fleet.store.database import open_database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.store.metrics import Metrics
from edgekit_fleet.store.tokens import Tokens

logger = logging.getLogger(__name__)

PARTS = (registry, rollout, measuring)
"""Modules whose ``attach(services)`` joins them to the fleet, in this order."""
KEEP_MS = 14 * 24 * 3600 * 1000
MAX_ROWS = 5_000_000
_TICK_S = 5.0
_TRIM_EVERY = 12


@dataclass(frozen=True)
class Options:
    """How ``edgekit-fleet serve`` was called.

    Args:
        data: The fleet's folder.
        database: A database URL; None for a file in ``data``.
        broker: ``embedded``, or the URL of an MQTT broker.
        host: Address to listen on.
        port: Port of the API; 0 for a free one, the same at each start.
        tls: Whether the API speaks TLS; ``auto``: unless ``host`` is loopback.
        public_host: How devices reach this machine; empty for ``host`` or this machine's name.
        broker_port: Port of the embedded broker; 0 for a free one, the same at each start; None for
            8883, or 1883 without TLS.
        broker_tls: Whether the embedded broker speaks TLS.
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
    broker_port: int | None = None
    broker_tls: Literal["on", "off"] = "on"
    broker_ca: Path | None = None
    broker_certificate: Path | None = None
    broker_key: Path | None = None


class Fleet:
    """One fleet manager, all but its HTTP server.

    Raises:
        ConfigError: Options that do not go together, or a damaged data folder.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        data = options.data.resolve()
        data.mkdir(parents=True, exist_ok=True)
        self.is_tls = options.tls == "on" or (options.tls == "auto" and not is_loopback(options.host))
        self.ports = _Ports(data / "ports.json")
        self.port = self.ports.fixed("http", options.port)
        name = options.public_host or (options.host if not _is_any(options.host) else socket.gethostname())
        self._hosts = [name, options.host, socket.gethostname(), "localhost", "127.0.0.1"]
        self._hosts = [host for host in self._hosts if not _is_any(host)]
        self._downlink_stands = threading.Event()
        self._stopping = threading.Event()
        self._undo = contextlib.ExitStack()
        try:
            self._compose(data, name)
        except BaseException:
            self._undo.close()
            raise

    def _compose(self, data: Path, name: str) -> None:
        options = self.options
        database = open_database(data, options.database)
        self._undo.callback(database.close)
        self.authority = Authority(data / "ca")
        devices, tokens = Devices(database), Tokens(database)
        access, broker_url = self._broker(data, name, devices)
        settings = Settings(
            data=data,
            url=f"{'https' if self.is_tls else 'http'}://{_bracketed(name)}:{self.port}",
            broker_url=broker_url,
            is_loopback=is_loopback(options.host),
        )
        self.downlink = MqttDownlink(access, self._session("fleet"), self._downlink_stands.set)
        hooks, bus = Hooks(), Bus()
        self.enrolment = Enrolment(database, self.authority, devices, tokens)
        self.commanding = Commanding(database, self.downlink, hooks, bus, now_ms)
        hooks.requests.update(time=_time, renew=self._renew)
        self.services = Services(
            settings=settings,
            database=database,
            identity=self.authority,
            downlink=self.downlink,
            hooks=hooks,
            devices=devices,
            messages=Messages(database),
            metrics=Metrics(database),
            tokens=tokens,
            enrolment=self.enrolment,
            commanding=self.commanding,
            bus=bus,
            health=self.health,
        )
        self.intake = Intake(self.services, now_ms)
        self.ingest = self._ingest(access)
        self._undo.callback(self._stop_parts)
        for part in PARTS:
            self.services.parts[part.__name__] = part.attach(self.services)
        blobs = self.services.parts[registry.__name__].blobs
        hooks.requests["chunk"] = Chunks(blobs).answer
        self.admin_token_file = data / "admin.token"
        if not self.admin_token_file.exists():
            token = tokens.create("admin", now_ms(), label="made at the first start")
            write_durably(self.admin_token_file, f"{token}\n".encode(), mode=0o600)

    def start(self) -> None:
        """Start broker, ingest and downlink.

        Raises:
            LinkError: The broker does not start, or cannot be reached.
        """
        try:
            if self.broker is not None:
                self._undo.callback(self.broker.stop)
                self.broker.start()
            self._undo.callback(self.ingest.stop)
            self.ingest.start()
            self._undo.callback(self.downlink.stop)
            self.downlink.start()
        except BaseException:
            self.stop()
            raise
        housekeeping = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)
        housekeeping.start()
        self._undo.callback(housekeeping.join, 30.0)

    def stop(self) -> None:
        """Stop everything, the last started first; safe twice."""
        self._stopping.set()
        self._downlink_stands.set()
        self.services.bus.close()
        self._stop_parts()
        self._undo.close()

    def _stop_parts(self) -> None:
        while self.services.hooks.on_stop:
            self.services.hooks.on_stop.pop()()

    @property
    def local_url(self) -> str:
        """Where commands on this machine reach it, whatever name devices use."""
        host = "localhost" if _is_any(self.options.host) else self.options.host
        return f"{'https' if self.is_tls else 'http'}://{_bracketed(host)}:{self.port}"

    def health(self) -> Health:
        """Return how it fares."""
        counters = dict(self.intake.counters)
        counters["downlink_dropped"] = self.downlink.dropped
        counters["connections_refused"] = self._callout.refused if self._callout else 0
        return Health(
            is_connected=self.downlink.is_connected,
            is_ingesting=self.ingest.is_running,
            broker_restarts=self.broker.restarts if self.broker else 0,
            counters=counters,
        )

    def server_files(self) -> tuple[Path, Path]:
        """Return (certificate, key) of the HTTP server."""
        return self.authority.server_files("http", self._hosts)

    def _broker(self, data: Path, name: str, devices: Devices) -> tuple[Access, str]:
        """Make the embedded broker, or read the other one's address; return how to reach it."""
        options = self.options
        self.broker: EmbeddedBroker | None = None
        self._callout: Callout | None = None
        if options.broker != "embedded":
            return self._other_broker(data), options.broker
        is_tls = options.broker_tls == "on"
        if not is_tls and not is_loopback(options.host):
            raise UsageError(
                f"--broker-tls off with --host {options.host}: anyone could speak for any device",
                hint="leave --broker-tls on, or listen on 127.0.0.1",
            )
        wanted = options.broker_port if options.broker_port is not None else (8883 if is_tls else 1883)
        port = self.ports.fixed("mqtt", wanted)
        ca = self.authority.certificate_path
        tls = TlsFiles(*self.authority.server_files("broker", self._hosts), ca) if is_tls else None
        key_pair = AccountKey()
        self._callout = Callout(key_pair, devices.is_welcome, needs_certificate=is_tls)
        self.broker = EmbeddedBroker(
            data / "broker",
            host=options.host,
            port=port,
            issuer=key_pair.public,
            tls=tls,
            on_start=lambda: self._broker_starts(devices),
        )
        scheme = "mqtts" if is_tls else "mqtt"
        local = "127.0.0.1" if _is_any(options.host) else options.host
        certificate, key = (tls.certificate, tls.key) if tls else (None, None)
        access = Access(
            f"{scheme}://{_bracketed(local)}:{port}",
            user=USER,
            password=self.broker.password,
            ca=ca,
            certificate=certificate,
            key=key,
        )
        return access, f"{scheme}://{_bracketed(name)}:{port}"

    def _other_broker(self, data: Path) -> Access:
        """Return how to reach a broker that is not ours; without a certificate for it, ours will do."""
        options = self.options
        certificate, key = options.broker_certificate, options.broker_key
        ca = options.broker_ca or self.authority.certificate_path
        host, port, is_tls = Access(options.broker).address()
        if is_tls and certificate is None:
            certificate, key = self.authority.server_files(FLEET_USER, self._hosts)
            config = hand_over(data / "mosquitto", self.authority, host, port)
            logger.info("what a mosquitto needs to serve this fleet is in %s", config)
        return Access(options.broker, ca=ca, certificate=certificate, key=key)

    def _broker_starts(self, devices: Devices) -> None:
        self.intake.present_since_ms = now_ms()
        devices.all_offline()

    def _ingest(self, access: Access) -> Ingest:
        if self.broker is None:
            return SharedIngest(access, self._session("ingest"), self.intake)
        return JetStreamIngest(
            self.broker.nats_url,
            user=USER,
            password=self.broker.password,
            intake=self.intake,
            callout=self._callout,
        )

    def _session(self, purpose: str) -> str:
        """Return a client id of this fleet: the same at each start, another one's on the same broker."""
        return f"edgekit-{purpose}-{self.authority.sha256[:12]}"

    def _renew(self, device: str, request: wire.Request) -> Answer:
        pem = self.enrolment.renew(device, str(request.args.get("csr", "")))
        return wire.Response(request.id, {"certificate": pem, "ca": self.authority.certificate_pem})

    def _keep_house(self) -> None:
        """Every few seconds: tell who must publish again, send commands again, forget what is old."""
        rounds = 0
        while not self._stopping.is_set():
            connected_anew = self._downlink_stands.wait(_TICK_S)
            if self._stopping.is_set():
                return
            try:
                if connected_anew:
                    self._downlink_stands.clear()
                    for hook in self.services.hooks.on_downlink:
                        hook()
                self.commanding.send_again()
                if rounds % _TRIM_EVERY == 0:
                    self.services.messages.trim(now_ms() - KEEP_MS, max_rows=MAX_ROWS)
            except EdgekitError:
                logger.exception("housekeeping failed; trying again")
            rounds += 1


class _Ports:
    """Ports that were free once and are kept: devices remember the URLs they were given."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fixed(self, name: str, wanted: int) -> int:
        """Return ``wanted``, or for 0 the one that was found free at the first start."""
        if wanted:
            return wanted
        try:
            known: dict[str, int] = json.loads(self._path.read_text()) if self._path.exists() else {}
            if name not in known:
                known[name] = free_port()
                write_durably(self._path, json.dumps(known).encode())
            return int(known[name])
        except (ValueError, AttributeError) as cause:
            raise ConfigError(f"{self._path}: {cause}", hint="remove it; devices must enrol again") from cause


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _time(_device: str, request: wire.Request) -> Answer:
    return wire.Response(request.id, {"unix_ms": now_ms(), "sent_mono_ns": request.sent_mono_ns})
