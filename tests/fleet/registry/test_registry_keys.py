import stat

import pytest
from registry_parts import DAY_MS, NOW_MS

from edgekit.core.errors import ConfigError, RollbackAttackError, StorageError, UsageError
from edgekit_fleet.registry import trust
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.keys import SigningKey, load_key, online_keys, save_key


def test_key_files_are_for_their_owner_only(tmp_path):
    Keyring.make(tmp_path / "keys", online_keys(tmp_path / "data").public, NOW_MS)
    found = [*(tmp_path / "keys").glob("*.pem"), *(tmp_path / "data/keys").glob("*.key")]
    assert len(found) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


def test_a_passphrase_encrypts_the_file_and_is_needed_to_open_it(tmp_path):
    key = SigningKey.generate()
    save_key(key, tmp_path / "k.pem", b"open sesame")
    assert b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()
    assert load_key(tmp_path / "k.pem", b"open sesame").public == key.public
    for wrong in (b"", b"sesame"):
        with pytest.raises(ConfigError):
            load_key(tmp_path / "k.pem", wrong)


def test_a_key_is_never_overwritten(tmp_path):
    save_key(SigningKey.generate(), tmp_path / "k.pem")
    before = (tmp_path / "k.pem").read_bytes()
    with pytest.raises(StorageError, match="exists"):
        save_key(SigningKey.generate(), tmp_path / "k.pem")
    assert (tmp_path / "k.pem").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["k.pem"]


def test_online_keys_are_made_once_and_kept(tmp_path):
    assert online_keys(tmp_path).public == online_keys(tmp_path).public


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_file_is_told(tmp_path, content):
    (tmp_path / "k.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=r"k\.pem"):
        load_key(tmp_path / "k.pem")


def test_a_folder_that_has_keys_is_not_initialised_again(tmp_path):
    online = online_keys(tmp_path / "data").public
    Keyring.make(tmp_path / "keys", online, NOW_MS)
    with pytest.raises(UsageError, match="already"):
        Keyring.make(tmp_path / "keys", online, NOW_MS)


def test_a_rotated_root_is_signed_by_the_old_key_and_the_new_one(tmp_path):
    online = online_keys(tmp_path / "data").public
    keyring = Keyring.make(tmp_path / "keys", online, NOW_MS, b"secret")
    old = trust.view_root(keyring.root).keyids
    keyring.rotate(("root", "targets"), online, NOW_MS + DAY_MS)
    view = trust.check_root(keyring.root, keyring.roots[0], online, NOW_MS)
    assert view.version == 2
    assert not set(old["root"] + old["targets"]) & set(view.keyids["root"] + view.keyids["targets"])
    again = Keyring(tmp_path / "keys", b"secret")
    assert trust.key_id(again.key("targets").public) in view.keyids["targets"]


def test_a_root_that_only_a_stranger_signed_is_refused(tmp_path):
    online = online_keys(tmp_path / "data").public
    ours = Keyring.make(tmp_path / "ours", online, NOW_MS)
    theirs = Keyring.make(tmp_path / "theirs", online, NOW_MS)
    theirs.rotate(("root",), online, NOW_MS)
    with pytest.raises(trust.SignatureError):
        trust.check_root(theirs.root, ours.root, online, NOW_MS)


def test_a_fleet_that_forgot_publications_is_noticed(tmp_path):
    keyring = Keyring.make(tmp_path / "keys", online_keys(tmp_path / "data").public, NOW_MS)
    keyring.note_accepted(5)
    keyring.check_not_older(5)
    with pytest.raises(RollbackAttackError):
        keyring.check_not_older(4)
