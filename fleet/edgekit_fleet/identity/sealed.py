"""Encrypt a few files with a passphrase: the fleet's keys in a backup.

scrypt stretches the passphrase (N = 2^15, r = 8, p = 1: 32 MiB and a tenth of a second for each guess),
AES-256-GCM encrypts and authenticates. Source: RFC 7914; NIST SP 800-38D.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from edgekit.core.errors import ConfigError

_MAGIC = b"EKSEAL1\n"
_SALT_BYTES, _NONCE_BYTES = 16, 12


def seal(data: bytes, passphrase: bytes) -> bytes:
    """Return ``data`` encrypted with a passphrase."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    return _MAGIC + salt + nonce + AESGCM(_key(passphrase, salt)).encrypt(nonce, data, _MAGIC)


def unseal(sealed: bytes, passphrase: bytes) -> bytes:
    """Return what ``seal`` encrypted.

    Raises:
        ConfigError: It is not sealed, is damaged, or the passphrase is another.
    """
    salt, rest = sealed[len(_MAGIC) :][:_SALT_BYTES], sealed[len(_MAGIC) + _SALT_BYTES :]
    if not sealed.startswith(_MAGIC) or len(rest) <= _NONCE_BYTES:
        raise ConfigError("the keys in the backup are not in a known format")
    try:
        key = _key(passphrase, salt)
        return AESGCM(key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _MAGIC)
    except InvalidTag as cause:
        raise ConfigError(
            "the passphrase does not open the keys in the backup", hint="name the right --passphrase-file"
        ) from cause


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << 15, r=8, p=1).derive(passphrase)
