"""Encrypts secrets that the database keeps, with a key in a file beside it.

So a copy of the database alone, such as a backup without keys, has no secret in it. AES-256-GCM; what a
secret is for is authenticated with it, so one cannot be put in the place of another. Source: NIST SP 800-38D.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError

FILE = "keys/secrets.key"
"""Of the key, below the fleet's data folder."""
_KEY_BYTES, _NONCE_BYTES = 32, 12


class SecretBox:
    """Encrypts and decrypts with the key in a file, which is made where there is none.

    Raises:
        ConfigError: The file is not such a key.
        OSError: It cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            write_durably(path, os.urandom(_KEY_BYTES), mode=0o600)
        self._key = path.read_bytes()
        if len(self._key) != _KEY_BYTES:
            raise ConfigError(
                f"{path}: want {_KEY_BYTES} bytes, got {len(self._key)}", hint="restore a backup"
            )

    def seal(self, secret: str, purpose: str) -> bytes:
        """Return a secret encrypted; ``purpose`` says what it is for, and must be the same to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self._key).encrypt(nonce, secret.encode(), purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> str | None:
        """Return what ``seal`` encrypted; None where the key is another, or the bytes are."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self._key).decrypt(nonce, rest, purpose.encode()).decode()
        except (InvalidTag, ValueError):
            return None

    def salt(self, data: bytes) -> str:
        """Return a salt for what has secrets in it and whose digest is public: always the same one."""
        return hmac.new(self._key, b"salt\n" + data, hashlib.sha256).hexdigest()
