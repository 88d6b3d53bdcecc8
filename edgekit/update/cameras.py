"""Fetches this device's camera list with its passwords from the fleet; for the updater's process only.

The device proves who it is by a signature with its own key. The answer goes over TLS to the fleet's CA and
into a file that only its owner can read.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit.base.disk import LocalDisk
from edgekit.base.files import read_file, replace_file
from edgekit.base.http import Web
from edgekit.core import wire
from edgekit.core.cameras import (
    FETCH_PATH,
    MAX_ANSWER_BYTES,
    CameraRequest,
    decode_list,
    digest,
    request_bytes,
)
from edgekit.core.errors import ConfigError, ServerError
from edgekit.update.contract import Enrolment, fetched_cameras
from edgekit.update.identity import device_key

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def fetch_cameras(state: Path, identity: Enrolment, sha256: str, web: Web) -> None:
    """Store the list with this digest as ``fetched_cameras``.

    Raises:
        ConfigError: The fleet is reached without TLS, so passwords would be readable on the way.
        ServerError: The fleet refused, or has another list by now.
        ProtocolError: The list is malformed, or has what no list may have.
        LinkError: The fleet cannot be reached.
        StorageError: It cannot be stored.
    """
    url = f"{identity.fleet_url.rstrip('/')}{FETCH_PATH}"
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ConfigError(
            "the fleet is reached without TLS, so cameras' passwords would be readable on the way",
            hint="start the fleet manager with --tls on",
        )
    certificate = (read_file(state / "identity" / "device.crt") or b"").decode()
    body = wire.encode(CameraRequest(identity.device, certificate))
    signature = device_key(state).sign(request_bytes(body), ec.ECDSA(hashes.SHA256()))
    request = wire.encode(wire.SignedPart(body, signature))
    status, answer = web.send(
        "POST", url, MAX_ANSWER_BYTES, request, {"Content-Type": "application/octet-stream"}
    )
    if status != 200:
        raise ServerError(f"the fleet gave no camera list: {status} {_detail(answer)}".rstrip())
    if digest(answer) != sha256:
        raise ServerError("the fleet has another camera list by now than its desired state names")
    decode_list(answer, identity.device)
    replace_file(LocalDisk(0o600), fetched_cameras(state), answer)


def _detail(answer: bytes) -> str:
    """Return what a problem document says, if the answer is one."""
    try:
        problem = json.loads(answer)
        return str(problem.get("detail") or problem.get("title") or "")[:500]
    except (ValueError, AttributeError):
        return ""
