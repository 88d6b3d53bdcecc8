"""The header that answers a server's question for a user name and password: Basic and Digest."""

from __future__ import annotations

import hashlib
import os
import re
from base64 import b64encode
from collections.abc import Iterable

_PART = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_HASHES = {"md5": hashlib.md5, "sha-256": hashlib.sha256}


def authorization(
    challenges: Iterable[str], method: str, target: str, user: str, password: str, cnonce: str = ""
) -> str:
    """Return the value of ``Authorization`` for a request; empty if no way of the server's is known.

    Digest is preferred, whose answer has no password in it; Basic has, and is for https or a closed network.

    Args:
        challenges: The values of ``WWW-Authenticate``.
        method: Of the request.
        target: Its path and query.
        user: The user's name.
        password: The user's password.
        cnonce: A random text; for tests.

    Source: RFC 7616, section 3.4; RFC 7617.
    """
    given = list(challenges)
    for challenge in given:
        scheme, _, rest = challenge.strip().partition(" ")
        if scheme.lower() == "digest":
            parts = {name.lower(): quoted or plain for name, quoted, plain in _PART.findall(rest)}
            answer = _digest(parts, (method, target), user, password, cnonce or os.urandom(8).hex())
            if answer:
                return answer
    if any(challenge.strip().lower().startswith("basic") for challenge in given):
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
    return ""


def _digest(parts: dict[str, str], request: tuple[str, str], user: str, password: str, cnonce: str) -> str:
    algorithm = parts.get("algorithm", "MD5")
    new_hash = _HASHES.get(algorithm.lower().removesuffix("-sess"))
    offered = [word.strip() for word in parts.get("qop", "").split(",") if word.strip()]
    if new_hash is None or "nonce" not in parts or (offered and "auth" not in offered):
        return ""

    def hashed(*words: str) -> str:
        return new_hash(":".join(words).encode()).hexdigest()

    realm, nonce = parts.get("realm", ""), parts["nonce"]
    secret = hashed(user, realm, password)
    if algorithm.lower().endswith("-sess"):
        secret = hashed(secret, nonce, cnonce)
    middle = (nonce, "00000001", cnonce, "auth") if offered else (nonce,)
    fields = {
        "username": user,
        "realm": realm,
        "nonce": nonce,
        "uri": request[1],
        "response": hashed(secret, *middle, hashed(*request)),
        **({"opaque": parts["opaque"]} if "opaque" in parts else {}),
    }
    text = ", ".join(f'{name}="{value}"' for name, value in fields.items())
    more = f', qop=auth, nc=00000001, cnonce="{cnonce}"' if offered else ""
    return f"Digest {text}, algorithm={algorithm}{more}"
