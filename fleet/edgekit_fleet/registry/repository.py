"""The fleet's TUF repository: checks what a publisher signed, and serves it to devices.

Metadata is in the database, so that a publication (root, targets, snapshot, timestamp and the
bundle's row) becomes visible in one commit, or not at all. Files are on disk, named by their hash.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgekit.core.errors import BundleError, ConfigError, HashMismatchError, RollbackAttackError, UsageError
from edgekit.core.spec import Manifest, parse_manifest
from edgekit_fleet.registry import trust
from edgekit_fleet.registry.blobs import Blobs
from edgekit_fleet.registry.keys import OnlineKeys, OnlinePublic, online_keys
from edgekit_fleet.store import bundles as rows
from edgekit_fleet.store.audit import LOCAL, Actor, Audit
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database, Sql

MAX_ROOTS = 16
KEPT_VERSIONS = 20
"""Old snapshots and targets kept, for devices that are in the middle of a refresh."""
_ONLINE_LIFE_MS = trust.TIMESTAMP_DAYS * 86_400_000


@dataclass(frozen=True)
class Published:
    """One bundle; ``bytes`` and ``sha256`` are its manifest's.

    ``issued_ms`` is 0 for one that devices may install; see ``trust.Target``.
    """

    number: int
    model: str
    version: str
    sha256: str
    bytes: int
    total_bytes: int
    published_ms: int
    manifest: Manifest
    issued_ms: int = 0

    @property
    def target(self) -> trust.Target:
        """The signed target."""
        return trust.Target(self.model, self.version, self.sha256, self.bytes, self.issued_ms)


class Repository:
    """Everything devices may install, in one database and one folder of blobs.

    Args:
        database: Keeps the metadata.
        blobs: Keeps the files.
        keys: The fleet's online keys.
        clock: Gives Unix time in milliseconds.
    """

    def __init__(self, database: Database, blobs: Blobs, keys: OnlineKeys, clock: Callable[[], int]) -> None:
        self._database, self.blobs, self._keys, self._clock = database, blobs, keys, clock
        self._bundles, self._audit = rows.Bundles(database), Audit(database)
        self._watchers: list[Callable[[Published], None]] = []
        self._has_signed = False

    def watch(self, watcher: Callable[[Published], None]) -> None:
        """Call ``watcher`` with each new bundle, after it is visible."""
        self._watchers.append(watcher)

    # What a publisher needs -------------------------------------------------------------------

    def online_keys(self) -> OnlinePublic:
        """Return the public halves of the keys that this fleet signs with."""
        return self._keys.public

    def metadata(self, role: str, version: int | None = None) -> bytes | None:
        """Return metadata of a role: one version of it, or the newest; None where there is none."""
        with self._database.read() as sql:
            return rows.metadata(sql, role, version)

    def missing(self, blobs: Sequence[tuple[str, int]]) -> list[str]:
        """Return which blobs, given as (SHA-256, size), this fleet does not have."""
        return [sha256 for sha256, size in blobs if self.blobs.size(sha256) != size]

    def upload(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store a file; see ``Blobs.put``."""
        self.blobs.put(sha256, size, chunks)

    def submit(self, roots: Sequence[bytes], targets: bytes, *, by: Actor = LOCAL) -> list[Published]:
        """Accept new roots, if any, and a new targets version; sign them and make them visible in one commit.

        Args:
            roots: Versions of the root that this fleet does not have yet, in order.
            targets: The targets role, its version above the current one's.
            by: Who submits them, for the audit log.

        Returns:
            The bundles that are new and may be installed.

        Raises:
            SignatureError: The publisher's keys did not sign it.
            RollbackAttackError: A version does not follow, or a published bundle would change.
            HashMismatchError: A file of a new bundle was not uploaded.
            BundleError: A new bundle's manifest is not valid, or says another model or version.
        """
        if len(roots) > MAX_ROOTS or len(targets) > trust.MAX_TARGETS_BYTES:
            raise BundleError(
                f"{len(roots)} roots and {len(targets)} bytes of targets is more than a fleet accepts"
            )
        with self._database.read() as sql:
            _, fresh = self._check(sql, roots, targets)
        examined = {
            target.path: self._examine(target) for target in fresh
        }  # slow, so outside the transaction
        with self._database.transaction() as sql:
            view, fresh = self._check(sql, roots, targets)
            for root in roots:
                rows.add_metadata(sql, "root", trust.view_root(root).version, root)
            rows.add_metadata(sql, "targets", view.version, targets)
            now_ms = self._clock()
            published = [_insert(sql, target, examined[target.path], now_ms) for target in fresh]
            unused = _withdraw(sql, view)
            self._sign(sql, now_ms)
            names = [f"{bundle.model} {bundle.version}" for bundle in published]
            about = {"targets_version": view.version, "new_roots": len(roots), "bundles": names}
            self._audit.record(by, "registry.publish", "targets", after=about)
        for sha256 in unused:
            self.blobs.discard(sha256)
        published = [bundle for bundle in published if not bundle.issued_ms]
        for bundle in published:
            for watcher in self._watchers:
                watcher(bundle)
        return published

    def _check(
        self, sql: Sql, roots: Sequence[bytes], targets: bytes
    ) -> tuple[trust.TargetsView, list[trust.Target]]:
        """Return what a publisher's submission says and which targets are new."""
        now_ms = self._clock()
        root = rows.metadata(sql, "root")
        for new in roots:
            if len(new) > trust.MAX_ROOT_BYTES:
                raise BundleError(f"root: {len(new)} bytes, at most {trust.MAX_ROOT_BYTES} are read")
            trust.check_root(new, root, self._keys.public, now_ms)
            root = new
        if root is None:
            raise UsageError(
                "this fleet has no root of trust yet", hint="edgekit-fleet keys init --keys DIR --fleet URL"
            )
        trust.check_online(root, self._keys.public)
        view = trust.check_targets(targets, root, now_ms)
        before, measured = _listed(sql, "bundle"), _listed(sql, "measured_bundle")
        _check_follows(view, rows.newest_version(sql, "targets"), before)
        known = before.keys() | measured.keys()
        return view, [target for path, target in view.targets.items() if path not in known]

    def _examine(self, target: trust.Target) -> bytes:
        """Return a new bundle's manifest, after checking it and the hash of every file."""
        if not self.blobs.is_whole(target.sha256, target.bytes):
            raise HashMismatchError(f"{target.path}: its manifest was not uploaded", hint="publish it again")
        data = self.blobs.path(target.sha256).read_bytes()
        manifest = parse_manifest(data, target.path)
        if (manifest.model, manifest.version) != (target.model, target.version):
            raise BundleError(
                f"{target.path}: signed as {target.model} {target.version},"
                f" its manifest says {manifest.model} {manifest.version}"
            )
        files = manifest.every_file()
        lost = tuple(repr(file.path) for file in files if not self.blobs.is_whole(file.sha256, file.bytes))
        if lost:
            raise HashMismatchError(
                f"{target.path}: files were not uploaded whole", reasons=lost, hint="publish it again"
            )
        return data

    # Keeping metadata fresh --------------------------------------------------------------------

    def refresh(self) -> bool:
        """Renew snapshot and timestamp when half their life is over; return whether they were renewed.

        It needs no publisher. Call it at the start and every few minutes. The first call always renews
        them: the database may be a restored backup, whose versions are behind what devices have seen.
        """
        with self._database.read() as sql:
            timestamp = rows.metadata(sql, "timestamp")
        if timestamp is None:
            return False
        left_ms = trust.expires_unix_ms(timestamp) - self._clock()
        if self._has_signed and left_ms > _ONLINE_LIFE_MS // 2:
            return False
        with self._database.transaction() as sql:
            self._sign(sql, self._clock())
        return True

    def _sign(self, sql: Sql, now_ms: int) -> None:
        """Sign a snapshot and a timestamp of the current targets.

        Versions follow the clock where they can: a fleet restored from a backup does not fall
        behind what devices have seen. A clock that went back, to 1970 perhaps, stands still here: else
        devices would find everything expired.
        """
        targets = rows.metadata(sql, "targets")
        if targets is None:
            raise ConfigError("no targets to sign for")
        now_ms = max(now_ms, _signed_ms(rows.metadata(sql, "timestamp")))
        version = max(rows.newest_version(sql, "snapshot") + 1, now_ms // 1000)
        snapshot = trust.make_snapshot(targets, version, self._keys, now_ms)
        rows.add_metadata(sql, "snapshot", version, snapshot)
        version = max(rows.newest_version(sql, "timestamp") + 1, now_ms // 1000)
        rows.add_metadata(
            sql, "timestamp", version, trust.make_timestamp(snapshot, version, self._keys, now_ms)
        )
        self._has_signed = True
        for role, kept in (("timestamp", 1), ("snapshot", KEPT_VERSIONS), ("targets", KEPT_VERSIONS)):
            rows.keep_newest(sql, role, kept)

    # What devices and people read -------------------------------------------------------------

    def bundle(self, model: str, version: str) -> Published | None:
        """Return one published bundle."""
        row = self._bundles.get(model, version)
        return None if row is None else _published(row)

    def measured_bundle(self, model: str, version: str, sha256: str = "") -> Published | None:
        """Return the newest bundle for measuring only; the one with this hash if a hash is given."""
        row = self._bundles.newest_measured(model, version, sha256)
        return None if row is None else _published(row)

    def is_measured(self, model: str, sha256: str) -> bool:
        """Say whether a bundle with this hash is published for measuring only."""
        return self._bundles.is_measured(model, sha256)

    def bundles(self, *, model: str = "", before: int | None = None, limit: int = 50) -> list[Published]:
        """Return published bundles, the newest first; ``before`` is the number of the last one shown."""
        return [_published(row) for row in self._bundles.page(model=model, before=before, limit=limit)]


def open_repository(data: Path, database: Database) -> Repository:
    """Return the registry in a fleet's data folder; the first call generates its keys.

    Raises:
        ConfigError: A key file is damaged.
        StorageError: The folder cannot be written.
    """
    return Repository(database, Blobs(data / "blobs"), online_keys(data), unix_ms)


def _signed_ms(timestamp: bytes | None) -> int:
    """Return when a timestamp was signed, in Unix milliseconds; 0 for none."""
    return 0 if timestamp is None else trust.expires_unix_ms(timestamp) - _ONLINE_LIFE_MS


def _check_follows(view: trust.TargetsView, version: int, before: Mapping[str, trust.Target]) -> None:
    if view.version <= version:  # it may leap: after a restore, versions follow what devices have seen
        raise RollbackAttackError(
            f"targets: want a version above {version}, got {view.version}",
            hint="another publication came in between: publish again",
        )
    changed = [path for path, target in before.items() if view.targets.get(path) != target]
    if changed:
        raise RollbackAttackError(
            "targets: a published version never changes and is never removed",
            reasons=tuple(changed[:50]),
            hint="publish it under a new version",
        )


def _insert(sql: Sql, target: trust.Target, data: bytes, now_ms: int) -> Published:
    manifest = msgspec.json.decode(data, type=Manifest)
    total = len(data) + sum({file.sha256: file.bytes for file in manifest.every_file()}.values())
    row = rows.BundleRow(
        0,
        target.model,
        target.version,
        target.sha256,
        target.bytes,
        total,
        now_ms,
        data,
        target.issued_ms,
    )
    return replace(_published(row), number=rows.add(sql, row))


def _listed(sql: Sql, table: rows.Table) -> dict[str, trust.Target]:
    targets = (trust.Target(*row) for row in rows.signed_targets(sql, table))
    return {target.path: target for target in targets}


def _withdraw(sql: Sql, view: trust.TargetsView) -> set[str]:
    """Delete bundles for measuring that the publisher no longer lists.

    Returns:
        The hashes of files that no other bundle has.
    """
    listed = _listed(sql, "measured_bundle")
    gone = {target.sha256 for path, target in listed.items() if path not in view.targets}
    if not gone:
        return set()
    unused = _files(sql, ("measured_bundle",), gone)
    rows.delete_measured(sql, gone)
    return unused - _files(sql, rows.TABLES)


def _files(sql: Sql, tables: Iterable[rows.Table], manifests: Collection[str] | None = None) -> set[str]:
    """Return the hashes of all bundles' manifests and files, or of those with these manifests."""
    hashes: set[str] = set()
    for table in tables:
        for sha256, manifest in rows.manifests(sql, table):
            if manifests is None or sha256 in manifests:
                files = msgspec.json.decode(manifest, type=Manifest).every_file()
                hashes |= {sha256, *(file.sha256 for file in files)}
    return hashes


def _published(row: rows.BundleRow) -> Published:
    return Published(
        row.number,
        row.model,
        row.version,
        row.sha256,
        row.size,
        row.total_bytes,
        row.published_ms,
        msgspec.json.decode(row.manifest, type=Manifest),
        row.issued_ms,
    )
