"""A backup is one file, made while the fleet runs; after a restore every device goes on."""

import contextlib
import json
import shutil
import stat
import tarfile
import threading
from pathlib import Path

import pytest
from fleet_kit import LocalFleet, Sender, composed, wait_until

from edgekit.core.errors import ConfigError, UsageError
from edgekit_fleet.app.backup import SECRETS, back_up, restore
from edgekit_fleet.identity.journal import Journal
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices

WORD = b"correct horse"


@pytest.fixture
def data(tmp_path):
    """The data folder of a fleet with two devices, which does not run."""
    with composed(tmp_path / "data") as fleet:
        for name in ("a", "b"):
            fleet.services.devices.enroll(name, unix_ms(), None)
    return tmp_path / "data"


def enrolled(data):
    with contextlib.closing(Database(data / "fleet.sqlite")) as database:
        return {device.id: device.state for device in Devices(database).page().items}


def test_what_is_restored_is_what_was_backed_up_keys_included(data, tmp_path):
    head = back_up(data, tmp_path / "backup.tar", unix_ms(), passphrase=WORD)
    assert (head.devices, head.has_keys) == (2, True)
    restore(tmp_path / "backup.tar", tmp_path / "new", unix_ms(), passphrase=WORD)
    for name in (*SECRETS, "ca/ca.crt", "ports.json"):
        assert (tmp_path / "new" / name).read_bytes() == (data / name).read_bytes(), name
        if name in SECRETS:
            assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o600, name
    assert enrolled(tmp_path / "new") == {"a": "approved", "b": "approved"}
    with composed(tmp_path / "new") as fleet:  # it starts, with the authority that devices trust
        assert fleet.authority.key_sha256 == head.authority


def test_a_backup_is_for_its_owner_only_and_holds_no_key_in_the_clear(data, tmp_path):
    back_up(data, tmp_path / "with", unix_ms(), passphrase=WORD)
    back_up(data, tmp_path / "without", unix_ms())
    secrets = [(data / name).read_bytes().strip() for name in SECRETS]
    for file in (tmp_path / "with", tmp_path / "without"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert not any(secret in file.read_bytes() for secret in secrets)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "with", "without"]  # no drafts left


def test_keys_come_from_the_backup_the_former_folder_or_the_new_one_and_else_it_says_so(data, tmp_path):
    back_up(data, tmp_path / "with", unix_ms(), passphrase=WORD)
    back_up(data, tmp_path / "without", unix_ms())
    with pytest.raises(ConfigError, match="encrypted"):
        restore(tmp_path / "with", tmp_path / "1", unix_ms())
    with pytest.raises(ConfigError, match="does not open"):
        restore(tmp_path / "with", tmp_path / "2", unix_ms(), passphrase=b"another")
    with pytest.raises(ConfigError, match="has no keys") as refused:
        restore(tmp_path / "without", tmp_path / "3", unix_ms())
    assert "--former" in refused.value.hint
    restore(tmp_path / "without", tmp_path / "3", unix_ms(), former=data)  # the same folder, once more
    assert enrolled(tmp_path / "3") == {"a": "approved", "b": "approved"}


def test_another_fleets_keys_are_refused(data, tmp_path):
    back_up(data, tmp_path / "without", unix_ms())
    with composed(tmp_path / "other"):
        pass
    shutil.copytree(tmp_path / "other" / "ca", tmp_path / "new" / "ca")
    shutil.copytree(tmp_path / "other" / "keys", tmp_path / "new" / "keys")
    (tmp_path / "new" / "ca" / "ca.crt").unlink()
    with pytest.raises(ConfigError, match=r"CA|authority"):
        restore(tmp_path / "without", tmp_path / "new", unix_ms())
    assert not (tmp_path / "new" / "fleet.sqlite").exists()


def test_no_data_is_ever_written_over(data, tmp_path):
    back_up(data, tmp_path / "backup", unix_ms(), passphrase=WORD)
    with pytest.raises(UsageError, match="exists"):
        back_up(data, tmp_path / "backup", unix_ms())
    with pytest.raises(UsageError, match="has a fleet's data"):
        restore(tmp_path / "backup", data, unix_ms(), passphrase=WORD)


def test_a_damaged_backup_and_a_slow_clock_are_refused_by_name(data, tmp_path):
    whole = tmp_path / "backup"
    head = back_up(data, whole, unix_ms(), passphrase=WORD)
    with pytest.raises(ConfigError, match="clock is behind"):
        restore(whole, tmp_path / "1", head.created_unix_ms - 1, passphrase=WORD)
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ConfigError):
        restore(cut, tmp_path / "2", unix_ms(), passphrase=WORD)
    assert not (tmp_path / "2" / "fleet.sqlite").exists()
    (tmp_path / "text").write_text("not a backup")
    with pytest.raises(ConfigError, match="not a backup"):
        restore(tmp_path / "text", tmp_path / "3", unix_ms())
    with pytest.raises(ConfigError, match="no fleet's database"):
        back_up(tmp_path / "nothing", tmp_path / "4", unix_ms())


def test_nothing_outside_the_folder_is_written_whatever_a_backup_names(data, tmp_path):
    hostile = tmp_path / "hostile"
    back_up(data, tmp_path / "backup", unix_ms(), passphrase=WORD)
    with tarfile.open(tmp_path / "backup") as source, tarfile.open(hostile, "w") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
        for name in ("../escaped", "/tmp/escaped-by-a-backup", "blobs/../escaped", "keys/extra.key"):
            member = tarfile.TarInfo(name)
            target.addfile(member)
    restore(hostile, tmp_path / "new", unix_ms(), passphrase=WORD)
    assert not (tmp_path / "escaped").exists()
    assert not Path("/tmp/escaped-by-a-backup").exists()
    assert not (tmp_path / "new" / "escaped").exists()
    assert not (tmp_path / "new" / "keys" / "extra.key").exists()


def test_revocations_and_enrolments_since_the_backup_are_repeated_from_the_journal(data, tmp_path):
    head = back_up(data, tmp_path / "backup", unix_ms(), passphrase=WORD)
    journal = Journal(data)
    journal.add("revoked", "a", head.created_unix_ms + 1)
    journal.add("enrolled", "c", head.created_unix_ms + 2)
    journal.add("enrolled", "d", head.created_unix_ms + 3)
    journal.add("deleted", "d", head.created_unix_ms + 4)
    done = restore(tmp_path / "backup", tmp_path / "new", unix_ms() + 10, passphrase=WORD, former=data)
    assert (done.since.revoked, done.since.enrolled, done.since.deleted) == (["a"], ["c"], ["d"])
    assert enrolled(tmp_path / "new") == {"a": "revoked", "b": "approved", "c": "approved"}


def test_without_a_journal_the_report_is_that_nobody_knows(data, tmp_path):
    (data / "identities.log").unlink(missing_ok=True)
    back_up(data, tmp_path / "backup", unix_ms(), passphrase=WORD)
    assert restore(tmp_path / "backup", tmp_path / "new", unix_ms(), passphrase=WORD).since is None
    with composed(tmp_path / "new") as fleet:
        [said] = fleet.warnings()
        assert said.endswith("0 devices so far. Revocations made in between are undone: repeat them.")
    (tmp_path / "new" / "identities.log").touch()
    restore(tmp_path / "backup", tmp_path / "newer", unix_ms(), passphrase=WORD, former=tmp_path / "new")
    with composed(tmp_path / "newer") as fleet:
        assert fleet.warnings()[0].endswith("of 0 devices so far.")


def test_a_line_that_a_power_cut_tore_hides_no_other(tmp_path):
    journal = Journal(tmp_path)
    journal.add("revoked", "a", 5)
    with (tmp_path / "identities.log").open("ab") as file:
        file.write(b'{"at_ms":6,"wh\n')
    journal.add("revoked", "b", 7)
    assert journal.since(5).revoked == ["a", "b"]
    assert journal.since(6).revoked == ["b"]


def test_a_lost_or_exchanged_authority_stops_the_start_before_any_device_is_locked_out(data, tmp_path):
    shutil.move(data / "ca", tmp_path / "ca")
    with pytest.raises(ConfigError, match="CA is missing"), composed(data):
        pass
    assert not (data / "ca" / "ca.crt").exists()  # no new one was made
    with composed(tmp_path / "other"):
        pass
    shutil.copytree(tmp_path / "other" / "ca", data / "ca", dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="not the CA that this fleet's devices trust"), composed(data):
        pass
    shutil.rmtree(data / "ca")
    shutil.move(tmp_path / "ca", data / "ca")
    with composed(data):
        pass


def test_after_a_restore_every_device_goes_on_and_the_hole_is_counted_exactly(tmp_path):
    """A backup under load, more load, the folder lost: nothing is stuck, and 200 lost messages are named."""
    (tmp_path / "1").mkdir()
    with LocalFleet(tmp_path / "1") as fleet:
        identity = fleet.enroll("a")
        with Sender(identity, 500) as sender:
            sender.run(until=100)
            stopping = threading.Event()
            writer = threading.Thread(target=_load, args=(sender, stopping))
            writer.start()
            head = back_up(tmp_path / "1", tmp_path / "backup", unix_ms(), passphrase=WORD)
            stopping.set()
            writer.join()
            at_backup = fleet.fleet.services.messages.watermark("a", "boot-1")
            sender.run(until=500)
            seen = timestamp(fleet)
    assert head.devices == 1
    done = restore(tmp_path / "backup", tmp_path / "2", unix_ms(), passphrase=WORD)
    assert done.head == head
    shutil.copytree(tmp_path / "1-publisher", tmp_path / "2-publisher")
    with LocalFleet(tmp_path / "2") as fleet:
        services = fleet.fleet.services
        stored = services.messages.watermark("a", "boot-1")
        assert stored <= at_backup
        with Sender(identity, 600, conn=9) as sender:
            sender.watermark = 500
            sender.run(until=600)
        gaps = services.metrics.events(device="a", kinds=["gap"])
        assert sum(gap.body["last"] - gap.body["first"] + 1 for gap in gaps) == 500 - stored
        assert fleet.fleet.health().counters["lost_by_restore"] == 500 - stored
        assert services.messages.counts()["events"] == stored + 100 + len(gaps)
        wait_until(lambda: timestamp(fleet) > seen, "a newer timestamp")


def _load(sender, stopping):
    while not stopping.is_set() and sender.step():
        stopping.wait(0.005)


def timestamp(fleet):
    return json.loads(fleet.client.get("/tuf/metadata/timestamp.json").content)["signed"]["version"]
