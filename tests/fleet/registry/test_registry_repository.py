"""The fleet's side without HTTP: what a publisher may do, and what a stolen fleet cannot."""

import contextlib
import json

import pytest
from registry_parts import DAY_MS, NOW_MS, files_of, write_folder

from edgekit.core import wire
from edgekit.core.errors import (
    BundleError,
    ExpiredError,
    HashMismatchError,
    RollbackAttackError,
    SignatureError,
    StorageError,
    UsageError,
)
from edgekit_fleet.registry import publisher, trust
from edgekit_fleet.registry.blobs import Blobs
from edgekit_fleet.registry.bundle import read_bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.keys import SigningKey, online_keys
from edgekit_fleet.registry.repository import KEPT_VERSIONS, Repository
from edgekit_fleet.store.database import Database


class Site:
    """A publisher and a fleet, with a clock in hand."""

    def __init__(self, folder):
        self.folder, self.now_ms, self.count = folder, NOW_MS, 0
        self.database = Database(folder / "fleet.sqlite")
        self.repository = Repository(
            self.database, Blobs(folder / "blobs"), online_keys(folder), lambda: self.now_ms
        )
        self.keyring = Keyring.make(folder / "keys", self.repository.online_keys(), self.now_ms)

    def bundle(self, **about):
        self.count += 1
        return read_bundle(write_folder(self.folder / f"bundle-{self.count}", files_of(**about)))

    def publish(self, **about):
        return publisher.publish(self.bundle(**about), self.keyring, self.repository, self.now_ms)

    def view(self):
        root, targets = self.repository.metadata("root"), self.repository.metadata("targets")
        return trust.check_targets(targets, root, self.now_ms)

    def state(self):
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT role, version, body FROM tuf_metadata ORDER BY role, version"
            ).fetchall()
        return [tuple(row) for row in rows]


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    with contextlib.closing(made.database):
        yield made


def target_of(bundle):
    manifest = bundle.manifest
    return trust.Target(manifest.model, manifest.version, bundle.sha256, len(bundle.manifest_bytes))


def test_a_published_bundle_is_listed_with_its_signed_hash(site):
    done = site.publish()
    found = site.repository.bundle("motion", "1.0.0")
    assert done.is_new
    assert (found.sha256, found.manifest.model) == (done.sha256, "motion")
    assert site.view().targets[wire.target_path("motion", "1.0.0")] == found.target


def test_the_first_publication_brings_the_root_along(site):
    assert site.repository.metadata("root") is None
    site.publish()
    assert site.repository.metadata("root") == site.keyring.root


def test_publishing_the_same_again_changes_nothing(site):
    site.publish()
    before = site.state()
    assert not site.publish().is_new
    assert site.state() == before


def test_a_published_version_never_changes(site):
    site.publish()
    before = site.state()
    with pytest.raises(BundleError, match="published already"):
        site.publish(weights=b"other" * 9)
    assert site.state() == before


def test_only_what_is_missing_is_uploaded(site):
    assert site.publish().uploaded == 3
    assert site.publish(version="1.1.0").uploaded == 1  # weights and labels are those of 1.0.0


def test_an_interrupted_upload_is_continued_with_the_files_that_are_missing(site):
    sent = []

    class Flaky:
        def __getattr__(self, name):
            return getattr(site.repository, name)

        def upload(self, sha256, size, chunks):
            if sent:
                raise StorageError("the link is gone")
            sent.append(sha256)
            site.repository.upload(sha256, size, chunks)

    with pytest.raises(StorageError):
        publisher.publish(site.bundle(), site.keyring, Flaky(), site.now_ms)
    assert site.repository.bundle("motion", "1.0.0") is None
    assert site.publish().uploaded == 2


def test_two_publishers_at_once_both_succeed(site):
    """The second one's targets version is taken when it hands it in: it signs again."""
    other = site.bundle(model="other")
    raced = []

    class Raced:
        def __getattr__(self, name):
            return getattr(site.repository, name)

        def submit(self, roots, targets):
            if not raced:
                raced.append(publisher.publish(other, site.keyring, site.repository, site.now_ms))
            return site.repository.submit(roots, targets)

    done = publisher.publish(site.bundle(), site.keyring, Raced(), site.now_ms)
    assert (raced[0].targets_version, done.targets_version) == (1, 2)
    assert len(site.view().targets) == 2


def test_without_the_publishers_key_nothing_can_be_published(site):
    """A stolen fleet has its online keys and every right on its own disk, and still cannot."""
    site.publish()
    bundle = site.bundle(version="6.6.6")
    for sha256, file in bundle.blobs().items():
        site.repository.upload(sha256, file.bytes, bundle.chunks(file))
    target = target_of(bundle)
    site.repository.upload(target.sha256, target.bytes, [bundle.manifest_bytes])
    online, before = online_keys(site.folder), site.state()
    for key in (SigningKey.generate(), online.snapshot, online.timestamp, online.desired):
        forged = trust.make_targets({**site.view().targets, target.path: target}, 2, key, site.now_ms)
        with pytest.raises(SignatureError):
            site.repository.submit([], forged)
    assert site.state() == before


def submitted(site, targets, version=None):
    version = site.view().version + 1 if version is None else version
    body = trust.make_targets(targets, version, site.keyring.key("targets"), site.now_ms)
    return site.repository.submit([], body)


def test_targets_only_go_forward_and_may_leap(site):
    """After a restore the publisher leaps over the versions that devices have seen."""
    site.publish()
    with pytest.raises(RollbackAttackError):
        submitted(site, site.view().targets, site.view().version)
    submitted(site, site.view().targets, 9)
    assert site.view().version == 9
    with pytest.raises(RollbackAttackError):
        submitted(site, site.view().targets, 8)


def test_a_published_bundle_cannot_be_withdrawn_or_exchanged(site):
    site.publish()
    with pytest.raises(RollbackAttackError, match="never changes"):
        submitted(site, {})
    other = trust.Target("motion", "1.0.0", "ab" * 32, 10)
    with pytest.raises(RollbackAttackError, match="never changes"):
        submitted(site, {other.path: other})


def test_a_bundle_whose_files_are_not_all_here_stays_invisible(site):
    site.publish()
    bundle = site.bundle(version="2.0.0", weights=b"new" * 100)
    target = target_of(bundle)
    with pytest.raises(HashMismatchError, match="manifest was not uploaded"):
        submitted(site, {**site.view().targets, target.path: target})
    site.repository.upload(target.sha256, target.bytes, [bundle.manifest_bytes])
    with pytest.raises(HashMismatchError) as error:
        submitted(site, {**site.view().targets, target.path: target})
    assert "v/model.onnx" in str(error.value.reasons)
    assert site.repository.bundle("motion", "2.0.0") is None


def test_a_blob_that_was_tampered_with_on_the_servers_disk_is_not_published(site):
    bundle = site.bundle()
    weights = next(f for f in bundle.manifest.every_file() if f.path == "v/model.onnx")
    site.repository.upload(weights.sha256, weights.bytes, bundle.chunks(weights))
    path = site.repository.blobs.path(weights.sha256)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(HashMismatchError):
        publisher.publish(bundle, site.keyring, site.repository, site.now_ms)


def test_a_manifest_signed_under_another_name_is_refused(site):
    bundle = site.bundle()
    site.publish()
    target = trust.Target("motion", "9.0.0", bundle.sha256, len(bundle.manifest_bytes))
    with pytest.raises(BundleError, match=r"signed as motion 9\.0\.0"):
        submitted(site, {**site.view().targets, target.path: target})


def test_an_expired_list_of_targets_is_refused(site):
    site.publish()
    body = trust.make_targets(
        site.view().targets, 2, site.keyring.key("targets"), site.now_ms - (trust.TARGETS_DAYS + 1) * DAY_MS
    )
    with pytest.raises(ExpiredError):
        site.repository.submit([], body)


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"\xff", b'{"signed":{},"signatures":[]}', b"[" * 9000])
def test_junk_is_refused_as_metadata(site, junk):
    site.publish()
    with pytest.raises(SignatureError):
        site.repository.submit([], junk)
    with pytest.raises(SignatureError):
        site.repository.submit([junk], site.repository.metadata("targets"))


def test_another_publishers_root_does_not_displace_the_first(site):
    site.publish()
    stranger = Keyring.make(site.folder / "stranger", site.repository.online_keys(), site.now_ms)
    with pytest.raises(UsageError, match="trusts another root"):
        publisher.publish(site.bundle(version="2.0.0"), stranger, site.repository, site.now_ms)
    targets = trust.make_targets({}, 2, stranger.key("targets"), site.now_ms)
    with pytest.raises((SignatureError, RollbackAttackError)):
        site.repository.submit(stranger.roots, targets)


def test_a_root_for_another_fleet_is_refused(site, tmp_path):
    elsewhere = Keyring.make(tmp_path / "k2", online_keys(tmp_path / "elsewhere").public, site.now_ms)
    with pytest.raises(SignatureError, match="another snapshot key"):
        publisher.install_root(elsewhere, site.repository, site.now_ms)


def test_after_a_rotation_only_the_new_key_publishes(site):
    site.publish()
    old = site.keyring.key("targets")
    publisher.rotate(("root", "targets"), site.keyring, site.repository, site.now_ms)
    assert trust.view_root(site.repository.metadata("root")).version == 2
    stale = trust.make_targets(site.view().targets, 3, old, site.now_ms)
    with pytest.raises(SignatureError):
        site.repository.submit([], stale)
    assert site.publish(version="2.0.0").targets_version == 3


def test_a_failed_publication_leaves_nothing_half_done(site, monkeypatch):
    site.publish()
    before = site.state()

    def broken(*_):
        raise StorageError("disk full")

    monkeypatch.setattr(trust, "make_timestamp", broken)
    with pytest.raises(StorageError):
        site.publish(version="2.0.0")
    assert site.state() == before
    assert site.repository.bundle("motion", "2.0.0") is None


def test_the_timestamp_is_signed_anew_at_half_its_life_without_the_publisher(site):
    site.publish()
    assert not site.repository.refresh()  # it was signed by the publication, a moment ago
    site.now_ms += (trust.TIMESTAMP_DAYS // 2 - 1) * DAY_MS
    assert not site.repository.refresh()
    site.now_ms += 2 * DAY_MS
    assert site.repository.refresh()
    left_ms = trust.expires_unix_ms(site.repository.metadata("timestamp")) - site.now_ms
    assert left_ms > (trust.TIMESTAMP_DAYS - 1) * DAY_MS
    assert not site.repository.refresh()


def test_after_a_restore_the_list_of_bundles_is_signed_ahead_of_what_devices_have_seen(site):
    """Two publications are lost with the database; devices have seen their targets versions."""
    site.publish(version="1.0.0")
    backup = site.state()
    for version in ("2.0.0", "3.0.0"):
        site.publish(version=version)
    seen = site.view().version
    with site.database.transaction() as sql:
        sql.execute("DELETE FROM bundle WHERE version > '1.0.0'")
        sql.execute("DELETE FROM tuf_metadata")
        sql.executemany("INSERT INTO tuf_metadata (role, version, body) VALUES (?,?,?)", backup)
    with pytest.raises(RollbackAttackError, match="shows targets version 1, it accepted 3") as refused:
        site.publish(version="2.0.0")
    assert "keys resign" in refused.value.hint
    assert publisher.resign(site.keyring, site.repository, site.now_ms) == seen + 1
    site.publish(version="2.0.0")
    assert site.view().version == seen + 2
    assert sorted(site.view().targets) == ["motion/1.0.0/bundle.json", "motion/2.0.0/bundle.json"]


def test_each_start_signs_anew_ahead_of_everything_signed_before(site):
    """A restored database is behind what devices have seen; its first timestamp is ahead of it."""
    site.publish()
    seen = site.repository.metadata("timestamp")
    site.now_ms += 5000
    restarted = Repository(
        site.repository._database, site.repository.blobs, site.repository._keys, lambda: site.now_ms
    )
    assert restarted.refresh()
    before, after = (json.loads(data)["signed"] for data in (seen, restarted.metadata("timestamp")))
    assert after["version"] >= before["version"] + 5
    assert not restarted.refresh()


def test_an_empty_registry_has_nothing_to_sign(site):
    assert not site.repository.refresh()


def test_old_metadata_is_kept_for_refreshes_under_way_and_then_forgotten(site):
    for minor in range(KEPT_VERSIONS + 5):
        site.publish(version=f"1.{minor}.0")
    kept = {}
    for role, version, _ in site.state():
        kept.setdefault(role, []).append(version)
    assert {role: len(versions) for role, versions in kept.items()} == {
        "root": 1,
        "snapshot": KEPT_VERSIONS,
        "targets": KEPT_VERSIONS,
        "timestamp": 1,
    }


def test_bundles_are_listed_newest_first_and_in_pages(site):
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        site.publish(version=version)
    first = site.repository.bundles(limit=2)
    assert [one.version for one in first] == ["1.2.0", "1.1.0"]
    assert [one.version for one in site.repository.bundles(before=first[-1].number)] == ["1.0.0"]
    assert site.repository.bundles(model="other") == []


@pytest.mark.parametrize(
    ("size", "chunks", "error"),
    [
        (5, [b"hell"], HashMismatchError),
        (5, [b"hello", b"!"], HashMismatchError),
        (5, [b"HELLO"], HashMismatchError),
        (-1, [], BundleError),
        (1 << 60, [], BundleError),
    ],
)
def test_an_upload_that_is_not_what_it_says_leaves_nothing(tmp_path, size, chunks, error):
    blobs = Blobs(tmp_path / "blobs")
    sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"
    with pytest.raises(error):
        blobs.put(sha256, size, chunks)
    assert blobs.size(sha256) is None
    assert list((tmp_path / "blobs/incoming").iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_blob_has_no_other_name_than_a_hash(tmp_path, name):
    with pytest.raises(BundleError):
        Blobs(tmp_path / "blobs").path(name)
