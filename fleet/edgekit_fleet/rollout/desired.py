"""What each device shall run: whole, versioned, signed documents, stored first and published afterwards.

A crash between the two loses nothing: a document that was stored and not published is *pending*.
Publishing twice is harmless: the document is retained, and a device ignores a version that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ConfigError
from edgekit_fleet.broker.downlink import Downlink
from edgekit_fleet.registry.keys import SigningKey, desired_key_id
from edgekit_fleet.store import desired as rows
from edgekit_fleet.store.database import Database, Sql

Item = TypeVar("Item")
AT_ONCE = 100
"""Devices whose documents are changed, or noted as sent, in one commit."""
ROOM_BYTES = 512
"""More than one key of ``config`` takes in a document."""


class DesiredStates:
    """The desired states of one fleet.

    Args:
        database: Where they are kept.
        key: Signs them.
        downlink: Sends them to devices.
        clock: Gives Unix time in milliseconds.
        restored_ms: When a backup was restored; until a device is heard after it, nobody knows which document
            it has, so none is sent. 0: never.
    """

    def __init__(
        self,
        database: Database,
        key: SigningKey,
        downlink: Downlink,
        clock: Callable[[], int],
        restored_ms: int = 0,
    ) -> None:
        self._database, self._key, self._downlink, self._clock = database, key, downlink, clock
        self._restored_ms = restored_ms
        self._documents = rows.Documents(database)

    def of_device(self, device: str) -> wire.Desired | None:
        """Return what a device shall run; None where nothing was ever desired of it."""
        return _decoded(self._documents.get(device))

    def signed(self, device: str) -> bytes:
        """Return a device's document as it is published; empty where there is none."""
        document = self._documents.get(device)
        return b"" if document is None else document.body

    def set_model(self, device: str, model: str, desired: wire.DesiredModel | None) -> int:
        """Set, or with None remove, a device's desired version of a model; return the document's version.

        ``publish_pending`` sends it. Call this in the transaction that records the reason. The document
        stays as it is if it says the same already.

        Raises:
            ConfigError: The document would be too large for devices to read, or the target is for
                measuring only.
        """
        if desired is not None and desired.target != wire.target_path(model, desired.version):
            raise ConfigError(
                f"{desired.target[:200]!r} is not what devices install as {model} {desired.version}"
            )
        with self._database.transaction() as sql:
            before = _decoded(rows.get(sql, device))
            models = dict(before.models) if before else {}
            if before and models.get(model) == desired:
                return before.version
            models.pop(model, None)
            if desired is not None:
                models[model] = desired
            version = max(before.version + 1 if before else 1, self._clock() // 1000)
            body = self._signed(device, version, models, before.config if before else {})
            rows.put(sql, rows.Document(device, version, body))
        return version

    def tell(self, devices: Sequence[str], addresses: wire.Addresses) -> int:
        """Tell devices where the fleet is going to be; return the number of documents that changed.

        Some at a time: messages are stored in between.

        Raises:
            ConfigError: A document would be too large for its device to read; devices before it are told.
        """
        value, changed = msgspec.to_builtins(addresses), 0
        for part in _parts(devices):
            changed += self.configure("addresses", dict.fromkeys(part, value))
            self.publish_pending()
        return changed

    def configure(self, key: str, values: Mapping[str, Any]) -> int:
        """Set what each device's ``config`` has under a key; return the number of documents that changed.

        ``publish_pending`` sends them. Call this in the transaction that records the reason.

        Raises:
            ConfigError: A document would be too large for its device to read.
        """
        changed = 0
        with self._database.transaction() as sql:
            for device, value in values.items():
                before = _decoded(rows.get(sql, device))
                config = before.config if before else {}
                if config.get(key) == value:
                    continue
                version = max(before.version + 1 if before else 1, self._clock() // 1000)
                models = before.models if before else {}
                body = self._signed(device, version, models, {**config, key: value})
                rows.put(sql, rows.Document(device, version, body))
                changed += 1
        return changed

    def crowded(self, sql: Sql, devices: Sequence[str]) -> list[str]:
        """Return those of some devices whose document may have no room for one more key of ``config``."""
        return rows.longer(sql, devices, wire.MAX_DESIRED_BYTES - ROOM_BYTES)

    def sign_ack(self, ack: wire.CarriedAck) -> bytes:
        """Return an answer to a carried outbox, encoded and signed."""
        return self._with_signature(ack)

    def _with_signature(self, plain: wire.Desired | wire.CarriedAck) -> bytes:
        signature = self._key.sign(wire.signed_bytes(wire.encode(plain))).hex()
        named = {"keyid": desired_key_id(self._key.public), "sig": signature}
        return wire.encode(msgspec.structs.replace(plain, signature=named))

    def _signed(
        self, device: str, version: int, models: dict[str, wire.DesiredModel], config: dict[str, Any]
    ) -> bytes:
        """Return an encoded, signed document.

        Versions follow the clock where they can, so that a fleet restored from a backup does not
        fall behind what devices have accepted.
        """
        plain = wire.Desired(device, version, models, config, self._clock())
        body = self._with_signature(plain)
        if len(body) > wire.MAX_DESIRED_BYTES:
            raise ConfigError(
                f"the desired state of {device} would have {len(body)} bytes,"
                f" devices read at most {wire.MAX_DESIRED_BYTES}",
                hint="give the device fewer models",
            )
        return body

    def accepted(self) -> int:
        """Return the number of approved devices that have accepted their newest document."""
        return self._documents.accepted()

    def publish_pending(self) -> int:
        """Send every document that was not sent yet; return how many.

        Raises:
            StorageError: That they were sent cannot be recorded; they will be sent again.
        """
        documents = self._documents.pending(self._restored_ms)
        for part in _parts(documents):
            for document in part:
                self._send(document)
            self._documents.set_published(part)
        return len(documents)

    def publish_all(self) -> None:
        """Send every document again: the broker may have lost what it retained."""
        self._documents.set_all_pending()
        self.publish_pending()

    def publish_if_newer(self, device: str, applied: int) -> None:
        """Send a device's document again if the device has applied an older version."""
        document = self._documents.get(device)
        if document is not None and document.version > applied:
            self._send(document)

    def publish(self, device: str) -> int:
        """Send a device's document again; return its version, 0 where there is none."""
        document = self._documents.get(device)
        if document is None:
            return 0
        self._send(document)
        return document.version

    def forget(self, device: str) -> None:
        """Forget what a device that was deleted shall run, and clear what the broker retains for it."""
        self._documents.forget(device)
        self._downlink.publish(device, "desired", b"", retain=True)

    def _send(self, document: rows.Document) -> None:
        self._downlink.publish(document.device, "desired", document.body, retain=True)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Cut what concerns thousands of devices into parts of which each is one commit."""
    return (items[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE))


def _decoded(document: rows.Document | None) -> wire.Desired | None:
    return None if document is None else wire.decode(document.body, wire.Desired)
