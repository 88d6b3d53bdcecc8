"""Verifies desired states and bundles; for the updater's process only.

Two signatures must agree (the Uptane split): the fleet's online key assigns a target to this device, the
publisher's key, through TUF, says what it is.
"""

import datetime as dt
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import read_file, replace_file, sync_tree
from edgekit.base.http import HttpError
from edgekit.core import wire
from edgekit.core.errors import (
    BundleError,
    EdgekitError,
    ExpiredError,
    HashMismatchError,
    LinkError,
    ProtocolError,
    RollbackAttackError,
    ServerError,
    SignatureError,
    TrustError,
)
from edgekit.core.spec import MAX_MANIFEST_BYTES, NAME, VERSION
from edgekit.update.contract import Enrolment, Origin

ROLES = ("root", "timestamp", "snapshot", "targets")
MAX_METADATA_BYTES = 8 << 20


class _Floor(msgspec.Struct, frozen=True):
    """``tuf/floor.json``: the highest versions accepted so far.

    python-tuf does not sync its files: after a power cut they may be empty, and without this record an
    attacker could offer old metadata.
    """

    desired: int = 0
    desired_sha256: str = ""
    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0


def _floor_path(state_dir: Path) -> Path:
    return state_dir / "tuf" / "floor.json"


def _load_floor(state_dir: Path) -> _Floor:
    path = _floor_path(state_dir)
    if (data := read_file(path)) is None:
        return _Floor()
    try:
        return msgspec.json.decode(data, type=_Floor)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:  # no power cut can do that
        raise TrustError(f"{path} is damaged: {cause}", hint="enrol the device again") from cause


def _save_floor(state_dir: Path, floor: _Floor) -> None:
    replace_file(LocalDisk(), _floor_path(state_dir), msgspec.json.encode(floor))


def verify_desired(encoded: bytes, identity: Enrolment) -> wire.Desired:
    """Return a desired state that the fleet signed for this device.

    Raises:
        SignatureError: It is unsigned, the key is unknown, or the signature is wrong.
        TrustError: It is for another device.
        ProtocolError: It is malformed.
    """
    desired = wire.decode(encoded, wire.Desired)
    verify_signature(encoded, desired.signature, identity, f"desired state {desired.version}")
    if desired.device != identity.device:
        raise TrustError(
            f"desired state {desired.version} is for device '{desired.device[:64]}',"
            f" this is '{identity.device}'"
        )
    return desired


def verify_signature(
    encoded: bytes, signature: dict[str, str] | None, identity: Enrolment, what: str
) -> None:
    """Check that one of the fleet's online keys signed a JSON document; ``what`` names it in errors.

    Raises:
        SignatureError: It is unsigned, the key is unknown, or the signature is wrong.
    """
    signature = signature or {}
    public = identity.desired_keys.get(signature.get("keyid", ""))
    if public is None:
        raise SignatureError(
            f"{what} is not signed by a key of this fleet",
            reasons=(f"found key {signature.get('keyid', 'none')[:64]!r}",),
        )
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(signature.get("sig", "")), wire.signed_bytes(encoded)
        )
    except (InvalidSignature, ValueError) as cause:
        raise SignatureError(f"{what} has a wrong signature") from cause


def raise_desired_floor(state_dir: Path, desired: wire.Desired) -> None:
    """Accept a desired state, so that no older one is accepted any more.

    Raises:
        RollbackAttackError: It is older than the accepted one, or another one of that version.
        TrustError: The record of what was accepted is damaged.
        StorageError: It cannot be stored.
    """
    floor = _load_floor(state_dir)
    content = msgspec.json.encode((desired.models, desired.config), order="sorted")
    sha256 = hashlib.sha256(content).hexdigest()
    if desired.version < floor.desired:
        raise RollbackAttackError(
            f"desired state {desired.version} is older than {floor.desired}, which was accepted"
        )
    if desired.version == floor.desired and floor.desired_sha256 not in ("", sha256):
        raise RollbackAttackError(f"desired state {desired.version} is not the one that was accepted")
    raised = msgspec.structs.replace(floor, desired=desired.version, desired_sha256=sha256)
    if raised != floor:
        _save_floor(state_dir, raised)


class _Fetcher(FetcherInterface):
    """Fetches python-tuf's metadata from where this device gets bundles."""

    def __init__(self, web: Origin) -> None:
        self._web = web

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            for _, piece in self._web.read(url, 0):
                yield piece
        except HttpError as cause:
            raise tuf_errors.DownloadHTTPError(cause.message, cause.status) from cause
        except LinkError as cause:
            raise tuf_errors.DownloadError(cause.message) from cause


def trusted_target(
    state_dir: Path,
    identity: Enrolment,
    desired: wire.DesiredModel,
    model: str,
    web: Origin,
    now_unix_ms: int,
    *,
    to_measure: bool = False,
) -> None:
    """Check that the publisher signed exactly the target that the fleet desires.

    ``to_measure``: it is measured and not installed, so it may be signed for measuring only.

    Raises:
        TrustError: It is not signed, or is to be installed and signed for measuring, or the metadata violates
            TUF; a subclass for expired (freeze), older than before (rollback), hash or length (mix and match,
            endless).
        BundleError: The manifest is over the limit, or its model or version is not valid.
        LinkError: The metadata cannot be fetched.
        StorageError: It cannot be stored.
    """
    if not 0 < desired.bytes <= MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle.json of {desired.bytes} bytes, at most {MAX_MANIFEST_BYTES} are read")
    if not NAME.fullmatch(model) or not VERSION.fullmatch(desired.version):
        raise BundleError(f"'{model[:64]} {desired.version[:64]}' is not a model and version")
    allowed = {wire.target_path(model, desired.version)}
    if to_measure:
        allowed.add(wire.measuring_path(model, desired.sha256))
    if desired.target not in allowed:
        raise TrustError(f"the fleet wants target {desired.target[:200]!r} for '{model} {desired.version}'")
    metadata = state_dir / "tuf" / "metadata"
    with disk_errors(metadata):
        metadata.mkdir(parents=True, exist_ok=True)
        try:
            info = _refresh(metadata, identity, desired.target, web, now_unix_ms)
            _raise_floor(state_dir, metadata)
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as cause:
            raise _translated(cause) from cause
    if info is None:
        raise TrustError(
            f"no publisher signed '{desired.target}'",
            hint="publish the bundle, or take it out of the rollout",
        )
    _check_signed(info, desired, model, to_measure=to_measure)


def _check_signed(
    info: tuple[int, str, dict[str, Any]], desired: wire.DesiredModel, model: str, *, to_measure: bool
) -> None:
    length, sha256, custom = info
    if (length, sha256) != (desired.bytes, desired.sha256):
        raise HashMismatchError(
            f"the fleet wants another '{desired.target}' than the publisher signed",
            reasons=(f"wanted {desired.bytes} bytes, {desired.sha256}", f"signed {length} bytes, {sha256}"),
        )
    if custom.get("purpose") is not None and not to_measure:
        raise TrustError(
            f"'{desired.target}' is signed for {str(custom['purpose'])[:64]!r}, a device does not install it"
        )
    named = (custom.get("model", model), custom.get("version", desired.version))
    if named != (model, desired.version):
        raise TrustError(f"'{desired.target}' is signed as {named[0]!r} {named[1]!r}")


def _refresh(
    metadata: Path, identity: Enrolment, target: str, web: Origin, now_unix_ms: int
) -> tuple[int, str, dict[str, Any]] | None:
    updater = Updater(
        str(metadata),
        identity.metadata_url,
        fetcher=_Fetcher(web),
        config=UpdaterConfig(targets_max_length=MAX_METADATA_BYTES, max_delegations=8),
        bootstrap=identity.root.encode(),
    )
    # The machine's clock may be behind the floored one; python-tuf takes no clock.
    trusted = updater._trusted_set  # noqa: SLF001
    floor = dt.datetime.fromtimestamp(now_unix_ms / 1000, dt.timezone.utc)
    trusted.reference_time = max(trusted.reference_time, floor)
    updater.refresh()
    info = updater.get_targetinfo(target)
    if info is None:
        return None
    custom = info.unrecognized_fields.get("custom", {})
    return info.length, info.hashes.get("sha256", ""), custom if isinstance(custom, dict) else {}


def _raise_floor(state_dir: Path, metadata: Path) -> None:
    """Sync python-tuf's files, and reject metadata older than accepted before."""
    sync_tree(metadata)
    floor = _load_floor(state_dir)
    versions = {
        role: int(Metadata.from_file(str(metadata / f"{role}.json")).signed.version) for role in ROLES
    }
    for role, version in versions.items():
        if version < getattr(floor, role):
            raise RollbackAttackError(
                f"TUF {role} {version} is older than {getattr(floor, role)}, which was accepted before"
            )
    _save_floor(state_dir, msgspec.structs.replace(floor, **versions))


_KINDS: tuple[tuple[type[Exception], type[TrustError]], ...] = (
    (tuf_errors.ExpiredMetadataError, ExpiredError),
    (tuf_errors.BadVersionNumberError, RollbackAttackError),
    (tuf_errors.UnsignedMetadataError, SignatureError),
    (tuf_errors.LengthOrHashMismatchError, HashMismatchError),
)


def _translated(cause: tuf_errors.RepositoryError | tuf_errors.DownloadError) -> EdgekitError:
    if isinstance(cause.__cause__, (TrustError, ProtocolError)):
        return cause.__cause__
    if isinstance(cause, tuf_errors.DownloadLengthMismatchError):
        return HashMismatchError(f"the fleet's TUF metadata is endless: {cause}"[:1000])
    if isinstance(cause, tuf_errors.DownloadError):
        kind = ServerError if isinstance(cause, tuf_errors.DownloadHTTPError) else LinkError
        return kind(f"the fleet's TUF metadata cannot be fetched: {cause}"[:1000])
    rejection = next((ours for theirs, ours in _KINDS if isinstance(cause, theirs)), TrustError)
    return rejection(f"the fleet's TUF metadata is rejected: {cause}"[:1000])


def manifest_url(identity: Enrolment, model: str, desired: wire.DesiredModel) -> str:
    """Return the URL of a bundle's manifest."""
    base = identity.targets_url.rstrip("/")
    if desired.target == wire.measuring_path(model, desired.sha256):
        return f"{base}/{wire.MEASURING}/{model}/{desired.sha256}/{desired.sha256}.bundle.json"
    return f"{base}/{model}/{desired.version}/{desired.sha256}.bundle.json"
