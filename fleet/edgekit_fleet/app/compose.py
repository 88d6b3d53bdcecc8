"""Creates every part of the fleet manager, starts them in order and stops them in reverse."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.base.clock import FLOOR_UNIX_MS
from edgekit.base.files import write_durably
from edgekit.core import wire
from edgekit.core.errors import ConfigError, EdgekitError, StorageError
from edgekit_fleet.app.brokers import EMBEDDED, MOSQUITTO, Broker, other_broker, own_broker
from edgekit_fleet.app.certificates import CertificateKeeper
from edgekit_fleet.app.disk_watch import DiskWatch, give_up_reserve
from edgekit_fleet.app.options import Options, Ports, close_to_others, is_loopback, url
from edgekit_fleet.app.rates import Rates
from edgekit_fleet.app.services import Services, Settings
from edgekit_fleet.broker.commanding import Commanding
from edgekit_fleet.broker.downlink import MqttDownlink
from edgekit_fleet.broker.nats_downlink import NatsDownlink
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.cameras.service import CameraService
from edgekit_fleet.identity.authority import Authority
from edgekit_fleet.identity.enrol import Enrolment
from edgekit_fleet.identity.journal import Journal
from edgekit_fleet.identity.secret_box import FILE as BOX_FILE
from edgekit_fleet.identity.secret_box import SecretBox
from edgekit_fleet.ingest.chunks import Chunks
from edgekit_fleet.ingest.intake import Ingest, Intake
from edgekit_fleet.ingest.jetstream import JetStreamIngest
from edgekit_fleet.ingest.ports import Answer, Hooks
from edgekit_fleet.ingest.shared import SharedIngest
from edgekit_fleet.measuring.service import MeasuringService
from edgekit_fleet.registry.keys import online_keys
from edgekit_fleet.registry.service import RegistryService
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.rollout.service import RolloutService
from edgekit_fleet.store.audit import FLEET, Audit
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database, open_database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.facts import AUTHORITY, ONLINE_KEYS, Facts
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.store.metrics import Metrics
from edgekit_fleet.store.tokens import Tokens
from edgekit_fleet.web.bus import Bus
from edgekit_fleet.web.health import Health

logger = logging.getLogger(__name__)

KEEP_MS = 14 * 24 * 3600 * 1000
STRANGER_MS = 3600 * 1000
RESTORED_SHOWN_MS = 30 * 24 * 3600 * 1000
MAX_ROWS = 5_000_000
_TICK_S = 5.0
_TRIM_EVERY = 12
_CHECKPOINT_S = 0.25


class Fleet:
    """One fleet manager, all but its HTTP server.

    Raises:
        ConfigError: Options that exclude one another, or a damaged data folder.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        data = options.data.resolve()
        data.mkdir(parents=True, exist_ok=True)
        close_to_others(data)
        self._ports = Ports(data / "ports.json")
        self.port = self._ports.fixed("http", options.port)
        self._downlink_connected = threading.Event()
        self._stopping = threading.Event()
        self._undo = contextlib.ExitStack()
        try:
            self._compose(data)
        except BaseException:
            self._undo.close()
            raise

    def _compose(self, data: Path) -> None:
        give_up_reserve(data)
        database = open_database(data, self.options.database)
        self._undo.callback(database.close)
        self._facts = Facts(database)
        devices = Devices(database)
        self.admin_token_file = data / "admin.token"
        self._check_database(data, devices)
        self.authority = Authority(data / "ca", self._facts.get(AUTHORITY))
        self._facts.set(AUTHORITY, self.authority.key_sha256)
        self._check_keys(data)
        self.certificates = CertificateKeeper(self.authority, devices, unix_ms)
        self._strangers = Strangers()
        self.broker = self._make_broker(data, devices)
        self.downlink = self._make_downlink()
        self.services = self._make_services(data, database, devices)
        self.intake = self.services.intake = Intake(self.services, unix_ms, self._strangers)
        self._disk = DiskWatch(data, database, self.services.messages, self.intake.pause)
        self.ingest = self._make_ingest()
        self._answer_requests()
        if not self.admin_token_file.exists():
            token = self.services.tokens.create("admin", unix_ms(), label="made at the first start")
            self.services.audit.record(FLEET, "token.create", token.split(".")[1], after={"role": "admin"})
            write_durably(self.admin_token_file, f"{token}\n".encode(), mode=0o600)

    def _check_database(self, data: Path, devices: Devices) -> None:
        """Refuse to start with a new database where a fleet has been: it would know no device."""
        is_new = not self._facts.get(AUTHORITY) and not devices.counts()["total"]
        if is_new and self.admin_token_file.exists():
            raise ConfigError(
                f"{data} is the folder of a fleet, and its database is empty or lost: every device and every"
                " token would be refused",
                hint="restore a backup: edgekit-fleet restore --help; for a new fleet, name an empty folder",
            )

    def _check_keys(self, data: Path) -> None:
        """Refuse to start without the online keys that this fleet had: devices trust no others."""
        if self._facts.get(ONLINE_KEYS) and not (data / "keys").is_dir():
            raise ConfigError(
                f"{data / 'keys'} is missing: with new keys, devices would refuse every bundle",
                hint="restore it from a backup; if it is lost, make an empty folder there, start,"
                " and run 'edgekit-fleet keys rotate --role online'",
            )
        online_keys(data)
        self._facts.set(ONLINE_KEYS, "made")

    def _make_broker(self, data: Path, devices: Devices) -> Broker:
        if self.options.broker not in (EMBEDDED, MOSQUITTO):
            return other_broker(self.options, self.authority, data, devices)

        def broker_starts() -> None:
            self.intake.present_since_ms = unix_ms()
            devices.all_offline()

        return own_broker(
            self.options,
            self._ports,
            self.authority,
            data=data,
            devices=devices,
            strangers=self._strangers,
            on_start=broker_starts,
            has_room=lambda: not self._disk.is_full,
        )

    def _make_downlink(self) -> MqttDownlink | NatsDownlink:
        mqtt = MqttDownlink(self.broker.access, self._session("fleet"), self._downlink_connected.set)
        return mqtt if self.broker.nats is None else NatsDownlink(mqtt, self.broker.nats)

    def _make_services(self, data: Path, database: Database, devices: Devices) -> Services:
        hooks, bus, tokens = Hooks(), Bus(), Tokens(database)
        messages, metrics, rates = Messages(database), Metrics(database), Rates(unix_ms)
        hooks.on_committed.append(rates.take)
        commanding = self._make_commanding(database, hooks, bus)
        registry = RegistryService(data, database, bus)
        self._undo.callback(registry.stop)
        rollouts = self._make_rollouts(data, database, registry, commanding, bus, hooks)
        measuring = MeasuringService(
            database, devices, registry.repository, commanding=commanding, bus=bus, hooks=hooks
        )
        self._undo.callback(measuring.stop)
        audit = Audit(database)
        box = SecretBox(data / BOX_FILE)
        return Services(
            settings=self._settings(data),
            database=database,
            identity=self.authority,
            downlink=self.downlink,
            hooks=hooks,
            devices=devices,
            messages=messages,
            metrics=metrics,
            rates=rates,
            tokens=tokens,
            enrolment=Enrolment(database, self.authority, devices, tokens, Journal(data), self.broker),
            commanding=commanding,
            bus=bus,
            health=self.health,
            facts=self._facts,
            certificates=self.certificates,
            warnings=self.warnings,
            strangers=self.strangers,
            registry=registry,
            rollouts=rollouts,
            measuring=measuring,
            cameras=CameraService(database, box, rollouts.desired, audit, devices.known, unix_ms),
            audit=audit,
        )

    def _make_rollouts(
        self,
        data: Path,
        database: Database,
        registry: RegistryService,
        commanding: Commanding,
        bus: Bus,
        hooks: Hooks,
    ) -> RolloutService:
        rollouts = RolloutService(
            database,
            online_keys(data).desired,
            registry.repository,
            downlink=self.downlink,
            commanding=commanding,
            bus=bus,
            hooks=hooks,
            restored_ms=(self._facts.restored() or (0, 0))[1],
        )
        self._undo.callback(rollouts.stop)
        return rollouts

    def _make_commanding(self, database: Database, hooks: Hooks, bus: Bus) -> Commanding:
        commanding = Commanding(database, self.downlink, bus, unix_ms)
        hooks.in_commit.append((wire.CommandAnswer, commanding.take_answers))
        hooks.on_committed.append(commanding.announce_answers)
        hooks.on_state.append(commanding.device_appeared)
        return commanding

    def _settings(self, data: Path) -> Settings:
        options = self.options
        return Settings(
            data=data,
            url=url("https" if options.is_tls else "http", options.name, self.port),
            broker_url=self.broker.url,
            is_loopback=is_loopback(options.host),
        )

    def _make_ingest(self) -> Ingest:
        if self.broker.nats is None:
            return SharedIngest(self.broker.access, self._session("ingest"), self.intake)
        return JetStreamIngest(self.broker.nats, self.intake)

    def _session(self, purpose: str) -> str:
        """Return an MQTT client id: the same at each start, and another fleet's differs."""
        return f"edgekit-{purpose}-{self.authority.key_sha256[:12]}"

    def start(self) -> None:
        """Start broker, ingest and downlink.

        Raises:
            LinkError: The broker does not start, or cannot be reached.
            ConfigError: The clock is before every certificate.
        """
        if problem := _clock_problem(unix_ms()):
            raise ConfigError(problem, hint="set the clock (timedatectl set-ntp true) and start again")
        if self.broker.child is not None and self.options.broker_tls == "on":
            self.certificates.keep("broker", self.options.hosts, self._reload_broker)
        try:
            self._undo.callback(self._disk.stop)
            self._disk.start()
            checkpoints = Ticker("checkpoints", _CHECKPOINT_S, self._checkpoint)
            self._undo.callback(checkpoints.stop)
            checkpoints.start()
            if self.broker.child is not None:
                self._undo.callback(self.broker.child.stop)
                self.broker.child.start()
            if self.broker.admission is not None:
                self._undo.callback(self.broker.admission.stop)
                self.broker.admission.start()
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

    def _checkpoint(self) -> None:
        with contextlib.suppress(StorageError):  # on a full disk, which the disk watch reports
            self.services.database.checkpoint()

    def stop(self) -> None:
        """Stop everything, the last started first; safe twice."""
        self._stopping.set()
        self._downlink_connected.set()
        self.services.bus.close()
        for part in (self.services.measuring, self.services.rollouts, self.services.registry):
            part.stop()  # while the broker is still there for what they send last
        self._undo.close()

    @property
    def local_url(self) -> str:
        """Where commands on this machine reach the API, whatever name devices use."""
        host = "localhost" if self.options.is_any_address else self.options.host
        return url("https" if self.options.is_tls else "http", host, self.port)

    def health(self) -> Health:
        """Return the state of the connections, and the counters."""
        counters = dict(self.intake.counters)
        counters["downlink_dropped"] = self.downlink.dropped
        counters["trimmed"] = self._disk.trimmed
        counters.update(self.broker.counters())
        return Health(
            is_connected=self.downlink.is_connected,
            is_ingesting=self.ingest.is_running,
            problems=tuple(problem for problem in self._problems() if problem),
            broker_restarts=self.broker.restarts,
            counters=counters,
        )

    def _problems(self) -> Iterator[str]:
        """Yield what keeps this fleet manager from its work, the cause before its consequences."""
        yield _clock_problem(unix_ms())
        yield self._disk.problem if self._disk.is_full else ""
        if self.intake.problem != self._disk.problem:
            yield self.intake.problem and f"Messages are not stored: {self.intake.problem}"
        yield self.broker.problem
        if not self.downlink.is_connected:
            yield (
                "There is no connection to the broker, so no messages from devices arrive."
                " The fleet manager is reconnecting."
            )
        if not self.ingest.is_running:
            yield "The thread that stores messages has ended: restart the fleet manager."

    def server_files(self) -> tuple[Path, Path] | None:
        """Return (certificate, key) of the HTTP server; None if the API does not speak TLS."""
        if not self.options.is_tls:
            return None
        return self.authority.server_files("http", self.options.hosts)

    def keep_https(self, reload: Callable[[], None]) -> None:
        """Renew the HTTP server's certificate in time; ``reload`` has the server read it again."""
        self.certificates.keep("http", self.options.hosts, reload)

    def _reload_broker(self) -> None:
        if self.broker.child is not None:
            self.broker.child.reload()
        self.downlink.reload()

    def warnings(self) -> list[str]:
        """Return what an operator should know before anything else, one sentence each."""
        devices = self.services.devices.counts()["total"]
        said = [*self._restored(), *self.certificates.warnings(), *self.broker.advice(devices)]
        if strangers := self.strangers():
            said.append(
                f"{len(strangers)} devices with a certificate of this fleet are not in its database:"
                f" {', '.join(list(strangers)[:5])}. Were they enrolled after the backup that was restored?"
                " Then adopt them: POST /api/v1/strangers/ID/adopt."
            )
        return said

    def strangers(self) -> dict[str, int]:
        """Return unknown devices that were refused in the last hour with a certificate of this fleet."""
        knocking = self._strangers.since(unix_ms() - STRANGER_MS)
        return {name: at for name, at in knocking.items() if not self.services.devices.exists(name)}

    def _restored(self) -> list[str]:
        restored = self._facts.restored()
        if restored is None or unix_ms() - restored[1] > RESTORED_SHOWN_MS:
            return []
        backup, back = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_ms / 1000)) for at_ms in restored)
        lost = self.services.messages.lost_since(restored[1])
        what = f"{lost.messages} messages acknowledged in between are lost, of {lost.devices} devices so far"
        blind = " Revocations made in between are undone: repeat them." if self._facts.is_blind() else ""
        return [f"On {back} UTC a backup of {backup} UTC was restored. {what}.{blind}"]

    def _answer_requests(self) -> None:
        """Answer the requests of devices that no part of its own answers."""
        requests = self.services.hooks.requests
        requests["time"] = _time
        requests["renew"] = self._renew
        requests["chunk"] = Chunks(self.services.registry.repository.blobs).answer

    def _renew(self, device: str, request: wire.Request) -> Answer:
        pem = self.services.enrolment.renew(device, str(request.args.get("csr", "")))
        return wire.Response(request.id, {"certificate": pem, "ca": self.authority.certificate_pem})

    def _count_turned_away(self) -> None:
        """Store what the broker refused of devices, for their pages."""
        if self.broker.child is not None and (counts := self.broker.child.turned_away()):
            known = self.services.devices.known({device for device, _ in counts})
            counted = {key: count for key, count in counts.items() if key[0] in known}
            self.services.messages.turn_away(counted, unix_ms())

    def _keep_house(self) -> None:
        """Every few seconds: publish again after a reconnect, send commands again, delete old rows."""
        services, rounds = self.services, 0
        while not self._stopping.is_set():
            is_new_connection = self._downlink_connected.wait(_TICK_S)
            if self._stopping.is_set():
                return
            try:
                if is_new_connection:
                    self._downlink_connected.clear()
                    services.rollouts.desired.publish_all()
                services.commanding.send_again()
                services.cameras.tell_due()  # those that a request or a kill has left
                self._count_turned_away()
                self.broker.keep(services.devices.is_welcome)
                if rounds % _TRIM_EVERY == 0:
                    self.certificates.check()
                    services.messages.trim(unix_ms() - KEEP_MS, max_rows=MAX_ROWS)
            except (EdgekitError, OSError):
                logger.exception("housekeeping failed; trying again")
            rounds += 1


def _clock_problem(now_ms: int) -> str:
    """Return what a clock that is before every certificate means, empty if it is not."""
    if now_ms >= FLOOR_UNIX_MS:
        return ""
    day = time.strftime("%Y-%m-%d", time.gmtime(now_ms / 1000))
    return f"This machine's clock shows {day}: no certificate is valid yet, so no device can connect."


def _time(_device: str, request: wire.Request) -> Answer:
    return wire.Response(request.id, {"unix_ms": unix_ms(), "sent_mono_ns": request.sent_mono_ns})
