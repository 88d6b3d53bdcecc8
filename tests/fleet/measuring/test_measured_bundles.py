"""Bundles that are published for measuring: signed, served, kept for a while, never directed to."""

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from registry_parts import NOW_MS, files_of, fleet, write_folder
from rollout_parts import Retained
from tuf.ngclient import Updater

from edgekit.core import wire
from edgekit.core.errors import ConfigError, RollbackAttackError, SignatureError
from edgekit_fleet.cli.main import main
from edgekit_fleet.registry import publisher, trust
from edgekit_fleet.registry.blobs import Blobs
from edgekit_fleet.registry.bundle import read_bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.keys import SigningKey, online_keys
from edgekit_fleet.registry.repository import Repository
from edgekit_fleet.rollout.desired import DesiredStates
from edgekit_fleet.store.database import Database


@pytest.fixture
def site(tmp_path):
    with contextlib.closing(Database(tmp_path / "fleet.sqlite")) as database:
        made = SimpleNamespace(folder=tmp_path, database=database, now_ms=NOW_MS, count=0)
        made.repository = Repository(
            database, Blobs(tmp_path / "blobs"), online_keys(tmp_path), lambda: made.now_ms
        )
        made.keyring = Keyring.make(tmp_path / "keys", made.repository.online_keys(), NOW_MS)
        yield made


def publish(site, *, measured=True, **about):
    site.count += 1
    site.now_ms += 1000
    bundle = read_bundle(write_folder(site.folder / f"bundle-{site.count}", files_of(**about)))
    return publisher.publish(bundle, site.keyring, site.repository, site.now_ms, only_measured=measured)


def listed(site):
    root, targets = site.repository.metadata("root"), site.repository.metadata("targets")
    return trust.check_targets(targets, root, site.now_ms).targets


def test_its_target_says_what_it_is_for_and_cannot_be_an_installable_ones(site):
    done = publish(site)
    assert done.target == f"measure/motion/{done.sha256}/bundle.json"
    target = listed(site)[done.target]
    assert target.custom["purpose"] == "measure"
    assert done.target != wire.target_path("motion", "1.0.0")
    assert site.repository.bundle("motion", "1.0.0") is None
    assert site.repository.bundles() == []
    assert site.repository.measured_bundle("motion", "1.0.0").target == target


def test_one_version_may_be_measured_in_many_forms_and_then_be_published(site):
    first, second = publish(site), publish(site, weights=b"smaller" * 9)
    final = publish(site, measured=False)
    assert {first.target, second.target, final.target} == set(listed(site))
    assert site.repository.measured_bundle("motion", "1.0.0").sha256 == second.sha256
    assert site.repository.measured_bundle("motion", "1.0.0", first.sha256).sha256 == first.sha256
    assert site.repository.bundle("motion", "1.0.0").sha256 == final.sha256


def test_the_same_again_changes_nothing(site):
    version = publish(site).targets_version
    again = publish(site)
    assert (again.is_new, again.targets_version) == (False, version)


def test_the_oldest_goes_with_its_files_and_shared_files_stay(site):
    publish(site, measured=False, version="0.9.0")  # has the same labels
    found = [publish(site, weights=f"weights {n}".encode() * 9) for n in range(publisher.KEPT_MEASURED + 2)]
    kept = {target.sha256 for target in listed(site).values() if target.is_measured_only}
    assert kept == {one.sha256 for one in found[2:]}
    assert site.repository.measured_bundle("motion", "1.0.0", found[0].sha256) is None
    blobs = site.repository.blobs
    gone, here = (json.loads(files_of(weights=f"weights {n}".encode() * 9)["bundle.json"]) for n in (0, 2))
    assert blobs.size(gone["variants"][0]["files"][0]["sha256"]) is None
    assert blobs.size(found[0].sha256) is None
    assert blobs.size(here["variants"][0]["files"][0]["sha256"])
    assert blobs.size(gone["files"][0]["sha256"])
    # and it may come back
    assert publish(site, weights=b"weights 0" * 9).is_new


def test_a_publisher_whose_clock_is_behind_is_not_the_oldest(site):
    for n in range(publisher.KEPT_MEASURED):
        publish(site, weights=f"weights {n}".encode() * 9)
    site.now_ms -= 3_600_000
    done = publish(site)
    assert done.target in listed(site)
    assert site.repository.measured_bundle("motion", "1.0.0").sha256 == done.sha256


def test_an_installable_bundle_still_cannot_be_withdrawn(site):
    publish(site, measured=False)
    publish(site)
    targets = {path: one for path, one in listed(site).items() if one.is_measured_only}
    signed = trust.make_targets(targets, 3, site.keyring.key("targets"), site.now_ms)
    with pytest.raises(RollbackAttackError, match="never removed"):
        site.repository.submit([], signed)


@pytest.mark.parametrize(
    ("path", "custom"),
    [
        ("motion/1.0.0/bundle.json", {"purpose": "measure", "issued_unix_ms": 1}),
        ("motion/1.0.0/bundle.json", {"purpose": "measure"}),
        ("measure/motion/{sha256}/bundle.json", {}),
        ("measure/motion/{sha256}/bundle.json", {"purpose": "measure"}),
        ("measure/motion/{sha256}/bundle.json", {"issued_unix_ms": 1}),
        ("measure/other/{sha256}/bundle.json", {"purpose": "measure", "issued_unix_ms": 1}),
    ],
)
def test_a_target_that_is_half_one_and_half_the_other_is_refused(site, path, custom):
    class Odd(trust.Target):
        path = property(lambda self: where)
        custom = property(lambda self: {"model": "motion", "version": "1.0.0", **more})

    done = publish(site)
    where, more = path.format(sha256=done.sha256), custom
    target = Odd("motion", "1.0.0", done.sha256, 100)
    signed = trust.make_targets({where: target}, 2, site.keyring.key("targets"), site.now_ms)
    with pytest.raises(SignatureError, match="not an entry"):
        site.repository.submit([], signed)


def test_a_desired_state_cannot_name_it(site):
    done = publish(site)
    desired = DesiredStates(site.database, SigningKey.generate(), Retained(), lambda: NOW_MS)
    wanted = wire.DesiredModel("1.0.0", done.target, done.sha256, 100)
    with pytest.raises(ConfigError, match="not what devices install"):
        desired.set_model("cam-1", "motion", wanted)
    assert desired.of_device("cam-1") is None


def test_any_tuf_client_can_fetch_it_and_no_more_once_it_is_withdrawn(tmp_path, capsys):
    with fleet(tmp_path / "data") as found:
        key_folder, source = tmp_path / "keys", write_folder(tmp_path / "bundle", files_of())
        reach = ["--keys", str(key_folder), "--fleet", found.url, "--token", found.token, "--json"]
        assert main(["keys", "init", *reach]) == 0
        capsys.readouterr()
        assert main(["publish", str(source), "--measure", *reach]) == 0
        done = json.loads(capsys.readouterr().out)
        for name in ("tuf", "targets"):
            (tmp_path / name).mkdir()
        client = Updater(
            str(tmp_path / "tuf"),
            f"{found.url}/tuf/metadata/",
            str(tmp_path / "targets"),
            f"{found.url}/tuf/targets/",
            bootstrap=Keyring(key_folder).roots[0],
        )
        info = client.get_targetinfo(done["target"])
        fetched = Path(client.download_target(info))
        assert fetched.read_bytes() == (source / "bundle.json").read_bytes()
        url = f"{found.url}/tuf/targets/measure/other/{done['sha256']}/{done['sha256']}.bundle.json"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(url, timeout=10)
        error.value.close()
        assert error.value.code == 404
