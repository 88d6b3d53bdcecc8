"""Which cameras each device has: lists by device and label, put together, and named in desired states."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from edgekit.core.cameras import Camera, CameraList, CameraWish, camera_problems, digest, password_problem
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import NAME
from edgekit_fleet.identity.secret_box import SecretBox
from edgekit_fleet.rollout.desired import DesiredStates
from edgekit_fleet.store import cameras as rows
from edgekit_fleet.store.audit import Actor, Audit
from edgekit_fleet.store.cameras import CameraStore, StoredList, Target
from edgekit_fleet.store.database import Database, Sql

logger = logging.getLogger(__name__)

MAX_LABELS = 32
AT_ONCE = 50
"""Devices that are told of their list in one commit: to tell thousands in one held up for seconds what all
devices send."""
PATIENCE_S = 5.0


class CameraService:
    """The camera lists of one fleet.

    Args:
        database: Where they are kept.
        box: Encrypts the passwords there.
        desired: The desired states that name each device's list.
        audit: Gets an entry for each change, without passwords.
        known: Returns those of some devices that may connect.
        clock: Gives Unix time in milliseconds.
    """

    def __init__(
        self,
        database: Database,
        box: SecretBox,
        desired: DesiredStates,
        audit: Audit,
        known: Callable[[Collection[str]], Collection[str]],
        clock: Callable[[], int],
    ) -> None:
        self._database, self._box, self._desired, self._audit = database, box, desired, audit
        self._known, self._clock = known, clock
        self.store = CameraStore(database)

    def set_list(self, target: Target, cameras: Sequence[Camera], *, by: Actor) -> StoredList:
        """Replace the list of a device or label, and have each device concerned fetch its own.

        A camera's password stays where the camera has the same name, kind and hosts as before: with another
        host the devices would send it there.

        Raises:
            UsageError: The list is not valid, or does not go with another one of the same device.
        """
        _check_label(target)
        _refuse(f"the camera list of {target} is not valid", camera_problems(cameras))
        with self._database.transaction() as sql:
            before = rows.get(sql, target)
            known = {camera.name: _origins(camera) for camera in before.cameras} if before else {}
            keep = {camera.name for camera in cameras if known.get(camera.name) == _origins(camera)}
            rows.put(sql, target, cameras, keep, self._clock())
            after = rows.get(sql, target)
            assert after is not None
            self._record(by, "cameras.set", target, before, after)
            self._owe(sql, target)
        self.tell_due()
        return after

    def delete(self, target: Target, *, by: Actor) -> bool:
        """Delete the list of a device or label; False if there is none."""
        with self._database.transaction() as sql:
            if (before := rows.get(sql, target)) is None:
                return False
            rows.delete(sql, target)
            self._record(by, "cameras.delete", target, before, None)
            self._owe(sql, target)
        self.tell_due()
        return True

    def set_password(self, target: Target, camera: str, password: str | None, *, by: Actor) -> StoredList:
        """Set a camera's password, or with None delete it; nobody but the devices concerned can read it.

        Raises:
            UsageError: There is no such camera, it takes none, or the password cannot be one.
        """
        if password is not None and (problem := password_problem(password)):
            raise UsageError(f"the password of {camera[:64]}: {problem}")
        with self._database.transaction() as sql:
            before = rows.get(sql, target)
            known = {entry.name: entry for entry in before.cameras} if before else {}
            if before is None or camera not in known:
                raise UsageError(f"{target} has no camera {camera[:64]!r}", hint="edgekit-fleet cameras show")
            set_ms = max(self._clock(), known[camera].password_unix_ms + 1)
            taken = msgspec.structs.replace(known[camera], password_unix_ms=set_ms if password else 0)
            _refuse(f"{camera} takes no password", camera_problems([taken]))
            sealed = None if password is None else self._box.seal(password, _purpose(target, camera))
            rows.put_password(sql, target, camera, sealed, set_ms)
            after = rows.get(sql, target)
            assert after is not None
            self._record(by, "cameras.password", target, before, after)
            self._owe(sql, target)
        self.tell_due()
        return after

    def set_labels(self, device: str, labels: Sequence[str], *, by: Actor) -> tuple[str, ...]:
        """Replace a device's labels and return them in order.

        Raises:
            UsageError: One is not a name, there are too many, or two of their lists have one camera.
        """
        if len(set(labels)) > MAX_LABELS:
            raise UsageError(f"want at most {MAX_LABELS} labels, got {len(set(labels))}")
        for label in labels:
            _check_label(Target("label", label))
        with self._database.transaction() as sql:
            before = rows.labels(sql, device)
            rows.put_labels(sql, device, set(labels))
            after = rows.labels(sql, device)
            self._audit.record(by, "device.label", device, before=list(before), after=list(after))
            self._tell(sql, [device])
        self._desired.publish_pending()
        return after

    def forget(self, device: str, *, by: Actor) -> None:
        """Delete what is defined for a device that is deleted."""
        target = Target("device", device)
        with self._database.transaction() as sql:
            if (before := rows.get(sql, target)) is not None:
                rows.delete(sql, target)
                self._record(by, "cameras.delete", target, before, None)
            rows.put_labels(sql, device, ())

    def enrolled(self, device: str) -> None:
        """Name a device's list in its desired state, where there is one for a device that comes anew."""
        with self._database.transaction() as sql:
            self._tell(sql, [device])
        self._desired.publish_pending()

    def effective(self, device: str) -> tuple[Camera, ...]:
        """Return the cameras of a device: those of its labels, and its own in their place.

        Raises:
            UsageError: Two of its labels have a camera of one name.
        """
        return tuple(camera for _, camera in _together(device, self.store.of_device(device)).values())

    def document(self, device: str) -> bytes:
        """Return what a device fetches: its cameras with their passwords.

        Raises:
            UsageError: A password cannot be decrypted: the fleet's key is another one than it was set with.
        """
        with self._database.read() as sql:
            return self._encoded(sql, device, rows.of_device(sql, device))

    def wanted_sha256(self, device: str) -> str:
        """Return the digest that a device's desired state names; empty where it names none."""
        document = self._desired.of_device(device)
        wish = document.config.get("cameras") if document else None
        return msgspec.convert(wish, CameraWish).sha256 if wish else ""

    def tell_due(self) -> None:
        """Tell the devices whose list has changed, some at a time: messages are stored in between.

        For a few seconds at most, as people wait for it; the fleet manager calls it again until all are told.
        """
        until_s = time.monotonic() + PATIENCE_S
        while self._tell_some():
            self._desired.publish_pending()
            if time.monotonic() > until_s:
                return

    def _tell_some(self) -> bool:
        """Tell the next devices in one commit; False if there were none."""
        with self._database.transaction() as sql:
            devices = rows.due(sql, AT_ONCE)
            for device in devices:
                self._tell_one(sql, device)
            rows.settle(sql, devices)
        return bool(devices)

    def _tell_one(self, sql: Sql, device: str) -> None:
        """Tell a device, if that is possible as it was when the list was set; else its page says so."""
        try:
            self._tell(sql, [device])
        except UsageError as error:
            logger.error("%s is not told of its cameras: %s", device, error.message)  # noqa: TRY400 - no bug

    def _owe(self, sql: Sql, target: Target) -> None:
        """Have ``tell_due`` tell the devices that a list is for, if it goes with their other lists."""
        for device in rows.combinations(sql, target):
            self._encoded(sql, device, rows.of_device(sql, device))
        self._tell(sql, self._desired.crowded(sql, rows.concerned(sql, target)))
        rows.owe(sql, target)

    def _tell(self, sql: Sql, devices: Sequence[str]) -> None:
        """Name each device's list in its desired state, within the transaction."""
        known, wishes = self._known(devices), {}
        for device in devices:
            lists = rows.of_device(sql, device)
            if device in known and (lists or self.wanted_sha256(device)):
                wish = CameraWish(digest(self._encoded(sql, device, lists)))
                wishes[device] = msgspec.to_builtins(wish)
        try:
            self._desired.configure("cameras", wishes)
        except ConfigError as error:
            raise UsageError(error.message, hint=error.hint) from error

    def _encoded(self, sql: Sql, device: str, lists: Sequence[StoredList]) -> bytes:
        together = _together(device, lists)
        cameras = tuple(camera for _, camera in together.values())
        _refuse(f"the cameras of {device} are too many together", camera_problems(cameras))
        passwords = {
            name: self._password(sql, target, name)
            for name, (target, camera) in together.items()
            if camera.password_unix_ms
        }
        plain = CameraList(device=device, cameras=cameras, passwords=passwords, salt="")
        salt = self._box.salt(msgspec.json.encode(plain, order="sorted"))
        return msgspec.json.encode(msgspec.structs.replace(plain, salt=salt), order="sorted")

    def _password(self, sql: Sql, target: Target, camera: str) -> str:
        password = self._box.open(rows.sealed_passwords(sql, target)[camera], _purpose(target, camera))
        if password is None:
            raise UsageError(
                f"the password of camera {camera} of {target} was set with another key of this fleet",
                hint="set it again, or restore keys/secrets.key from a backup",
            )
        return password

    def _record(
        self, by: Actor, action: str, target: Target, before: StoredList | None, after: StoredList | None
    ) -> None:
        old, new = (_builtins(stored) for stored in (before, after))
        self._audit.record(by, action, str(target), before=old, after=new)


def _together(device: str, lists: Iterable[StoredList]) -> dict[str, tuple[Target, Camera]]:
    """Return a device's cameras by name, each with the list that it is from."""
    together: dict[str, tuple[Target, Camera]] = {}
    for stored in lists:
        for camera in stored.cameras:
            first = together.get(camera.name)
            if first is not None and stored.target.scope == "label":
                raise UsageError(
                    f"{device} would have two cameras {camera.name!r}: of {first[0]} and of {stored.target}",
                    hint="rename one, or define it for the device itself, which goes before its labels",
                )
            together[camera.name] = stored.target, camera
    return together


def _origins(camera: Camera) -> tuple[object, ...]:
    """Return a camera's kind and the scheme and host of each address in it, to which a password may go."""
    texts = {"uri": camera.uri, **camera.options}
    addresses = {key: text for key, text in texts.items() if isinstance(text, str) and "://" in text}
    try:
        return camera.kind, {key: urlsplit(text)[:2] for key, text in addresses.items()}
    except ValueError:  # no address; the devices say so
        return camera.kind, addresses


def _builtins(stored: StoredList | None) -> object:
    return None if stored is None else msgspec.to_builtins(stored.cameras)


def _purpose(target: Target, camera: str) -> str:
    return f"camera {target.scope}/{target.name}/{camera}"


def _check_label(target: Target) -> None:
    if target.scope == "label" and not NAME.fullmatch(target.name):
        raise UsageError(
            f"label: want lower-case letters, digits, '.', '_', '-', at most 64, got {target.name[:64]!r}"
        )


def _refuse(message: str, problems: Sequence[str]) -> None:
    if problems:
        raise UsageError(message, reasons=tuple(problems[:50]))
