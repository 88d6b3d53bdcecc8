"""Makes, signs and checks TUF metadata; bytes in, bytes out. Only this file uses python-tuf.

Root and targets are signed by the publisher, on the publisher's machine; snapshot and timestamp by
the fleet. Nothing here reads a file or a clock.

Source: The Update Framework specification 1.0.33, sections 4 and 5.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]
from tuf.api.exceptions import DownloadError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # they are, by its documentation
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edgekit.core import wire
from edgekit.core.errors import ExpiredError, RollbackAttackError, SignatureError, UsageError
from edgekit.core.spec import MAX_MANIFEST_BYTES, NAME, VERSION
from edgekit_fleet.registry.keys import OnlineKeys, OnlinePublic, SigningKey

MAX_ROOT_BYTES = 512_000
MAX_TARGETS_BYTES = 5_000_000
"""The most that a client reads. Source: python-tuf 7, ``UpdaterConfig``."""
ROOT_DAYS = 3650
TARGETS_DAYS = 730
SNAPSHOT_DAYS = 30
TIMESTAMP_DAYS = 14
"""A fleet manager that is down for longer blocks updates until it runs again; devices keep running."""
_DAY_MS = 86_400_000
_PRETTY = JSONSerializer(compact=False)


@dataclass(frozen=True)
class Target:
    """One published bundle, as the publisher signed it: its manifest's hash and size.

    ``issued_ms`` is 0 for a bundle that devices may install. Otherwise the bundle is for measuring only,
    was signed at this time, and will be withdrawn.
    """

    model: str
    version: str
    sha256: str
    bytes: int
    issued_ms: int = 0

    @property
    def is_measured_only(self) -> bool:
        """Whether no device may ever install it."""
        return self.issued_ms > 0

    @property
    def path(self) -> str:
        """The TUF target path."""
        if self.is_measured_only:
            return wire.measuring_path(self.model, self.sha256)
        return wire.target_path(self.model, self.version)

    @property
    def custom(self) -> dict[str, Any]:
        """The fields of the signed entry besides size and hash."""
        named: dict[str, Any] = {"model": self.model, "version": self.version}
        if self.is_measured_only:
            named |= {"purpose": wire.MEASURING, "issued_unix_ms": self.issued_ms}
        return named


@dataclass(frozen=True)
class RootView:
    """The content of a root: its version, expiry, and the key ids (TUF's) of each role."""

    version: int
    expires_unix_ms: int
    keyids: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class TargetsView:
    """The content of a checked targets role; ``targets`` is by target path."""

    version: int
    expires_unix_ms: int
    targets: Mapping[str, Target]


def key_id(public: str) -> str:
    """Return TUF's id of a public key given in hexadecimal."""
    return _public(public).keyid


# ---------------------------------------------------------------------------------------------
# The publisher's side


def make_root(root: SigningKey, targets: SigningKey, online: OnlinePublic, now_ms: int) -> bytes:
    """Return the first root: who may sign what."""
    signed = Root(version=1, expires=_after(now_ms, ROOT_DAYS), consistent_snapshot=True)
    named = {"root": root.public, "targets": targets.public}
    for role, public in {**named, "snapshot": online.snapshot, "timestamp": online.timestamp}.items():
        signed.add_key(_public(public), role)
    return _sign(Metadata(signed), [root])


def next_root(
    previous: bytes, signers: Sequence[SigningKey], changed: Mapping[str, str], now_ms: int
) -> bytes:
    """Return the next root, in which each role in ``changed`` has only that key.

    Args:
        previous: The root that is trusted now.
        signers: The old root key, and the new root key if it changes: both must sign.
        changed: Public keys in hexadecimal, by role.
        now_ms: Unix time from which the new root is valid.
    """
    metadata = _parse(previous, Root)
    signed = metadata.signed
    signed.version += 1
    signed.expires = _after(now_ms, ROOT_DAYS)
    for role, public in changed.items():
        for keyid in list(signed.roles[role].keyids):
            signed.revoke_key(keyid, role)
        signed.add_key(_public(public), role)
    return _sign(Metadata(signed), signers)


def make_targets(targets: Mapping[str, Target], version: int, key: SigningKey, now_ms: int) -> bytes:
    """Return the signed list of every published bundle."""
    signed = Targets(version=version, expires=_after(now_ms, TARGETS_DAYS))
    for path, target in targets.items():
        signed.targets[path] = TargetFile(
            target.bytes, {"sha256": target.sha256}, path, {"custom": target.custom}
        )
    return _sign(Metadata(signed), [key])


# ---------------------------------------------------------------------------------------------
# Checking, on either side


def view_root(root: bytes) -> RootView:
    """Return the content of a root without checking its signatures.

    Raises:
        SignatureError: It is not root metadata.
    """
    signed = _parse(root, Root).signed
    keyids = {name: tuple(role.keyids) for name, role in signed.roles.items()}
    return RootView(signed.version, _unix_ms(signed.expires), keyids)


def check_root(root: bytes, previous: bytes | None, online: OnlinePublic, now_ms: int) -> RootView:
    """Check that a root may replace the previous one, and that this fleet's keys can sign under it.

    Source: TUF 5.3.4 to 5.3.5: the root before and the new one must both have signed it.

    Raises:
        SignatureError: A signature is missing, or its online keys are not this fleet's.
        RollbackAttackError: Its version is not the next one.
        ExpiredError: It is past its expiry.
    """
    new = _parse(root, Root)
    want = 1
    with _tuf_errors("root"):
        if previous is not None:
            old = _parse(previous, Root).signed
            want = old.version + 1
            old.verify_delegate(Root.type, new.signed_bytes, new.signatures)
        new.signed.verify_delegate(Root.type, new.signed_bytes, new.signatures)
    if new.signed.version != want:
        raise RollbackAttackError(f"root: want version {want}, got {new.signed.version}")
    _check_expiry("root", new.signed.expires, now_ms)
    if not new.signed.consistent_snapshot:
        raise SignatureError("root: want consistent snapshots, they are off")
    check_online(root, online)
    return view_root(root)


def check_online(root: bytes, online: OnlinePublic) -> None:
    """Check that a root names this fleet's online keys, so that devices accept what it signs.

    Raises:
        SignatureError: It names other keys.
    """
    roles = _parse(root, Root).signed.roles
    for role, public in (("snapshot", online.snapshot), ("timestamp", online.timestamp)):
        if roles[role].keyids != [key_id(public)] or roles[role].threshold != 1:
            raise SignatureError(
                f"root: names another {role} key than this fleet's",
                hint="name this fleet's keys in the root: edgekit-fleet keys init, or keys rotate",
            )


def check_targets(targets: bytes, root: bytes, now_ms: int) -> TargetsView:
    """Check a targets role against the root, and each entry against the fleet's rules.

    Raises:
        SignatureError: The root's targets keys did not sign it, it delegates, or an entry is not of
            the form ``MODEL/VERSION/bundle.json`` (``measure/MODEL/SHA256/bundle.json`` where it is for
            measuring only) with model, version, SHA-256 and a bounded size.
        ExpiredError: It is past its expiry.
    """
    metadata = _parse(targets, Targets)
    with _tuf_errors("targets"):
        _parse(root, Root).signed.verify_delegate(Targets.type, metadata.signed_bytes, metadata.signatures)
    signed = metadata.signed
    _check_expiry("targets", signed.expires, now_ms)
    if signed.delegations is not None:  # python-tuf supports one delegator for each role name only
        raise SignatureError("targets: delegates to other roles, which this fleet does not serve")
    entries = {path: _entry(path, file) for path, file in signed.targets.items()}
    return TargetsView(signed.version, _unix_ms(signed.expires), entries)


def _entry(path: str, file: TargetFile) -> Target:
    custom: Any = file.unrecognized_fields.get("custom")
    if isinstance(custom, dict) and set(file.hashes) == {"sha256"} and file.length <= MAX_MANIFEST_BYTES:
        model, version = str(custom.get("model", "")), str(custom.get("version", ""))
        target = Target(model, version, file.hashes["sha256"], file.length, _issued_ms(custom))
        is_named = NAME.fullmatch(model) and VERSION.fullmatch(version)
        is_for = custom.get("purpose") == target.custom.get("purpose")
        if is_named and is_for and path == target.path:
            return target
    raise SignatureError(f"targets: {path[:200]!r} is not an entry this fleet serves")


def _issued_ms(custom: dict[str, Any]) -> int:
    """Return when a bundle was signed for measuring; 0 if devices may install it."""
    issued = custom.get("issued_unix_ms", 0)
    return issued if isinstance(issued, int) and 0 < issued < 1 << 53 else 0


# ---------------------------------------------------------------------------------------------
# The fleet's side


def make_snapshot(targets: bytes, version: int, keys: OnlineKeys, now_ms: int) -> bytes:
    """Return a snapshot of the current targets version."""
    meta = {"targets.json": MetaFile(_parse(targets, Targets).signed.version)}
    return _sign(
        Metadata(Snapshot(version, expires=_after(now_ms, SNAPSHOT_DAYS), meta=meta)), [keys.snapshot]
    )


def make_timestamp(snapshot: bytes, version: int, keys: OnlineKeys, now_ms: int) -> bytes:
    """Return a timestamp of the current snapshot."""
    meta = MetaFile.from_data(_parse(snapshot, Snapshot).signed.version, snapshot, ["sha256"])
    signed = Timestamp(version, expires=_after(now_ms, TIMESTAMP_DAYS), snapshot_meta=meta)
    return _sign(Metadata(signed), [keys.timestamp])


def expires_unix_ms(metadata: bytes) -> int:
    """Return when a piece of metadata of any role expires.

    Raises:
        SignatureError: It is not TUF metadata.
    """
    with _tuf_errors("metadata"):
        parsed: Metadata[Any] = Metadata.from_bytes(metadata)
    return _unix_ms(parsed.signed.expires)


# ---------------------------------------------------------------------------------------------


def _public(public: str) -> SSlibKey:
    try:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError as cause:
        raise UsageError(f"{public[:80]!r} is not an Ed25519 public key in hexadecimal") from cause


def _sign(metadata: Metadata[Any], keys: Sequence[SigningKey]) -> bytes:
    for key in keys:
        metadata.sign(CryptoSigner(key.private), append=True)
    return metadata.to_bytes(_PRETTY)


def _parse(data: bytes, kind: type[Any]) -> Any:
    with _tuf_errors(kind.type):
        parsed: Metadata[Any] = Metadata.from_bytes(data)
    if not isinstance(parsed.signed, kind):
        raise SignatureError(f"want {kind.type} metadata, got {parsed.signed.type}")
    return parsed


@contextlib.contextmanager
def _tuf_errors(what: str) -> Iterator[None]:
    """Turn python-tuf's exceptions into edgekit's errors."""
    try:
        yield
    except UnsignedMetadataError as cause:
        raise SignatureError(f"{what}: not signed by the keys the root names: {cause}") from cause
    except (DeserializationError, RepositoryError, DownloadError, ValueError) as cause:
        raise SignatureError(f"{what}: not valid TUF metadata: {cause}") from cause


def _check_expiry(what: str, expires: dt.datetime, now_ms: int) -> None:
    if _unix_ms(expires) <= now_ms:
        raise ExpiredError(
            f"{what}: expired at {expires:%Y-%m-%d %H:%M} UTC",
            hint="sign it again: edgekit-fleet keys rotate",
        )


def _after(now_ms: int, days: int) -> dt.datetime:
    moment = dt.datetime.fromtimestamp((now_ms + days * _DAY_MS) // 1000, tz=dt.timezone.utc)
    return moment.replace(microsecond=0)


def _unix_ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000
