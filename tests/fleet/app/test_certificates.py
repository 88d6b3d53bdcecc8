"""Nobody is locked out by a certificate's end, nor by a clock: renewed in time, and said weeks before."""

import datetime as dt
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from fleet_kit import Connection, Identity, LocalFleet, composed, wait_until

from edgekit.core.errors import ConfigError
from edgekit_fleet.app import compose
from edgekit_fleet.app.certificates import CertificateKeeper
from edgekit_fleet.cli import serve
from edgekit_fleet.identity import authority as authority_room
from edgekit_fleet.identity.authority import CA_DAYS, FLOOR, SERVER_DAYS, Authority, read_csr
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices

DAY_MS = 86_400_000


class Clock:
    """The time that the authority and the keeper go by."""

    def __init__(self, monkeypatch):
        self.days = 0
        monkeypatch.setattr(authority_room, "_now", self.now)

    def now(self):
        return dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=self.days)

    def unix_ms(self):
        return int(self.now().timestamp() * 1000)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def devices(tmp_path):
    database = Database(tmp_path / "a.sqlite")
    yield Devices(database)
    database.close()


def issue(authority, name="cam-1", as_of_ms=0):
    return authority.issue(read_csr(Identity().csr()), name, as_of_ms)


def loaded(pem):
    return x509.load_pem_x509_certificate(pem if isinstance(pem, bytes) else pem.encode())


def test_server_certificates_are_renewed_in_the_last_third_of_their_life(tmp_path, clock, devices):
    authority, reloads = Authority(tmp_path / "ca"), []
    authority.server_files("http", ["localhost"])
    keeper = CertificateKeeper(authority, devices, clock.unix_ms)
    keeper.keep("http", ["localhost"], lambda: reloads.append(clock.days))
    assert keeper.check() == []
    clock.days = SERVER_DAYS * 2 // 3 - 1
    assert keeper.check() == []
    clock.days += 2
    assert keeper.check() == ["http"]
    assert keeper.check() == []
    assert reloads == [clock.days]
    assert keeper.ends_ms()["http"] > clock.unix_ms() + (SERVER_DAYS - 1) * DAY_MS
    assert keeper.warnings() == []


def test_the_ca_is_renewed_with_the_same_key_so_old_and_new_verify_each_others_certificates(tmp_path, clock):
    authority = Authority(tmp_path / "ca")
    old, before = loaded(authority.certificate_pem), loaded(issue(authority).pem)
    assert not authority.renew()
    clock.days = CA_DAYS * 2 // 3 + 2
    assert authority.renew()
    new, after = loaded(authority.certificate_pem), loaded(issue(authority).pem)
    assert (new.public_key(), new.subject) == (old.public_key(), old.subject)
    assert new.not_valid_after_utc - old.not_valid_after_utc > dt.timedelta(days=CA_DAYS * 0.6)
    for ca, certificate, at in ((new, before, 1), (old, after, clock.days), (new, after, clock.days)):
        moment = dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=at)
        builder = PolicyBuilder().store(Store([ca])).time(moment)
        assert builder.build_client_verifier().verify(certificate, []).chain
    assert Authority(tmp_path / "ca").key_sha256 == authority.key_sha256


@pytest.mark.parametrize("days_off", [-20_000, -365, 365])
def test_a_server_whose_clock_is_wrong_issues_nothing_that_is_useless_when_it_is_right(
    tmp_path, clock, days_off
):
    """In 1970, a year behind, a year ahead: what is issued then is valid now, and for weeks."""
    authority = Authority(tmp_path / "ca")
    authority.server_files("broker", ["localhost"])
    heard_ms = clock.unix_ms()
    clock.days = days_off
    device = loaded(issue(authority, as_of_ms=heard_ms).pem)
    server = loaded(authority.server_files("broker", ["localhost"])[0].read_bytes())
    now = dt.datetime.now(dt.timezone.utc)
    for certificate in (device, server):
        assert certificate.not_valid_before_utc == FLOOR < now
        assert certificate.not_valid_after_utc > now + dt.timedelta(days=80)


def test_a_server_in_1970_says_so_and_does_not_start(tmp_path, monkeypatch):
    """Its broker's certificate is not valid yet: it waited 20 s for a connection, "no answer"."""
    with composed(tmp_path) as fleet:
        monkeypatch.setattr(compose, "unix_ms", lambda: 1000)
        with pytest.raises(ConfigError, match="1970-01-01") as caught:
            fleet.start()
        assert "clock" in caught.value.hint
        assert "1970-01-01" in fleet.health().problems[0]


def test_what_ends_within_three_weeks_is_said_and_counted(tmp_path, clock, devices):
    authority = Authority(tmp_path / "ca")
    keeper = CertificateKeeper(authority, devices, clock.unix_ms)
    for number, name in enumerate(("a", "b", "revoked")):
        devices.enroll(name, unix_ms(), None)
        clock.days = -number * 10
        issued = issue(authority, name)
        devices.add_certificate(
            name,
            serial=issued.serial,
            key_sha256=issued.key_sha256,
            issued_ms=issued.issued_ms,
            expires_ms=issued.expires_ms,
            pem=issued.pem,
        )
    devices.revoke("revoked")
    clock.days = 68
    keeper.check()
    assert keeper.devices() == {"ending": 1, "ended": 0}
    assert keeper.warnings() == ["1 devices must renew their certificates within 3 weeks: b."]
    clock.days = 85
    keeper.check()
    assert keeper.devices() == {"ending": 1, "ended": 1}
    assert keeper.warnings()[0] == "1 devices cannot connect, their certificates have ended: b."


def shown(address, ca):
    """The serial number of the certificate that a TLS server shows."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    with socket.create_connection(address, 10) as plain, context.wrap_socket(plain) as secured:
        return loaded(ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True))).serial_number


def test_the_running_broker_gets_its_renewed_certificate_and_devices_reconnect_at_once(tmp_path, monkeypatch):
    """nats-server closes the connections of callout users when it reloads anything; nothing is lost by it."""
    with LocalFleet(tmp_path) as fleet, Connection(fleet.enroll("a")) as device:
        host, _, port = device.identity.answer.broker_url.removeprefix("mqtts://").rpartition(":")
        address, ca = (host, int(port)), fleet.fleet.authority.certificate_path
        before = shown(address, ca)
        monkeypatch.setattr(fleet.fleet.certificates, "_clock", lambda: unix_ms() + 300 * DAY_MS)
        assert "broker" in fleet.fleet.certificates.check()
        wait_until(lambda: shown(address, ca) != before, "the broker's new certificate", 20)
        assert device.disconnects <= 1
        wait_until(device.connected.is_set, "the device again")
        with Connection(fleet.enroll("b")):
            pass


def test_the_overview_says_first_what_ends_soon(tmp_path):
    with LocalFleet(tmp_path) as fleet:
        services = fleet.fleet.services
        services.devices.enroll("late", unix_ms(), None)
        services.devices.add_certificate(
            "late", serial="1", key_sha256="k", issued_ms=1, expires_ms=unix_ms() + 5 * DAY_MS, pem=""
        )
        fleet.fleet.certificates.check()
        assert services.warnings() == ["1 devices must renew their certificates within 3 weeks: late."]
        metrics = fleet.client.get("/metrics").text
        assert 'edgekit_fleet_device_certificates{state="ending"} 1' in metrics
        assert 'edgekit_fleet_certificate_end_seconds{of="broker"}' in metrics


def test_the_running_https_server_shows_its_renewed_certificate(tmp_path):
    authority, stops, reloads = Authority(tmp_path / "ca"), serve._Stops.__new__(serve._Stops), []
    stops.asked, stops.then = False, lambda: None
    files = authority.server_files("http", ["127.0.0.1"])
    ready = threading.Event()

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        thread = threading.Thread(
            target=serve._serve,
            args=(app, listener, files, stops),
            kwargs={
                "keep_certificate": reloads.append,
                "is_ready": ready.set,
                "each_while": lambda: None,
                "at_stop": lambda: None,
            },
        )
        thread.start()
        assert ready.wait(30)
        before = shown(address, authority.certificate_path)
        assert shown(address, authority.certificate_path) == before
        authority.server_files("http", ["127.0.0.1"])
        reloads[0]()
        assert shown(address, authority.certificate_path) != before
        stops.then()
        thread.join(30)
