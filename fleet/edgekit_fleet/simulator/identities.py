"""Enrols simulated devices as real ones are enrolled, and keeps their certificates for the next run."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgekit.base.files import write_durably
from edgekit.core import wire
from edgekit.core.errors import ConfigError
from edgekit.core.spec import Facts

_AT_ONCE = 8
_FLEET_FILE = "fleet.json"
_CA_FILE = "ca.crt"


@dataclass(frozen=True)
class Identity:
    """One simulated device: its name, and the file with its certificate and key."""

    device: str
    pem: Path
    broker_url: str
    shared: ssl.SSLContext = field(compare=False, repr=False)
    """Of all devices: with one for each, a connection takes twice the processor time and memory."""

    def context(self) -> ssl.SSLContext:
        """Return how it speaks TLS, for a connection that begins now.

        A connection keeps the certificate that its context had when it began (OpenSSL, ``SSL_new``); the
        next call gives the same context another device's.
        """
        self.shared.load_cert_chain(self.pem)
        return self.shared


class _Kept(msgspec.Struct):
    broker_url: str


Enroll = Callable[[wire.EnrollRequest], wire.EnrollResponse]


def enrolled(
    folder: Path, prefix: str, count: int, claim: Callable[[int], str], enroll: Enroll
) -> list[Identity]:
    """Return ``count`` devices, enrolling those that the folder does not have.

    Args:
        folder: Keeps their certificates and keys, readable by this user only.
        prefix: Of their names.
        count: How many.
        claim: Makes an enrolment token for so many devices.
        enroll: Sends one request to the fleet.

    Raises:
        EnrollError: The fleet refuses.
        ConfigError: A name is taken, or the folder is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = [folder / f"{prefix}{number:05d}.pem" for number in range(count)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        token = claim(len(missing))
        with ThreadPoolExecutor(_AT_ONCE, "enrol") as pool:
            answers = list(pool.map(lambda path: _enroll(path, token, enroll), missing))
        write_durably(folder / _CA_FILE, answers[-1].ca.encode())
        write_durably(folder / _FLEET_FILE, msgspec.json.encode(_Kept(answers[-1].broker_url)))
    try:
        kept = msgspec.json.decode((folder / _FLEET_FILE).read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError) as cause:
        raise ConfigError(
            f"{folder / _FLEET_FILE}: {cause}", hint="remove the folder; devices enrol again"
        ) from cause
    shared = ssl.create_default_context(cafile=str(folder / _CA_FILE))
    return [Identity(path.stem, path, kept.broker_url, shared) for path in paths]


def _enroll(path: Path, token: str, enroll: Enroll) -> wire.EnrollResponse:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    answer = enroll(
        wire.EnrollRequest(
            token=token, csr=request.public_bytes(pem).decode(), name=path.stem, hardware=_hardware()
        )
    )
    if answer.device != path.stem:
        raise ConfigError(
            f"the fleet has a device '{path.stem}' already",
            hint="use another --prefix, or another --keep folder",
        )
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(path, answer.certificate.encode() + private, mode=0o600)
    return answer


def _hardware() -> Facts:
    return Facts(arch="aarch64", board="simulated", cpu="simulated", cores=4, memory_mb=4096)
