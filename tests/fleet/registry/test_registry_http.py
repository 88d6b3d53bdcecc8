"""The registry over real HTTP, seen by python-tuf's own client and by the command line."""

import contextlib
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from registry_parts import DAY_MS, files_of, fleet, write_folder
from tuf.api import exceptions as tuf_errors
from tuf.ngclient import Updater

from edgekit.core import wire
from edgekit.core.errors import HashMismatchError, ServerError, SignatureError
from edgekit_fleet.cli.main import main
from edgekit_fleet.registry import publisher, trust
from edgekit_fleet.registry.bundle import read_bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.keys import SigningKey, desired_key_id, online_keys
from edgekit_fleet.registry.remote import FleetClient, RemoteRegistry
from edgekit_fleet.store.clock import unix_ms


@pytest.fixture
def site(tmp_path):
    with fleet(tmp_path / "data") as found:
        found.folder = tmp_path
        found.remote = RemoteRegistry(FleetClient(found.url, found.token))
        found.keyring = Keyring.make(tmp_path / "keys", found.remote.online_keys(), unix_ms())
        yield found


def publish(site, **about):
    bundle = read_bundle(write_folder(site.folder / f"b{about.get('version', '1.0.0')}", files_of(**about)))
    return publisher.publish(bundle, site.keyring, site.remote, unix_ms())


def updater(site, name="device"):
    folder = site.folder / name
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    (folder / "tuf").mkdir(exist_ok=True)
    return Updater(
        str(folder / "tuf"),
        f"{site.url}/tuf/metadata/",
        str(folder / "targets"),
        f"{site.url}/tuf/targets/",
        bootstrap=site.keyring.roots[0],
    )


def fetched(client, model="motion", version="1.0.0"):
    found = client.get_targetinfo(wire.target_path(model, version))
    return found, Path(client.download_target(found)).read_bytes()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.status, answer.read()


def test_a_device_with_the_root_fetches_what_was_published(site):
    done = publish(site)
    found, manifest = fetched(updater(site))
    assert hashlib.sha256(manifest).hexdigest() == done.sha256
    assert found.custom == {"model": "motion", "version": "1.0.0"}
    for entry in json.loads(manifest)["files"]:
        assert (
            hashlib.sha256(get(f"{site.url}/tuf/targets/blobs/{entry['sha256']}")[1]).hexdigest()
            == entry["sha256"]
        )


def test_a_device_follows_later_publications_and_rotated_keys(site):
    publish(site)
    fetched(updater(site))
    publisher.rotate(("root", "targets"), site.keyring, site.remote, unix_ms())
    publish(site, version="2.0.0")
    fetched(updater(site), version="2.0.0")
    fetched(updater(site, "a-new-device"), version="1.0.0")


def test_a_blob_is_fetched_in_ranges(site):
    publish(site)
    sha256 = hashlib.sha256(b"weights" * 1000).hexdigest()
    url = f"{site.url}/tuf/targets/blobs/{sha256}"
    assert get(url, Range="bytes=10-19") == (206, (b"weights" * 1000)[10:20])
    assert get(url, Range="bytes=6990-") == (206, (b"weights" * 1000)[6990:])
    with pytest.raises(urllib.error.HTTPError) as error:
        get(url, Range="bytes=7000-")
    error.value.close()
    assert error.value.code == 416


@pytest.mark.parametrize(
    "path",
    [
        "metadata/targets.json",
        "metadata/9.root.json",
        "metadata/x.root.json",
        "metadata/1.keys.json",
        "metadata/1.root",
        "targets/blobs/" + "0" * 64,
        "targets/blobs/..%2f..%2ffleet.sqlite",
        "targets/motion/1.0.0/" + "0" * 64 + ".bundle.json",
        "targets/motion/1.0.0/bundle.json",
    ],
)
def test_nothing_else_is_served(site, path):
    publish(site)
    with pytest.raises(urllib.error.HTTPError) as error:
        get(f"{site.url}/tuf/{path}")
    error.value.close()
    assert error.value.code == 404


def forge(site, role, version, body):
    """Write straight into the stolen fleet's database."""
    with site.database.transaction() as sql:
        sql.execute("INSERT OR REPLACE INTO tuf_metadata VALUES (?,?,?)", (role, version, body))


def signed_online(site, targets, now_ms):
    """What a thief of the fleet can do: sign snapshot and timestamp with the fleet's own keys."""
    keys, version = online_keys(site.folder / "data"), now_ms // 1000 + 10_000
    snapshot = trust.make_snapshot(targets, version, keys, now_ms)
    forge(site, "snapshot", version, snapshot)
    forge(site, "timestamp", version, trust.make_timestamp(snapshot, version, keys, now_ms))


def test_a_stolen_fleet_cannot_make_a_device_accept_an_unsigned_model(site):
    publish(site)
    evil = trust.Target("motion", "6.6.6", "ab" * 32, 10)
    for key in (SigningKey.generate(), online_keys(site.folder / "data").snapshot):
        body = trust.make_targets({evil.path: evil}, 2, key, unix_ms())
        forge(site, "targets", 2, body)
        signed_online(site, body, unix_ms())
        with pytest.raises(tuf_errors.UnsignedMetadataError):
            updater(site).refresh()


def test_a_replaced_manifest_is_refused_by_the_device(site):
    done = publish(site)
    path = site.repository.blobs.path(done.sha256)
    path.write_bytes(path.read_bytes().replace(b"labels", b"LABELS"))
    with pytest.raises(tuf_errors.RepositoryError):
        fetched(updater(site))


def test_older_targets_are_refused_by_a_device_that_saw_newer_ones(site):
    publish(site)
    old = site.repository.metadata("targets")
    publish(site, version="2.0.0")
    updater(site).refresh()
    signed_online(site, old, unix_ms())
    with pytest.raises(tuf_errors.BadVersionNumberError):
        updater(site).refresh()


def test_an_expired_timestamp_is_refused_by_the_device(site):
    publish(site)
    past_ms = unix_ms() - (trust.TIMESTAMP_DAYS + 1) * DAY_MS
    keys, snapshot = online_keys(site.folder / "data"), site.repository.metadata("snapshot")
    newer = unix_ms() // 1000 + 10_000
    forge(site, "timestamp", newer, trust.make_timestamp(snapshot, newer, keys, past_ms))
    with pytest.raises(tuf_errors.ExpiredMetadataError):
        updater(site).refresh()


def test_enrolling_devices_are_given_the_root_and_the_desired_key(site):
    publish(site)
    given = site.registry.trust()
    desired = site.repository.online_keys().desired
    assert given.root.encode() == site.keyring.root
    assert given.desired_keys == {desired_key_id(desired): desired}


@pytest.mark.parametrize("token", ["", "ekt.000000000000.nonsense"])
def test_without_a_token_nobody_publishes(site, token):
    stranger = RemoteRegistry(FleetClient(site.url, token))
    for call in (
        lambda: stranger.submit([], b"{}"),
        lambda: stranger.missing([("0" * 64, 1)]),
        lambda: stranger.upload("0" * 64, 1, [b"x"]),
    ):
        with pytest.raises(ServerError, match="token"):
            call()


def test_an_operator_is_no_publisher(site):
    token = site.tokens.create("operator", unix_ms())
    with pytest.raises(ServerError, match="publisher"):
        RemoteRegistry(FleetClient(site.url, token)).submit([], b"{}")


def test_the_fleets_refusals_keep_their_class_over_http(site):
    publish(site)
    with pytest.raises(SignatureError):
        site.remote.submit([], trust.make_targets({}, 2, SigningKey.generate(), unix_ms()))
    with pytest.raises(HashMismatchError):
        site.remote.upload("0" * 64, 5, [b"hello"])
    assert list((site.folder / "data/blobs/incoming").iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(site):
    sha256 = hashlib.sha256(b"x" * 5_000_000).hexdigest()
    host = site.url.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.putrequest("PUT", f"/api/v1/registry/blobs/{sha256}")
        connection.putheader("Authorization", f"Bearer {site.token}")
        connection.putheader("Content-Length", "5000000")
        connection.endheaders()
        connection.send(b"x" * 2_000_000)
    publish(site)  # the server is alive
    assert site.repository.blobs.size(sha256) is None


def run(capsys, *words):
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def command_line(tmp_path):
    with fleet(tmp_path / "data") as found:
        found.folder, found.where = tmp_path, ("--fleet", found.url, "--token", found.token)
        yield found


def test_keys_and_publish_from_the_command_line(command_line, tmp_path, capsys):
    bundle = write_folder(tmp_path / "b", files_of())
    (tmp_path / "phrase").write_text("open sesame\n")
    keys = ("--keys", tmp_path / "keys", "--passphrase-file", tmp_path / "phrase")
    code, made = run(capsys, "keys", "init", *keys, *command_line.where)
    assert (code, made["root_version"], made["installed"]) == (0, 1, True)
    code, done = run(capsys, "publish", bundle, *keys, *command_line.where)
    assert (code, done["published"], done["uploaded"]) == (0, True, 3)
    code, again = run(capsys, "publish", bundle, *keys, *command_line.where)
    assert (code, again["published"]) == (0, False)
    code, rotated = run(capsys, "keys", "rotate", "--role", "targets", *keys, *command_line.where)
    assert (code, rotated["root_version"], rotated["targets_version"]) == (0, 2, 3)
    code, failed = run(capsys, "publish", bundle, "--keys", tmp_path / "keys", *command_line.where[:2])
    assert (code, failed["error"]["code"]) == (7, "link.server")


def test_keys_can_be_made_without_a_token_and_reach_the_fleet_with_the_first_publication(
    command_line, tmp_path, capsys
):
    keys = ("--keys", tmp_path / "keys")
    code, made = run(capsys, "keys", "init", *keys, "--fleet", command_line.url)
    assert (code, made["installed"]) == (0, False)
    assert command_line.repository.metadata("root") is None
    bundle = write_folder(tmp_path / "b", files_of())
    assert run(capsys, "publish", bundle, *keys, *command_line.where)[0] == 0
    assert command_line.repository.metadata("root") is not None


def test_publishing_into_the_data_folder_of_a_fleet_that_does_not_run(tmp_path, capsys):
    where = ("--keys", tmp_path / "keys", "--data", tmp_path / "data")
    assert run(capsys, "keys", "init", *where)[0] == 0
    assert run(capsys, "publish", write_folder(tmp_path / "b", files_of()), *where)[0] == 0
    with fleet(tmp_path / "data") as found:
        assert found.repository.bundle("motion", "1.0.0") is not None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("publish", "absent", "--keys", "k", "--fleet", "http://127.0.0.1:9"), 4),
        (("keys", "init", "--keys", "k", "--fleet", "http://127.0.0.1:9"), 7),
        (("keys", "init", "--keys", "k"), 2),
        (("keys", "rotate", "--keys", "k", "--fleet", "http://127.0.0.1:9"), 3),
        (("keys", "init", "--keys", "k", "--fleet", "ftp://x"), 3),
    ],
)
def test_failures_have_the_contracts_exit_codes(tmp_path, monkeypatch, capsys, words, code):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words)[0] == code


def test_bundles_are_shown_over_the_api(site):
    publish(site)
    publish(site, version="2.0.0")
    client = FleetClient(site.url, site.token)
    page = client.json("GET", "/api/v1/bundles", params={"limit": "1"})
    assert [one["version"] for one in page["items"]] == ["2.0.0"]
    page = client.json("GET", "/api/v1/bundles", params={"limit": "1", "cursor": page["next"]})
    assert ([one["version"] for one in page["items"]], page["next"]) == (["1.0.0"], None)
    detail = client.json("GET", "/api/v1/bundles/motion/1.0.0")
    assert detail["manifest"]["model"] == "motion"
    with pytest.raises(ServerError):
        client.json("GET", "/api/v1/bundles/motion/7.0.0")
