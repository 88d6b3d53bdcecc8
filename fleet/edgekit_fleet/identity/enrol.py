"""Enrolment: a device with a claim and a signing request gets a name and a certificate."""

from __future__ import annotations

import secrets
from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit.core import wire
from edgekit.core.errors import EnrollError
from edgekit.core.spec import DEVICE_ID
from edgekit_fleet.identity.authority import FLEET_NAME, Authority, Issued, key_sha256, read_csr
from edgekit_fleet.identity.journal import Journal
from edgekit_fleet.store.audit import LOCAL, Actor, Audit
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.tokens import Tokens


class Door(Protocol):
    """The broker, as far as it is about who may connect."""

    def shut(self, device: str) -> None:
        """Close a device's connection and refuse the next one; a device or its certificates are barred."""

    def reopen(self) -> None:
        """Let devices connect again that were revoked and are welcome now."""


class Enrolment:
    """Enrols devices, renews their certificates, revokes them; times are handed in, as Unix milliseconds.

    Args:
        database: The fleet's database.
        authority: Issues certificates.
        devices: The devices of the database.
        tokens: Its claims.
        journal: Records what a restored backup must be told again.
        door: Closes connections to the broker, and lets devices in again.
    """

    def __init__(
        self,
        database: Database,
        authority: Authority,
        devices: Devices,
        tokens: Tokens,
        journal: Journal,
        door: Door,
    ) -> None:
        self._database = database
        self._authority = authority
        self._devices = devices
        self._tokens = tokens
        self._journal = journal
        self._door = door
        self._audit = Audit(database)

    def enroll(self, request: wire.EnrollRequest, now_ms: int, address: str = "") -> tuple[str, str, bool]:
        """Enrol a device; the audit log says from which ``address``.

        The same key is the same device, also with another claim: it keeps its name. With the same claim it
        gets the same certificate again, because the first answer may have been lost. A claim in the place of
        a device gives its name to another key, as after its disk was replaced, and bars its certificates.

        Returns:
            The device's id, its certificate (PEM), and whether it is new.

        Raises:
            EnrollError: The claim or the signing request is not valid.
        """
        public = read_csr(request.csr)
        key = key_sha256(public)
        with self._database.transaction():
            claim, known = self._tokens.claimed_by(request.token, key, now_ms)
            if known is not None:
                return known, self._again(known, key, request.csr, now_ms), False
            if (device := self._devices.of_key(key)) is not None:
                certificate = self._again(device, key, request.csr, now_ms)
                self._tokens.use_claim(claim, key, device, now_ms)
                return device, certificate, False
            by = Actor(f"claim {claim}", address)
            replaced = self._tokens.replaced_by(claim)
            if replaced:
                self._forget(replaced, now_ms, by)
            device = replaced or self._free_id(request.name)
            self._journal.add("enrolled", device, now_ms)
            hardware = msgspec.json.encode(request.hardware).decode() if request.hardware else None
            self._devices.enroll(device, now_ms, hardware)
            issued = self._issue(public, device)
            self._tokens.use_claim(claim, key, device, now_ms)
            self._audit.record(by, "device.enrol", device, after={"certificate": issued.serial})
        if replaced:  # once the broker can read which certificates are barred
            self._door.shut(replaced)
        return device, issued.pem, True

    def renew(self, device: str, csr: str) -> str:
        """Return a new certificate (PEM) for an enrolled device; its key may be a new one.

        Raises:
            EnrollError: The device is unknown or revoked, or the signing request is not valid.
        """
        public = read_csr(csr)
        if not self._devices.is_welcome(device):
            raise EnrollError(f"device {device} is not enrolled, or is revoked")
        with self._database.transaction():
            issued = self._issue(public, device)
            self._audit.record(Actor(device), "device.renew", device, after={"certificate": issued.serial})
        return issued.pem

    def revoke(self, device: str, now_ms: int, *, by: Actor = LOCAL) -> bool:
        """Bar a device from connecting, and close its connection; return False if there is no such device.

        The audit log says ``by`` whom.
        """
        if not self._devices.exists(device):
            return False
        self._journal.add("revoked", device, now_ms)
        with self._database.transaction():
            self._devices.revoke(device)
            self._audit.record(by, "device.revoke", device, after="revoked")
        self._door.shut(device)
        return True

    def delete(self, device: str, now_ms: int, *, by: Actor = LOCAL) -> bool:
        """Forget a device and bar its certificates; its name is free then. False if there is no such device.

        It can enrol again with a new claim, as a new device. The audit log says ``by`` whom.
        """
        if not self._devices.exists(device):
            return False
        with self._database.transaction():
            self._forget(device, now_ms, by)
        self._door.shut(device)
        return True

    def adopt(self, device: str, now_ms: int, *, by: Actor = LOCAL) -> bool:
        """Take back a device whose certificate is of this fleet, and which the database does not know.

        It was enrolled after the backup that was restored. False if the device is known. The audit log says
        ``by`` whom.
        """
        if self._devices.exists(device):
            return False
        self._journal.add("enrolled", device, now_ms)
        with self._database.transaction():
            self._devices.enroll(device, now_ms, None)
            self._audit.record(by, "device.adopt", device)
        return True

    def restore(self, device: str, now_ms: int, *, by: Actor = LOCAL) -> bool:
        """Undo ``revoke``; the audit log says ``by`` whom."""
        if not self._devices.exists(device):
            return False
        self._journal.add("restored", device, now_ms)
        with self._database.transaction():
            self._audit.record(by, "device.restore", device, after="approved")
            is_restored = self._devices.restore(device)
        self._door.reopen()
        return is_restored

    def _forget(self, device: str, now_ms: int, by: Actor) -> None:
        """Delete a device, inside a transaction."""
        self._journal.add("deleted", device, now_ms)
        self._devices.delete(device, now_ms)
        self._tokens.forget_uses(device)
        self._audit.record(by, "device.delete", device)

    def _again(self, device: str, key: str, csr: str, now_ms: int) -> str:
        if not self._devices.is_welcome(device):
            raise EnrollError(f"device {device} is revoked")
        return self._devices.certificate(device, key, now_ms) or self.renew(device, csr)

    def _issue(self, public: ec.EllipticCurvePublicKey, device: str) -> Issued:
        issued = self._authority.issue(public, device, self._devices.last_issued_ms())
        self._devices.add_certificate(
            device,
            serial=issued.serial,
            key_sha256=issued.key_sha256,
            issued_ms=issued.issued_ms,
            expires_ms=issued.expires_ms,
            pem=issued.pem,
        )
        return issued

    def _free_id(self, requested: str) -> str:
        """Return the requested id if it is valid and free, else one that begins with it."""
        is_valid = requested != FLEET_NAME and DEVICE_ID.fullmatch(requested)
        if is_valid and not self._devices.exists(requested):
            return requested
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in requested)[
            :50
        ].strip("-")
        return f"{stem or 'device'}-{secrets.token_hex(4)}"
