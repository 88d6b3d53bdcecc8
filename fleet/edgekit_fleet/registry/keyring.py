"""A publisher's folder of keys and roots, which never goes to the fleet server.

::

    root-1a2b3c4d.pem      the key that signs roots
    targets-5e6f7a8b.pem   the key that signs what may be installed
    1.root.json ...        every root so far; the newest names the valid keys
    accepted.json          the newest targets version that a fleet accepted

The file of a new root completes a change of keys: until it exists, the old keys are valid.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError, RollbackAttackError, StorageError, UsageError
from edgekit_fleet.registry import trust
from edgekit_fleet.registry.keys import OnlinePublic, SigningKey, load_key, save_key

ROTATABLE = ("root", "targets")


class Keyring:
    """The keys of one publisher.

    Args:
        folder: The folder with the keys.
        passphrase: Decrypts the key files; empty if they are not encrypted.

    Raises:
        ConfigError: The folder has no root.
    """

    def __init__(self, folder: Path, passphrase: bytes = b"") -> None:
        self.folder = folder
        self._passphrase = passphrase
        versions = sorted(int(path.name.split(".")[0]) for path in folder.glob("[0-9]*.root.json"))
        if not versions or versions != list(range(1, len(versions) + 1)):
            raise ConfigError(
                f"{folder}: no publisher's keys here (no 1.root.json)",
                hint=f"edgekit-fleet keys init --keys {folder}",
            )
        try:
            self.roots = [(folder / f"{version}.root.json").read_bytes() for version in versions]
        except OSError as cause:
            raise ConfigError(f"{cause.filename}: {cause.strerror}") from cause

    @classmethod
    def make(cls, folder: Path, online: OnlinePublic, now_ms: int, passphrase: bytes = b"") -> Keyring:
        """Generate keys, and write the first root, which also names a fleet's online keys.

        Raises:
            UsageError: The folder has keys already.
            StorageError: It cannot be written.
        """
        if (folder / "1.root.json").exists():
            raise UsageError(
                f"{folder} has a publisher's keys already", hint="edgekit-fleet keys rotate replaces them"
            )
        keys = {role: SigningKey.generate() for role in ROTATABLE}
        for role, key in keys.items():
            save_key(key, _key_path(folder, role, trust.key_id(key.public)), passphrase)
        _write(folder / "1.root.json", trust.make_root(keys["root"], keys["targets"], online, now_ms))
        return cls(folder, passphrase)

    @property
    def root(self) -> bytes:
        """The newest root."""
        return self.roots[-1]

    def key(self, role: str) -> SigningKey:
        """Load the key that signs for a role by the newest root.

        Raises:
            ConfigError: Its file is missing, or the passphrase does not open it.
        """
        problems = []
        for keyid in trust.view_root(self.root).keyids[role]:
            path = _key_path(self.folder, role, keyid)
            if path.exists():
                return load_key(path, self._passphrase)
            problems.append(f"{path}: does not exist")
        raise ConfigError(f"no {role} key that the root names", reasons=tuple(problems))

    def rotate(self, roles: Collection[str], online: OnlinePublic, now_ms: int) -> None:
        """Write a new root with new keys of some roles and the fleet's current online keys.

        Old key files stay; nothing trusts them any longer, and they may be deleted.

        Raises:
            ConfigError: The file of the old root key is missing.
            StorageError: The folder cannot be written.
        """
        signers = [self.key("root")]
        changed = {"snapshot": online.snapshot, "timestamp": online.timestamp}
        for role in roles:
            key = SigningKey.generate()
            save_key(key, _key_path(self.folder, role, trust.key_id(key.public)), self._passphrase)
            changed[role] = key.public
            if role == "root":
                signers.append(key)
        new = trust.next_root(self.root, signers, changed, now_ms)
        _write(self.folder / f"{len(self.roots) + 1}.root.json", new)
        self.roots.append(new)

    def missing_roots(self, known: bytes | None) -> list[bytes]:
        """Return the roots that a fleet lacks whose newest root is ``known``.

        Raises:
            UsageError: The fleet trusts another publisher's root.
        """
        count = 0 if known is None else trust.view_root(known).version
        if known is not None and (count > len(self.roots) or self.roots[count - 1] != known):
            raise UsageError(
                f"the fleet trusts another root than {self.folder} has (version {count})",
                hint="use the key folder that this fleet's root was made with, brought up to date",
            )
        return self.roots[count:]

    def check_not_older(self, targets_version: int) -> None:
        """Check that a fleet's targets version is not older than the newest one it accepted.

        Raises:
            RollbackAttackError: It is older: the fleet has lost, or hides, publications.
        """
        accepted = self.accepted()
        if targets_version < accepted:
            raise RollbackAttackError(
                f"the fleet shows targets version {targets_version}, it accepted {accepted} before",
                hint="was it restored from a backup? then run 'edgekit-fleet keys resign' with this folder,"
                " and publish again what was published since the backup",
            )

    def accepted(self) -> int:
        """Return the newest targets version that a fleet accepted; 0 for none.

        Raises:
            ConfigError: The record is damaged.
        """
        try:
            return int(json.loads((self.folder / "accepted.json").read_bytes())["targets"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ConfigError(f"{self.folder / 'accepted.json'}: {cause}") from cause

    def note_accepted(self, targets_version: int) -> None:
        """Record the newest targets version that a fleet accepted."""
        _write(self.folder / "accepted.json", json.dumps({"targets": targets_version}).encode() + b"\n")


def _key_path(folder: Path, role: str, keyid: str) -> Path:
    return folder / f"{role}-{keyid[:16]}.pem"


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as cause:
        raise StorageError(f"{path}: {cause.strerror}") from cause
