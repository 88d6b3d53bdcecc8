"""The device's identity: its own key, the fleet's certificate for it, and the renewal of both.

Used in the short-lived process only, since it needs ``cryptography``.
"""

import hashlib
import logging
import os
import ssl
import time
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import read_file, replace_file, write_durably
from edgekit.base.http import Patience, Web
from edgekit.base.tls import trusting
from edgekit.core import wire
from edgekit.core.errors import EnrollError, ProtocolError, ServerError, StorageError, TrustError, UsageError
from edgekit.update.contract import EnrollOrder, Enrolment
from edgekit.update.renewal import put_in_place

logger = logging.getLogger(__name__)

_TIMEOUT_S = 45.0
_MAX_ANSWER_BYTES = 1 << 20
_WRONG_CA = "the fleet's CA is not the one that the token pins"
_RENEW_BEFORE_S = 30 * 86_400
"""Renew this long before the end, at most; a certificate may be valid from long before it was issued."""


def enrolment_request(order: EnrollOrder) -> wire.EnrollRequest:
    """Return this device's request, with its key made if it has none; without a token it is to be carried.

    Raises:
        StorageError: The key cannot be stored.
    """
    key = _key(Path(order.state_dir) / "identity" / "device.key")
    name = order.name or os.uname().nodename
    return wire.EnrollRequest(token=order.token, csr=_csr(key, name), name=name, hardware=order.hardware)


def enroll(order: EnrollOrder) -> Enrolment:
    """Enrol this device, store its identity durably (``enrolment.json`` last), and return it.

    Raises:
        EnrollError: The fleet refused, or its answer is not for this key.
        TrustError: The fleet's CA is not the one that the token pins.
        LinkError: The fleet cannot be reached.
        StorageError: The identity cannot be stored.
    """
    base, answer = _carried(order.answer) if order.answer else _asked(order)
    folder = Path(order.state_dir) / "identity"
    if not answer.root:
        raise EnrollError(
            "the fleet has no publisher yet, so this device could never trust an update",
            hint="on the fleet run 'edgekit-fleet keys init', then enrol again",
        )
    expires_ms, renew_ms = _check(answer.certificate, answer.ca, _key(folder / "device.key"), answer.device)
    identity = Enrolment(
        device=answer.device,
        fleet_url=base,
        broker_url=answer.broker_url,
        metadata_url=answer.metadata_url,
        targets_url=answer.targets_url,
        root=answer.root,
        desired_keys=answer.desired_keys,
        expires_unix_ms=expires_ms,
        renew_after_unix_ms=renew_ms,
    )
    disk = LocalDisk()
    replace_file(disk, folder / "ca.crt", answer.ca.encode())
    replace_file(disk, folder / "device.crt", answer.certificate.encode())
    replace_file(disk, folder / "enrolment.json", msgspec.json.encode(identity))
    return identity


def _asked(order: EnrollOrder) -> tuple[str, wire.EnrollResponse]:
    """Return the fleet's address and its answer to this device's request."""
    pinned = _pin(order.token)
    base = order.fleet_url.rstrip("/")
    patience = Patience(time.monotonic() + _TIMEOUT_S, _TIMEOUT_S)
    ca = _pinned_ca(base, pinned, patience) if pinned and base.startswith("https") else None
    if base.startswith("http:"):
        logger.warning("enrolling over plain HTTP: safe only on this machine or a trusted network")
    web = Web(None, patience, trusting(pem=ca.decode()) if ca else None)
    request, headers = wire.encode(enrolment_request(order)), {"Content-Type": "application/json"}
    status, body = web.send("POST", f"{base}/api/v1/enroll", _MAX_ANSWER_BYTES, request, headers)
    answer = _answer(status, body)
    if pinned and _fingerprint(answer.ca.encode()) != pinned:
        raise TrustError(_WRONG_CA)
    return base, answer


def _carried(text: str) -> tuple[str, wire.EnrollResponse]:
    try:
        carried = wire.decode(text.encode(), wire.CarriedEnrolment)
    except ProtocolError as cause:
        raise EnrollError(
            f"this is not a fleet's answer to an enrolment: {cause.message}",
            hint="write it on the fleet: edgekit-fleet enroll REQUEST -o ANSWER",
        ) from cause
    return carried.fleet_url, carried.response


def device_key(state_dir: Path) -> ec.EllipticCurvePrivateKey:
    """Return this device's key.

    Raises:
        StorageError: It is damaged.
    """
    return _key(state_dir / "identity" / "device.key")


def start_renewal(state_dir: Path, identity: Enrolment) -> str:
    """Return the signing request (PEM) of a new key, which is kept beside the old one."""
    return _csr(_key(state_dir / "identity" / "next.key"), identity.device)


def finish_renewal(state_dir: Path, identity: Enrolment, certificate: str, ca: str = "") -> int:
    """Check the certificate that answers ``start_renewal``, replace both, and return its expiry in Unix ms.

    A renewed ``ca`` (PEM) of the same key replaces the trusted one; of another key it is refused.

    Raises:
        UsageError: No renewal was started.
        TrustError: It is not from the fleet's CA, or not for this device and key, or the CA is another.
        StorageError: It cannot be stored; the old identity stays.
    """
    folder = state_dir / "identity"
    disk = LocalDisk()
    if disk.size(folder / "next.key") is None:
        raise UsageError("no renewal was started")
    key, trusted = _key(folder / "next.key"), (disk.read(folder / "ca.crt") or b"").decode()
    expires_ms, renew_ms = _check(certificate, trusted, key, identity.device)
    if ca and ca != trusted:
        _check_renewed_ca(ca, trusted)
        replace_file(disk, folder / "ca.crt", ca.encode())
    replace_file(disk, folder / "next.crt", certificate.encode())
    put_in_place(state_dir)
    renewed = msgspec.structs.replace(identity, expires_unix_ms=expires_ms, renew_after_unix_ms=renew_ms)
    replace_file(disk, folder / "enrolment.json", msgspec.json.encode(renewed))
    return expires_ms


def _check_renewed_ca(ca: str, trusted: str) -> None:
    try:
        new, old = (x509.load_pem_x509_certificate(pem.encode()) for pem in (ca, trusted))
        new.verify_directly_issued_by(old)  # so key and name are the same
        is_renewed = new.public_key() == old.public_key()
    except (ValueError, TypeError, InvalidSignature) as cause:
        raise TrustError(f"the fleet's renewed CA is not of the key that is trusted: {cause}") from cause
    if not is_renewed:
        raise TrustError("the fleet's renewed CA has another key than the one that is trusted")


def _pin(token: str) -> str:
    """Return the CA's SHA-256 that a token pins, or ""."""
    parts = token.split(".")
    if len(parts) not in (3, 4) or parts[0] != "ek1" or not all(parts):
        raise UsageError("the token is not of the form ek1.<id>.<secret>[.<sha256>]", hint="copy it whole")
    return parts[3].lower() if len(parts) == 4 else ""


def _pinned_ca(base: str, pinned: str, patience: Patience) -> bytes:
    """Fetch the fleet's CA over an unverified connection, and verify it by its hash."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pem = Web(None, patience, context).get(f"{base}/api/v1/ca", 64 << 10)
    if _fingerprint(pem) != pinned:
        raise TrustError(
            _WRONG_CA,
            reasons=(f"pinned {pinned}", f"found {_fingerprint(pem) or 'no certificate'}"),
            hint="check the address; the connection may be intercepted",
        )
    return pem


def _fingerprint(pem: bytes) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return ""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _answer(status: int, body: bytes) -> wire.EnrollResponse:
    if status == 200:
        try:
            return wire.decode(body, wire.EnrollResponse)
        except ProtocolError as cause:
            raise EnrollError(f"the fleet's answer to the enrolment is not valid: {cause.message}") from cause
    try:
        problem = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = {}
    said = str(problem.get("detail") or problem.get("title") or f"status {status}")[:500]
    if status >= 500 or status == 429:
        raise ServerError(f"the fleet cannot enrol this device now: {said}")
    raise EnrollError(f"the fleet refused to enrol this device: {said}", hint="ask for a new token")


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key at a path, made if missing; only its owner can read it."""
    if (data := read_file(path)) is None:
        key = ec.generate_private_key(ec.SECP256R1())
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o700)
            write_durably(path, _pem(key), mode=0o600)
        return key
    try:
        stored = serialization.load_pem_private_key(data, None)
    except ValueError as cause:
        raise StorageError(f"{path} is damaged: {cause}", hint="remove it and enrol again") from cause
    if not isinstance(stored, ec.EllipticCurvePrivateKey):
        raise StorageError(f"{path} is not an elliptic-curve key", hint="remove it and enrol again")
    return stored


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _csr(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _check(certificate: str, ca: str, key: ec.EllipticCurvePrivateKey, device: str) -> tuple[int, int]:
    """Check a certificate and return its expiry and renewal time in Unix milliseconds."""
    try:
        issued = x509.load_pem_x509_certificate(certificate.encode())
        issued.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    except (ValueError, TypeError, InvalidSignature) as cause:
        raise TrustError(f"the certificate is not from the fleet's CA: {cause}") from cause
    names = [str(a.value) for a in issued.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if issued.public_key() != key.public_key() or names != [device]:
        raise TrustError(f"the certificate is for {names}, not for this device's key and name '{device}'")
    begins_s, ends_s = issued.not_valid_before_utc.timestamp(), issued.not_valid_after_utc.timestamp()
    return int(ends_s * 1000), int((ends_s - min((ends_s - begins_s) / 3, _RENEW_BEFORE_S)) * 1000)
