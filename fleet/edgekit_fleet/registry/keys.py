"""Ed25519 keys in files: a publisher's, which sign bundles, and a fleet's online keys."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgekit.base.disk import sync_path
from edgekit.core.errors import ConfigError, StorageError

MAX_KEY_BYTES = 16 << 10


@dataclass(frozen=True)
class SigningKey:
    """A key pair that signs with Ed25519."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """Generate a key pair."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> str:
        """The raw public key, 64 hexadecimal digits."""
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``, 64 bytes."""
        return self.private.sign(data)


@dataclass(frozen=True)
class OnlinePublic:
    """The public halves of a fleet's online keys, 64 hexadecimal digits each."""

    snapshot: str
    timestamp: str
    desired: str


@dataclass(frozen=True)
class OnlineKeys:
    """The keys of the fleet server: they sign which metadata is current, and which device runs what.

    None of them can make a device accept a bundle that no publisher signed.
    """

    snapshot: SigningKey
    timestamp: SigningKey
    desired: SigningKey

    @property
    def public(self) -> OnlinePublic:
        """Their public halves."""
        return OnlinePublic(self.snapshot.public, self.timestamp.public, self.desired.public)


def desired_key_id(public: str) -> str:
    """Return the id by which devices refer to a key of desired states.

    >>> desired_key_id("00" * 32)
    '66687aadf862bd77'
    """
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def online_keys(data: Path) -> OnlineKeys:
    """Load the fleet's online keys from its data folder; missing keys are generated.

    Raises:
        ConfigError: A key file is damaged.
        StorageError: The folder cannot be written.
    """
    folder = data / "keys"
    return OnlineKeys(
        *(_load_or_make(folder / f"{role}.key") for role in ("snapshot", "timestamp", "desired"))
    )


def _load_or_make(path: Path) -> SigningKey:
    if not path.exists():
        save_key(SigningKey.generate(), path, exclusive=False)
    return load_key(path)


def save_key(key: SigningKey, path: Path, passphrase: bytes = b"", *, exclusive: bool = True) -> None:
    """Write a key durably to a file that only its owner can read; an existing file is not replaced.

    Args:
        key: The key; the file is PKCS #8 PEM.
        path: The file; a missing folder is created with mode 0700.
        passphrase: Encrypts the file; empty: not encrypted.
        exclusive: Raise if the file exists; otherwise the existing file stays.

    Raises:
        StorageError: The file exists, or cannot be written.
    """
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create_durably(path, pem)
    except FileExistsError as cause:
        if exclusive:
            raise StorageError(
                f"{path} exists", hint="keys are never overwritten: name another folder"
            ) from cause
    except OSError as cause:
        raise StorageError(f"{path}: {cause.strerror or cause}") from cause


def load_key(path: Path, passphrase: bytes = b"") -> SigningKey:
    """Read a key file.

    Raises:
        ConfigError: It is missing, not an Ed25519 key, or the passphrase does not open it.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_KEY_BYTES)
        key = serialization.load_pem_private_key(pem, passphrase or None)
    except OSError as cause:
        raise ConfigError(f"{path}: {cause.strerror or cause}") from cause
    except TypeError as cause:  # cryptography reports a missing or superfluous passphrase like this
        hint = "name its passphrase: --passphrase-file FILE" if not passphrase else "omit --passphrase-file"
        raise ConfigError(f"{path}: {cause}", hint=hint) from cause
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise ConfigError(f"{path}: not a key that this passphrase opens") from cause
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: want an Ed25519 key, got {type(key).__name__}")
    return SigningKey(key)


def _create_durably(path: Path, data: bytes) -> None:
    """Write a new file for its owner only; after a power cut it is complete or absent.

    Raises:
        FileExistsError: The file exists.
        OSError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)  # unlike rename, fails if the name is taken
    finally:
        beside.unlink(missing_ok=True)
    sync_path(path.parent)
