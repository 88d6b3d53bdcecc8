"""Publishing: check a bundle, upload what is missing, sign it here, hand in the signature.

The publisher's keys stay in this process. The fleet, near or far, is a ``Registry``.
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
"""How often a publication starts anew when another one comes in between."""
KEPT_MEASURED = 8
"""Bundles for measuring that stay published; an older one is withdrawn with the next."""


class Registry(Protocol):
    """A fleet's registry as a publisher needs it; ``Repository`` is one, ``RemoteRegistry`` another."""

    def online_keys(self) -> OnlinePublic:
        """Return the public halves of the keys that the fleet signs with."""

    def metadata(self, role: str, version: int | None = None) -> bytes | None:
        """Return a version of a role's metadata, or the newest; None where there is none."""

    def missing(self, wanted: Sequence[tuple[str, int]]) -> list[str]:
        """Return which blobs, given as (SHA-256, size), the fleet lacks."""

    def upload(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Send a blob."""

    def submit(self, roots: Sequence[bytes], targets: bytes) -> Any:
        """Hand in new roots, if any, and a new targets version."""


@dataclass(frozen=True)
class Publication:
    """What ``publish`` did.

    Args:
        is_new: False when this very bundle was published before.
        targets_version: The targets version that lists it.
        uploaded_bytes: What had to be sent.
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
        bundle: Read and checked.
        keyring: Signs the new list of targets.
        registry: The fleet's.
        now_ms: Unix time.
        progress: Told (bytes done, bytes in all) while uploading.
        only_measured: Sign it for measurement jobs; no device will ever install it. The last
            ``KEPT_MEASURED`` of them stay published.

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
    """Return targets without all but the newest that are for measuring: devices read the whole list."""
    measured = sorted(
        (one for one in targets.values() if one.is_measured_only), key=lambda one: one.issued_ms
    )
    gone = {one.path for one in measured[:-KEPT_MEASURED]}
    return {path: one for path, one in targets.items() if path not in gone}


def install_root(keyring: Keyring, registry: Registry, now_ms: int) -> int:
    """Give a fleet the roots it lacks, with the list of targets signed anew; return its version.

    Raises:
        TrustError: The fleet refuses them, or shows metadata that these keys did not sign.
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


def rotate(roles: Collection[str], keyring: Keyring, registry: Registry, now_ms: int) -> int:
    """Replace keys and give the fleet the new root; return the new targets version.

    Raises:
        TrustError: See ``install_root``.
        LinkError: The fleet cannot be reached; the new root is in the folder and goes along with
            the next publication.
    """
    current(keyring, registry, now_ms)
    keyring.rotate(roles, registry.online_keys(), now_ms)
    return install_root(keyring, registry, now_ms)


def current(keyring: Keyring, registry: Registry, now_ms: int) -> trust.TargetsView | None:
    """Return the fleet's list of targets, checked against the keys of this folder.

    Expiry is no reason to refuse here: it is about to be signed anew.

    Raises:
        SignatureError: These keys did not sign it.
        RollbackAttackError: It is older than one that was accepted.
    """
    targets, known = registry.metadata("targets"), registry.metadata("root")
    if targets is None or known is None:
        keyring.check_not_older(0)
        return None
    keyring.missing_roots(known)  # raises where the fleet has another root
    view = trust.check_targets(targets, known, min(now_ms, trust.expires_unix_ms(targets) - 1))
    keyring.check_not_older(view.version)
    return view


def _newest(target: trust.Target, view: trust.TargetsView | None) -> trust.Target:
    """Return a target for measuring that is the newest, whatever another publisher's clock said."""
    if not target.is_measured_only:
        return target
    newest_ms = max((one.issued_ms for one in view.targets.values()), default=0) if view else 0
    return replace(target, issued_ms=max(target.issued_ms, newest_ms + 1))


def _is_listed(target: trust.Target, view: trust.TargetsView) -> bool:
    """Say whether this very bundle is published; when it was signed for measuring makes no difference."""
    found = view.targets.get(target.path)
    return found is not None and found.sha256 == target.sha256


def _check_free(target: trust.Target, view: trust.TargetsView | None) -> None:
    if view and target.path in view.targets and not _is_listed(target, view):
        raise BundleError(
            f"{target.model} {target.version} is published already, with other content",
            hint="a published version never changes: raise the version in bundle.json",
        )


def _upload(bundle: Bundle, registry: Registry, progress: Callable[[int, int], None]) -> tuple[int, int]:
    """Send the blobs that the fleet lacks; return how many files and bytes."""
    files = bundle.blobs()
    wanted = [(sha256, file.bytes) for sha256, file in files.items()]
    missing = registry.missing([*wanted, (bundle.sha256, len(bundle.manifest_bytes))])
    sizes = {**dict(wanted), bundle.sha256: len(bundle.manifest_bytes)}
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
