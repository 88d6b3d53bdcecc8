"""Signs the outbox that is carried to the fleet, and checks the fleet's answer; for the updater's process."""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit.base.disk import disk_errors
from edgekit.base.files import read_file
from edgekit.base.parts import read_parts, write_part
from edgekit.core import wire
from edgekit.core.errors import TrustError, UsageError
from edgekit.update.contract import Enrolment
from edgekit.update.identity import device_key
from edgekit.update.trust import verify_signature


def sign_outbox(state: Path, identity: Enrolment, source: Path, target: Path) -> None:
    """Write the parts that ``sync.carried`` wrote to ``target``, each signed with the device's key.

    Raises:
        StorageError: ``target`` cannot be written.
        UsageError: ``source`` is not whole.
    """
    key = device_key(state)
    certificate = (read_file(state / "identity" / "device.crt") or b"").decode()
    with disk_errors(target), target.open("wb") as file:
        for part in read_parts(source):
            leaf, batch = msgspec.msgpack.decode(part, type=tuple[str, bytes])
            body = wire.encode(
                wire.CarriedOutbox(identity.device, certificate, "m" if leaf == "m" else "ev", batch)
            )
            signature = key.sign(wire.part_bytes(body), ec.ECDSA(hashes.SHA256()))
            write_part(file, wire.encode(wire.SignedPart(body, signature)))


def checked_ack(path: Path, identity: Enrolment) -> wire.CarriedAck:
    """Return the fleet's answer that was carried back.

    Raises:
        SignatureError: The fleet did not sign it.
        TrustError: It is for another device.
        UsageError: The file cannot be read.
        ProtocolError: It is malformed.
    """
    try:
        encoded = path.read_bytes()
    except OSError as cause:
        raise UsageError(f"{path}: {cause.strerror}") from cause
    ack = wire.decode(encoded, wire.CarriedAck)
    verify_signature(encoded, ack.signature, identity, f"{path.name}")
    if ack.device != identity.device:
        raise TrustError(f"{path.name} is for device '{ack.device[:64]}', this is '{identity.device}'")
    return ack
