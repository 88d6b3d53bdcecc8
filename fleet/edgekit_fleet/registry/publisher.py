"""Publishing: check a bundle, upload the missing files, sign the list of targets here, submit it.

The publisher's keys stay in this process. A fleet, local or remote, is a ``Registry``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgekit.core.errors import BundleError, RollbackAttackError
from edgekit_fleet.registry import trust
from edgekit_fleet.registry.bundle import Bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.keys import OnlinePublic

_ATTEMPTS = 4
"""How often a publication is tried when others are submitted at the same time."""
KEPT_MEASURED = 8
"""Bundles for measuring that stay published; the next publication withdraws the oldest."""


class Registry(Protocol):
    """A fleet's registry as a publisher uses it: a ``Repository`` or a ``RemoteRegistry``."""

    def online_keys(self) -> OnlinePublic:
        """Return the public halves of the keys that the fleet signs with."""

    def metadata(self, role: str, version: int | None = None) -> bytes | None:
        """Return a version of a role's metadata, or the newest; None where there is none."""

    def missing(self, blobs: Sequence[tuple[str, int]]) -> list[str]:
        """Return which blobs, given as (SHA-256, size), the fleet lacks."""

    def upload(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Send a blob."""

    def submit(self, roots: Sequence[bytes], targets: bytes) -> Any:
        """Submit new roots, if any, and a new targets version."""


@dataclass(frozen=True)
class Publication:
    """The result of ``publish``.

    Args:
        is_new: False if exactly this bundle was published before.
        targets_version: The targets version that lists it.
        uploaded: Number of files sent.
        uploaded_bytes: Their size.
    """

    model: str
    version: str
    sha256: str
    is_new: bool
    targets_version: int
    uploaded: int
    uploaded_bytes: int
    target: str


def publish(
    bundle: Bundle,
    keyring: Keyring,
    registry: Registry,
    now_ms: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    only_measured: bool = False,
) -> Publication:
    """Make a bundle installable on every device of a fleet, or only measurable.

    Args:
        bundle: The bundle.
        keyring: Signs the new list of targets.
        registry: The fleet's registry.
        now_ms: Unix time.
        progress: Called with (bytes done, bytes in all) while uploading.
        only_measured: Sign it for measurement jobs; no device will ever install it. The newest
            ``KEPT_MEASURED`` of these bundles stay published.

    Raises:
        BundleError: Another bundle was published as this model and version.
        TrustError: The fleet's metadata is not signed by these keys, or older than before.
        LinkError: The fleet cannot be reached.
    """
    manifest, issued_ms = bundle.manifest, now_ms if only_measured else 0
    target = trust.Target(
        manifest.model, manifest.version, bundle.sha256, len(bundle.manifest_bytes), issued_ms
    )
    named = (target.model, target.version, target.sha256)
    if (view := current(keyring, registry, now_ms)) and _is_listed(target, view):
        return Publication(*named, False, view.version, 0, 0, target.path)
    _check_free(target, view)
    uploaded, uploaded_bytes = _upload(bundle, registry, progress)
    for attempt in range(1, _ATTEMPTS + 1):
        roots = keyring.missing_roots(registry.metadata("root"))
        view = current(keyring, registry, now_ms)
        _check_free(target, view)
        target = _newest(target, view)
        targets = without_old({**(view.targets if view else {}), target.path: target})
        version = (view.version if view else 0) + 1
        try:
            registry.submit(roots, trust.make_targets(targets, version, keyring.key("targets"), now_ms))
        except RollbackAttackError:
            if attempt == _ATTEMPTS:
                raise
        else:
            keyring.note_accepted(version)
            break
    return Publication(*named, True, version, uploaded, uploaded_bytes, target.path)


def without_old(targets: Mapping[str, trust.Target]) -> dict[str, trust.Target]:
    """Return targets without the oldest for measuring: devices read the whole list, so it must be short."""
    measured = sorted(
        (target for target in targets.values() if target.is_measured_only),
        key=lambda target: target.issued_ms,
    )
    gone = {target.path for target in measured[:-KEPT_MEASURED]}
    return {path: target for path, target in targets.items() if path not in gone}


def install_root(keyring: Keyring, registry: Registry, now_ms: int) -> int:
    """Submit the roots that a fleet lacks, with a newly signed list of targets; return its version.

    Raises:
        TrustError: The fleet refuses them, or has metadata that these keys did not sign.
        LinkError: The fleet cannot be reached.
    """
    view = current(keyring, registry, now_ms)
    roots = keyring.missing_roots(registry.metadata("root"))
    if not roots and view:
        return view.version
    version = (view.version if view else 0) + 1
    targets = trust.make_targets(view.targets if view else {}, version, keyring.key("targets"), now_ms)
    registry.submit(roots, targets)
    keyring.note_accepted(version)
    return version


def resign(keyring: Keyring, registry: Registry, now_ms: int) -> int:
    """Sign a restored fleet's list of targets ahead of all that devices have seen; return its version.

    Bundles published since the backup are not on that list; publish them again afterwards.

    Raises:
        TrustError: The fleet's metadata is not signed by these keys.
        LinkError: The fleet cannot be reached.
    """
    view = current(keyring, registry, now_ms, may_be_older=True)
    version = max(view.version if view else 0, keyring.accepted()) + 1
    targets = trust.make_targets(view.targets if view else {}, version, keyring.key("targets"), now_ms)
    registry.submit(keyring.missing_roots(registry.metadata("root")), targets)
    keyring.note_accepted(version)
    return version


def rotate(roles: Collection[str], keyring: Keyring, registry: Registry, now_ms: int) -> int:
    """Replace keys and submit the new root to the fleet; return the new targets version.

    Raises:
        TrustError: See ``install_root``.
        LinkError: The fleet cannot be reached; the new root is in the folder and is submitted with
            the next publication.
    """
    current(keyring, registry, now_ms)
    keyring.rotate(roles, registry.online_keys(), now_ms)
    return install_root(keyring, registry, now_ms)


def current(
    keyring: Keyring, registry: Registry, now_ms: int, *, may_be_older: bool = False
) -> trust.TargetsView | None:
    """Return the fleet's list of targets, checked against the keys of this folder.

    An expired list is accepted here, because a new one is about to be signed.

    Raises:
        SignatureError: These keys did not sign it.
        RollbackAttackError: It is older than one that was accepted, and ``may_be_older`` is not set.
    """
    targets, known = registry.metadata("targets"), registry.metadata("root")
    if targets is None or known is None:
        if not may_be_older:
            keyring.check_not_older(0)
        return None
    keyring.missing_roots(known)  # raises where the fleet has another root
    view = trust.check_targets(targets, known, min(now_ms, trust.expires_unix_ms(targets) - 1))
    if not may_be_older:
        keyring.check_not_older(view.version)
    return view


def _newest(target: trust.Target, view: trust.TargetsView | None) -> trust.Target:
    """Return a target for measuring with a time after all others, whatever other publishers' clocks say."""
    if not target.is_measured_only:
        return target
    newest_ms = max((other.issued_ms for other in view.targets.values()), default=0) if view else 0
    return replace(target, issued_ms=max(target.issued_ms, newest_ms + 1))


def _is_listed(target: trust.Target, view: trust.TargetsView) -> bool:
    """Say whether exactly this bundle is published; the time of signing makes no difference."""
    listed = view.targets.get(target.path)
    return listed is not None and listed.sha256 == target.sha256


def _check_free(target: trust.Target, view: trust.TargetsView | None) -> None:
    if view and target.path in view.targets and not _is_listed(target, view):
        raise BundleError(
            f"{target.model} {target.version} is published already, with other content",
            hint="a published version never changes: raise the version in bundle.json",
        )


def _upload(bundle: Bundle, registry: Registry, progress: Callable[[int, int], None]) -> tuple[int, int]:
    """Send the blobs that the fleet lacks; return how many files and bytes."""
    files = bundle.blobs()
    needed = [(sha256, file.bytes) for sha256, file in files.items()]
    missing = registry.missing([*needed, (bundle.sha256, len(bundle.manifest_bytes))])
    sizes = {**dict(needed), bundle.sha256: len(bundle.manifest_bytes)}
    total, done = sum(sizes[sha256] for sha256 in missing), 0

    def counted(chunks: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            progress(done, total)

    for sha256 in missing:
        chunks = bundle.chunks(files[sha256]) if sha256 in files else iter([bundle.manifest_bytes])
        registry.upload(sha256, sizes[sha256], counted(chunks))
    return len(missing), total
