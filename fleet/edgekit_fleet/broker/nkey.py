"""NATS's keys and tokens, with which the broker and the fleet manager sign their messages.

Source: github.com/nats-io/nkeys ("Encoding": prefix, Ed25519 key, CRC-16, base 32) and
github.com/nats-io/jwt version 2 (header ``ed25519-nkey``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgekit.core.errors import SignatureError

_ACCOUNT = 0 << 3
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class AccountKey:
    """An account's key; it signs which users may connect."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = encode(_ACCOUNT, self._key.public_key().public_bytes_raw())

    def sign(self, claims: dict[str, Any], now_s: int) -> str:
        """Return a signed token of these claims, with the issuer, the time and an id added."""
        body = {**claims, "iss": self.public, "iat": now_s}
        body["jti"] = (
            base64.b32encode(hashlib.sha256(msgspec.json.encode(body)).digest()).decode().rstrip("=")
        )
        signed = f"{_base64(msgspec.json.encode(_HEADER))}.{_base64(msgspec.json.encode(body))}"
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a token after checking the signature of the issuer that it names.

    Raises:
        SignatureError: It is malformed, or not signed by its issuer.
    """
    try:
        header, body, signature = token.split(".")
        claims = msgspec.json.decode(_unbase64(body), type=dict[str, Any])
        public = Ed25519PublicKey.from_public_bytes(decode(str(claims["iss"])))
        public.verify(_unbase64(signature), f"{header}.{body}".encode())
    except (ValueError, KeyError, binascii.Error, msgspec.DecodeError, InvalidSignature) as cause:
        raise SignatureError(f"the broker's token does not verify: {cause}") from cause
    return claims


def encode(prefix: int, key: bytes) -> str:
    """Return a public key as NATS writes it.

    >>> encode(0, bytes(32))[:1]
    'A'
    """
    body = bytes([prefix]) + key
    return base64.b32encode(body + struct.pack("<H", binascii.crc_hqx(body, 0))).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Return the 32 bytes of a public key as NATS writes it.

    >>> decode(encode(0, bytes(range(32)))) == bytes(range(32))
    True

    Raises:
        ValueError: Its length or its checksum is wrong.
    """
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    if len(raw) != 35 or struct.pack("<H", binascii.crc_hqx(raw[:33], 0)) != raw[33:]:
        raise ValueError("not a public key of NATS")
    return raw[1:33]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
