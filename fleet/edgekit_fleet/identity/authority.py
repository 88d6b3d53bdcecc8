"""The fleet's certificate authority: one P-256 key, server certificates, device certificates.

A device's certificate names it (CN, and the URI ``urn:edgekit:device:<id>``) and is valid for client
authentication only, for 90 days. The CA lives ten years and is renewed, with the same key, long before its
end; the key never leaves the data folder.

Clocks are not trusted: every certificate is valid from ``FLOOR`` on, so that a device whose clock is slow, or
a fleet manager whose clock was a year ahead for an hour, locks nobody out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgekit.base.clock import FLOOR_UNIX_MS
from edgekit.base.files import write_durably
from edgekit.core import wire
from edgekit.core.cameras import CameraRequest, request_bytes
from edgekit.core.errors import ConfigError, EnrollError, SignatureError

DEVICE_DAYS = 90
SERVER_DAYS = 397
CA_DAYS = 3650
URN = "urn:edgekit:device:"
FLEET_NAME = "edgekit-fleet"
"""The CN of the fleet manager's own certificate, which a mosquitto knows it by: no device gets this name."""
MAX_CSR_BYTES = 16 << 10
FLOOR = dt.datetime.fromtimestamp(FLOOR_UNIX_MS / 1000, dt.timezone.utc)
"""Every certificate is valid from then on: earlier than this software, so no right clock is before it."""


@dataclass(frozen=True)
class Issued:
    """A device certificate as it is recorded."""

    pem: str
    serial: str
    key_sha256: str
    issued_ms: int
    expires_ms: int


class Authority:
    """The CA of one fleet, created below ``folder`` on first use.

    Args:
        folder: The folder with its key and certificate.
        trusted_key: SHA-256 of the key that the fleet's devices trust; empty for a new fleet.

    Raises:
        ConfigError: Its key or certificate is damaged, missing, or not the one that devices trust.
    """

    def __init__(self, folder: Path, trusted_key: str = "") -> None:
        self._folder = folder
        if trusted_key and not self.certificate_path.exists():
            raise ConfigError(
                f"{folder}: the fleet's CA is missing; with a new one no enrolled device could connect again",
                hint="restore ca.key and ca.crt from a backup",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key_path = folder / "ca.key"
        if not self.certificate_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_durably(key_path, _key_pem(key), mode=0o600)
            write_durably(self.certificate_path, _pem(_self_signed(key)))
        try:
            loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
            self._certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        except (ValueError, TypeError, OSError) as cause:
            raise ConfigError(
                f"{folder}: the fleet's CA cannot be read: {cause}",
                hint="restore ca.key and ca.crt from a backup",
            ) from cause
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{key_path}: not an EC key", hint="restore ca.key from a backup")
        self._key = loaded
        self.renew()
        if trusted_key and self.key_sha256 != trusted_key:
            raise ConfigError(
                f"{folder}: not the CA that this fleet's devices trust; none of them could connect",
                reasons=(f"trusted key {trusted_key}", f"found {self.key_sha256}"),
                hint="restore ca.key and ca.crt from a backup of this fleet",
            )

    @property
    def certificate_path(self) -> Path:
        """The path of the CA's certificate, for the configuration of a broker."""
        return self._folder / "ca.crt"

    @property
    def certificate_pem(self) -> str:
        """The CA's certificate."""
        return _pem(self._certificate).decode()

    @property
    def sha256(self) -> str:
        """SHA-256 of the CA's certificate (DER), in hexadecimal: the fourth part of a claim."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def key_sha256(self) -> str:
        """SHA-256 of the CA's public key: it stays the same when the certificate is renewed."""
        return key_sha256(self._key.public_key())

    def renew(self) -> bool:
        """Renew the CA's certificate in the last third of its life; return whether it was renewed.

        Key and name stay, so old and new certificate verify what either has signed. Devices get the new one
        with their next renewal, years before the old one ends.
        """
        if self._certificate.not_valid_after_utc - _now() > dt.timedelta(days=CA_DAYS / 3):
            return False
        self._certificate = _self_signed(self._key, self._certificate.subject)
        write_durably(self.certificate_path, _pem(self._certificate))
        return True

    @property
    def expires_ms(self) -> int:
        """When the CA's certificate ends, in Unix milliseconds."""
        return _ms(self._certificate.not_valid_after_utc)

    def server_expires_ms(self, name: str) -> int | None:
        """Return when the certificate of ``server_files`` ends, in Unix milliseconds; None without one."""
        try:
            pem = (self._folder / f"{name}.crt").read_bytes()
            return _ms(x509.load_pem_x509_certificate(pem).not_valid_after_utc)
        except (OSError, ValueError):
            return None

    def server_files(self, name: str, hosts: Sequence[str]) -> tuple[Path, Path]:
        """Issue a fresh server certificate and return the paths of (certificate, key).

        It is valid for client authentication too, because the fleet manager is a client of its broker.

        Args:
            name: Which server; names the files, and is the certificate's CN.
            hosts: Host names and addresses that clients reach it by.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [_general_name(host) for host in dict.fromkeys(hosts)]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        life = dt.timedelta(days=SERVER_DAYS)
        ends = max(_now() + life, _at(self.server_expires_ms(name) or 0))
        certificate = self._sign(name, key.public_key(), ends, names, usages)
        key_path, certificate_path = self._folder / f"{name}.key", self._folder / f"{name}.crt"
        write_durably(key_path, _key_pem(key), mode=0o600)
        write_durably(certificate_path, _pem(certificate))
        return certificate_path, key_path

    def issue(self, public: ec.EllipticCurvePublicKey, device: str, as_of_ms: int = 0) -> Issued:
        """Issue a device's certificate for a key; ``read_csr`` has proved that the device holds it.

        Args:
            public: The device's key.
            device: Its name.
            as_of_ms: The clock is not before this, whatever it says (Unix milliseconds).
        """
        now = max(_now(), _at(as_of_ms))
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"{URN}{device}")]
        ends = now + dt.timedelta(days=DEVICE_DAYS)
        certificate = self._sign(device, public, ends, names, [ExtendedKeyUsageOID.CLIENT_AUTH])
        return Issued(
            pem=_pem(certificate).decode(),
            serial=f"{certificate.serial_number:x}",
            key_sha256=key_sha256(public),
            issued_ms=_ms(now),
            expires_ms=_ms(certificate.not_valid_after_utc),
        )

    def revocation_list(self, serials: Iterable[str]) -> str:
        """Return the list of revoked certificates (CRL, PEM), for brokers that know no devices.

        It is valid as long as the CA: a broker that cannot fetch a newer one locks nobody out.

        Args:
            serials: Their serial numbers, in hexadecimal.
        """
        revoked = x509.RevokedCertificateBuilder().revocation_date(_now())
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._certificate.subject,
            last_update=FLOOR,
            next_update=self._certificate.not_valid_after_utc,
            revoked_certificates=[revoked.serial_number(int(serial, 16)).build() for serial in serials],
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _sign(
        self,
        name: str,
        public: ec.EllipticCurvePublicKey,
        ends: dt.datetime,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
    ) -> x509.Certificate:
        ca = self._key.public_key()
        return (
            _builder(_named(name), self._certificate.subject, public, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def read_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signing request; its signature proves that the sender holds the key.

    The names in the request are ignored; the fleet assigns the name.

    Raises:
        EnrollError: It is malformed, its signature does not verify, or its key is not P-256.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise EnrollError(f"the signing request has {len(pem)} bytes, at most {MAX_CSR_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        public = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, x509.UnsupportedGeneralNameType) as cause:
        raise EnrollError(f"the signing request cannot be read: {cause}") from cause
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise EnrollError("the signing request's key is not P-256")
    if not is_signed:
        raise EnrollError("the signing request is not signed by its own key")
    return public


def read_carried(part: wire.SignedPart, ca: str) -> tuple[wire.CarriedOutbox, str]:
    """Return what a device's key signed, and the serial number of the device's certificate.

    A certificate that has ended is accepted: a device without a link cannot renew it.

    Args:
        part: As it was carried here.
        ca: The fleet's CA certificate (PEM).

    Raises:
        SignatureError: The certificate is not of this CA or of another device, or the signature is wrong.
        ProtocolError: The body is malformed.
    """
    carried = wire.decode(part.body, wire.CarriedOutbox)
    serial = _signed_by(carried.device, carried.certificate, part.signature, wire.part_bytes(part.body), ca)
    return carried, serial


def read_camera_request(part: wire.SignedPart, ca: str) -> tuple[CameraRequest, str]:
    """Return a device's request for its camera list and the serial number of its certificate.

    Raises:
        SignatureError: It is not signed by a device of this CA.
        ProtocolError: The body is malformed.
    """
    request = wire.decode(part.body, CameraRequest)
    serial = _signed_by(request.device, request.certificate, part.signature, request_bytes(part.body), ca)
    return request, serial


def _signed_by(device: str, pem: str, signature: bytes, signed: bytes, ca: str) -> str:
    """Check a signature of a device's key; return the serial number of its certificate.

    Raises:
        SignatureError: The certificate is not of this CA or of another device, or the signature is wrong.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
        names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        public = certificate.public_key()
        if names != [device] or not isinstance(public, ec.EllipticCurvePublicKey):
            raise SignatureError(f"the certificate is of {names}, not of device '{device[:64]}'")
        public.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature) as cause:
        raise SignatureError(f"this is not signed by a device of this fleet: {cause}") from cause
    return f"{certificate.serial_number:x}"


def certificate_key(pem: bytes) -> str:
    """Return the SHA-256 of the public key of a CA's certificate (PEM), in hexadecimal.

    Raises:
        ConfigError: It is not the certificate of an EC key.
    """
    try:
        public = x509.load_pem_x509_certificate(pem).public_key()
    except ValueError as cause:
        raise ConfigError(f"the CA's certificate is damaged: {cause}") from cause
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ConfigError("the CA's certificate is not of an EC key")
    return key_sha256(public)


def key_sha256(public: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key (DER SubjectPublicKeyInfo), in hexadecimal."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _self_signed(key: ec.EllipticCurvePrivateKey, subject: x509.Name | None = None) -> x509.Certificate:
    public = key.public_key()
    # A unique name, so that the CAs of two fleets cannot be confused.
    name = f"edgekit fleet CA {key_sha256(public)[:8]}"
    subject = subject or _named(name)
    return (
        _builder(subject, subject, public, _now() + dt.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> dt.datetime:
    """Return the time; a clock in 1970 counts as ``FLOOR``."""
    return max(dt.datetime.now(dt.timezone.utc), FLOOR)


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1000)


def _at(unix_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_ms / 1000, dt.timezone.utc)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, ends: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(FLOOR)
        .not_valid_after(ends)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
