"""A device whose clock is wrong reaches its fleet, and is right again as soon as the clock is."""

import datetime as dt
import socket
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgekit.base import clock as clock_module
from edgekit.base import tls
from edgekit.base.clock import FLOOR_UNIX_MS, FlooredClock

NOW_MS = FLOOR_UNIX_MS + 300 * 86_400_000
YEAR_MS = 365 * 86_400_000


@pytest.fixture
def at(monkeypatch):
    """Set the machine's clock, in Unix milliseconds."""
    return lambda ms: monkeypatch.setattr(time, "time_ns", lambda: ms * 1_000_000)


def test_a_clock_that_was_a_year_ahead_counts_again_once_it_is_synchronised(tmp_path, at, monkeypatch):
    at(NOW_MS + YEAR_MS)
    FlooredClock(tmp_path / "clock").keep()
    at(NOW_MS)
    monkeypatch.setattr(clock_module, "_SYNCHRONIZED", tmp_path / "synchronized")
    again = FlooredClock(tmp_path / "clock")
    assert (again.quality, again.unix_ms() >= NOW_MS + YEAR_MS) == ("floored", True)
    (tmp_path / "synchronized").touch()
    assert (again.quality, again.unix_ms()) == ("synced", NOW_MS)
    again.keep()
    (tmp_path / "synchronized").unlink()
    assert FlooredClock(tmp_path / "clock").unix_ms() < NOW_MS + 60_000


def test_a_clock_in_1970_is_never_right_whatever_the_system_says(tmp_path, at, monkeypatch):
    at(5000)
    monkeypatch.setattr(clock_module, "_SYNCHRONIZED", tmp_path / "synchronized")
    (tmp_path / "synchronized").touch()
    found = FlooredClock(tmp_path / "clock")
    assert (found.quality, found.unix_ms() >= FLOOR_UNIX_MS) == ("floored", True)


def expired(folder):
    """The files of a server certificate of its own, valid in 2001 only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begins = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, der = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key").write_bytes(key.private_bytes(pem, der, serialization.NoEncryption()))
    (folder / "crt").write_bytes(certificate.public_bytes(pem))


def shake_hands(folder, context, name="localhost"):
    """Connect to a server with that certificate; the handshake raises where it is refused."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "crt", folder / "key")
    ours, theirs = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        context.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join(30)


def test_with_a_clock_in_1970_only_the_times_of_a_certificate_are_not_checked(tmp_path, monkeypatch):
    expired(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tmp_path, tls.trusting(tmp_path / "crt"))
    monkeypatch.setattr(time, "time", lambda: 5.0)
    shake_hands(tmp_path, tls.trusting(tmp_path / "crt"))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(tmp_path, tls.trusting(tmp_path / "crt"), "elsewhere")
    with pytest.raises(ssl.SSLCertVerificationError, match="self"):
        shake_hands(tmp_path, tls.trusting())
