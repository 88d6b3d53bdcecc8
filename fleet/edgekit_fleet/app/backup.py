"""Write a fleet's data into one file while the fleet runs, and make a data folder of such a file.

::

    backup.json       format, time, the authority's key, what is inside
    fleet.sqlite      the database as of one moment
    ca/ca.crt         the authority's certificate
    ports.json        the ports that devices know
    keys.sealed       the secret keys, encrypted with a passphrase; only if they were asked for
    blobs/<sha256>    the files of published bundles

The file is a plain tar. Files of bundles never change, so they are copied after the database.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from edgekit.base.disk import sync_path
from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError, HashMismatchError, StorageError, UsageError
from edgekit_fleet import __version__
from edgekit_fleet.identity.authority import Authority, certificate_key
from edgekit_fleet.identity.journal import FILE as JOURNAL_FILE
from edgekit_fleet.identity.journal import Journal, Since
from edgekit_fleet.identity.sealed import seal, unseal
from edgekit_fleet.identity.secret_box import FILE as BOX_FILE
from edgekit_fleet.registry.blobs import SHA256, Blobs
from edgekit_fleet.store.audit import LOCAL, Audit
from edgekit_fleet.store.copying import check_database, copy_database
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.facts import AUTHORITY, RESTORED, Facts

FORMAT = 1
DATABASE = "fleet.sqlite"
HEAD = "backup.json"
SEALED = "keys.sealed"
SECRETS = (
    "ca/ca.key",
    "keys/snapshot.key",
    "keys/timestamp.key",
    "keys/desired.key",
    BOX_FILE,
    "admin.token",
)
PLAIN = ("ca/ca.crt", "ports.json")
MAX_SMALL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


class Head(msgspec.Struct, frozen=True):
    """``backup.json``; ``authority`` is the SHA-256 of the CA's public key."""

    format: int
    created_unix_ms: int
    version: str
    authority: str
    has_keys: bool
    devices: int
    blobs: int


@dataclass(frozen=True)
class Restored:
    """The result of a restore.

    Args:
        head: What the backup says of itself.
        since: What became of devices after it, from the journal of the former data folder; None if there
            was no journal.
    """

    head: Head
    since: Since | None


def back_up(
    data: Path, target: Path, now_ms: int, *, database: Path | None = None, passphrase: bytes = b""
) -> Head:
    """Write a backup of a data folder, whose fleet manager may run.

    Args:
        data: The folder.
        target: The file to write; it must not exist. Only its owner can read it.
        now_ms: Unix time.
        database: The database if it is not in the folder.
        passphrase: Encrypts the secret keys, which are in the backup only if this is given.

    Raises:
        ConfigError: The folder has no fleet's data.
        UsageError: The target exists.
        StorageError: A file cannot be read or written.
    """
    if target.exists():
        raise UsageError(f"{target} exists", hint="name a new file: a backup never replaces another one")
    draft = target.with_name(f"{target.name}.partial")
    copy = target.with_name(f"{target.name}.sqlite")
    try:
        copy.touch(0o600)
        copy_database(database or data / DATABASE, copy)
        blobs = sorted(path for path in (data / "blobs").glob("*") if SHA256.fullmatch(path.name))
        with contextlib.closing(Database(copy)) as opened:
            devices = Devices(opened).counts()["total"]
        key = certificate_key((data / "ca" / "ca.crt").read_bytes())
        head = Head(FORMAT, now_ms, __version__, key, bool(passphrase), devices, len(blobs))
        _write(draft, data, copy, blobs, head, passphrase)
        draft.replace(target)
        sync_path(target.parent)
    except OSError as cause:
        raise StorageError(f"{cause.filename or target}: {cause.strerror}") from cause
    finally:
        for path in (draft, copy, *(copy.with_name(copy.name + end) for end in ("-wal", "-shm"))):
            path.unlink(missing_ok=True)
    return head


def _write(draft: Path, data: Path, copy: Path, blobs: list[Path], head: Head, passphrase: bytes) -> None:
    draft.touch(0o600)
    with draft.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        _add(tar, HEAD, msgspec.json.encode(head))
        tar.add(copy, DATABASE)
        for name in PLAIN:
            if (data / name).exists():
                _add(tar, name, (data / name).read_bytes())
        if passphrase:
            secrets = {name: (data / name).read_bytes() for name in SECRETS if (data / name).exists()}
            _add(tar, SEALED, seal(msgspec.msgpack.encode(secrets), passphrase))
        for path in blobs:
            with contextlib.suppress(FileNotFoundError):  # a bundle for measuring that was withdrawn
                tar.add(path, f"blobs/{path.name}")
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    tar.addfile(entry, io.BytesIO(content))


def restore(
    source: Path, data: Path, now_ms: int, *, passphrase: bytes = b"", former: Path | None = None
) -> Restored:
    """Make a data folder of a backup.

    Args:
        source: The backup.
        data: The new folder: missing, or without a database.
        now_ms: Unix time.
        passphrase: Opens the keys in the backup.
        former: The former data folder, as far as it can be read: its keys are taken if the backup has
            none, and what became of devices since the backup is taken from its journal.

    Raises:
        ConfigError: It is not a backup, is damaged, its keys are missing, or the clock is behind it.
        UsageError: The folder has a fleet's data already.
        StorageError: A file cannot be read or written.
    """
    if (data / DATABASE).exists():
        raise UsageError(f"{data} has a fleet's data already", hint="restore into a new folder")
    with _opened(source) as tar:
        head = _head(tar, source)
        if now_ms < head.created_unix_ms:
            raise ConfigError(
                "this machine's clock is behind the time of the backup", hint="set the clock, then restore"
            )
        try:
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = _unpack(tar, data)
            _put_keys(tar, data, head, passphrase, former)
        except OSError as cause:
            raise StorageError(f"{cause.filename or data}: {cause.strerror}") from cause
    check_database(draft)
    since = _catch_up(draft, head, now_ms, former, data, source.name)
    draft.replace(data / DATABASE)  # last: until then the folder has no database, and this can be repeated
    sync_path(data)
    return Restored(head, since)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:") as tar:
            yield tar
    except FileNotFoundError as cause:
        raise ConfigError(f"{source}: no such file") from cause
    except tarfile.TarError as cause:
        raise ConfigError(f"{source}: not a backup of edgekit-fleet: {cause}") from cause


def _head(tar: tarfile.TarFile, source: Path) -> Head:
    try:
        head = msgspec.json.decode(_small(tar, HEAD), type=Head)
    except (KeyError, msgspec.DecodeError) as cause:
        raise ConfigError(f"{source}: not a backup of edgekit-fleet: {cause}") from cause
    if head.format != FORMAT:
        raise ConfigError(
            f"{source}: a backup of format {head.format}, this version reads {FORMAT}",
            hint=f"restore it with edgekit-fleet {head.version} or later",
        )
    return head


def _small(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.getmember(name)
    file = tar.extractfile(member)
    if file is None or member.size > MAX_SMALL_BYTES:
        raise ConfigError(f"{name}: not as a backup has it")
    return file.read()


def _unpack(tar: tarfile.TarFile, data: Path) -> Path:
    """Extract the database beside its place, and the other files that are no secrets; nothing else."""
    blobs, draft = Blobs(data / "blobs"), data / f"{DATABASE}.partial"
    for member in tar:
        path = PurePosixPath(member.name)
        if member.name in PLAIN:
            (data / path.parent).mkdir(mode=0o700, exist_ok=True)
            write_durably(data / member.name, _small(tar, member.name))
        elif member.name == DATABASE or path.parent == PurePosixPath("blobs"):
            file = tar.extractfile(member)
            if file is None:
                raise ConfigError(f"{member.name}: not as a backup has it")
            if member.name != DATABASE:
                try:
                    blobs.put(path.name, member.size, iter(lambda: file.read(_CHUNK_BYTES), b""))  # noqa: B023 - used up at once
                except HashMismatchError as cause:
                    raise ConfigError(f"{member.name}: damaged: {cause.message}") from cause
                continue
            draft.touch(0o600)
            with draft.open("wb") as target:
                shutil.copyfileobj(file, target, _CHUNK_BYTES)
    return draft


def _put_keys(tar: tarfile.TarFile, data: Path, head: Head, passphrase: bytes, former: Path | None) -> None:
    for name, content in _secrets(tar, head, passphrase, former, data).items():
        (data / name).parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(data / name, content, mode=0o600)
    lacking = tuple(name for name in SECRETS[:-1] if not (data / name).exists())
    if lacking:
        raise ConfigError(
            "the backup has no keys" if not head.has_keys else "the backup lacks keys",
            reasons=tuple(f"{data / name}: missing" for name in lacking),
            hint="name the former data folder with --former, or copy its ca/ca.key and keys/ there first",
        )
    if Authority(data / "ca").key_sha256 != head.authority:
        raise ConfigError(
            f"{data / 'ca'}: not the authority of this backup: no device would trust the fleet",
            hint="restore ca/ca.key of the same fleet",
        )


def _secrets(
    tar: tarfile.TarFile, head: Head, passphrase: bytes, former: Path | None, data: Path
) -> Mapping[str, bytes]:
    if head.has_keys and passphrase:
        secrets = msgspec.msgpack.decode(unseal(_small(tar, SEALED), passphrase), type=dict[str, bytes])
        return {name: content for name, content in secrets.items() if name in SECRETS}
    source = former or data
    found = {name: (source / name).read_bytes() for name in SECRETS if (source / name).exists()}
    if head.has_keys and not found:
        raise ConfigError(
            "the backup's keys are encrypted", hint="name the passphrase: --passphrase-file FILE"
        )
    return found


def _catch_up(
    draft: Path, head: Head, now_ms: int, former: Path | None, data: Path, source_name: str
) -> Since | None:
    """Repeat what became of devices since the backup, and record the restore."""
    source = next((f for f in (former, data) if f is not None and (f / JOURNAL_FILE).exists()), None)
    since = None if source is None else Journal(source).since(head.created_unix_ms)
    with contextlib.closing(Database(draft)) as database:
        devices, facts = Devices(database), Facts(database)
        with database.transaction():
            facts.set(AUTHORITY, head.authority)
            facts.set(RESTORED, f"{head.created_unix_ms} {now_ms} {'blind' if since is None else 'repeated'}")
            Audit(database).record(
                LOCAL, "fleet.restore", source_name, after={"as_of_ms": head.created_unix_ms}
            )
            if since is not None:
                _repeat(devices, since, now_ms)
    if source is not None and source != data:
        write_durably(data / JOURNAL_FILE, (source / JOURNAL_FILE).read_bytes(), mode=0o600)
    return since


def _repeat(devices: Devices, since: Since, now_ms: int) -> None:
    for device in (*since.enrolled, *since.revoked):
        if not devices.exists(device):
            devices.enroll(device, now_ms, None)
    for device in since.enrolled:
        devices.restore(device)
    for device in since.revoked:
        devices.revoke(device)
    for device in since.deleted:
        devices.delete(device, now_ms)
