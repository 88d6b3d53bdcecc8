"""Who may connect to the embedded broker, and to which topics: NATS asks, the fleet's database decides.

A device's identity is its certificate. It may publish only below its ``up`` and subscribe only to its
``down``. Without TLS (loopback, for tests) the MQTT client id is trusted.

Source: docs.nats.io "Auth Callout"; ADR-26.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from cryptography import x509

from edgekit.core import wire
from edgekit.core.spec import DEVICE_ID
from edgekit_fleet.broker.nkey import AccountKey, read_claims
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.identity.authority import URN

ACCOUNT = "EK"
SUBJECT = "$SYS.REQ.USER.AUTH"
WAIT_S = 10
"""How long the broker waits for an answer; devices wait as long for theirs."""


class Callout:
    """Answers the broker's authorization requests.

    Args:
        key: Signs the answers; the broker's configuration names it as the issuer.
        is_welcome: Whether a device may connect.
        is_barred: Whether a certificate, by its serial number in hexadecimal, is refused whatever it names.
        strangers: Remembers whom the fleet does not know.
        needs_certificate: Whether the listener speaks TLS.
    """

    def __init__(
        self,
        key: AccountKey,
        is_welcome: Callable[[str], bool],
        is_barred: Callable[[str], bool],
        strangers: Strangers,
        *,
        needs_certificate: bool,
    ) -> None:
        self._key = key
        self._is_welcome = is_welcome
        self._is_barred = is_barred
        self._strangers = strangers
        self._needs_certificate = needs_certificate
        self.refused: Counter[str] = Counter()
        """Connections refused, by reason: ``kind``, ``certificate``, ``client_id``, ``device``."""
        self.late = 0
        """Questions answered after the broker had stopped waiting: devices that were turned away because
        this server was busy, and not because of what they are."""

    def answer(self, question: bytes) -> bytes:
        """Return the signed answer to one authorization request.

        Raises:
            SignatureError: The request is not from a NATS server.
        """
        claims = read_claims(question.decode("ascii", "replace"))
        asked: dict[str, Any] = claims["nats"]
        device, refusal = self.decide(asked)
        now_s = int(time.time())
        granted = "" if refusal else self._key.sign(_user(asked["user_nkey"], device), now_s)
        self.late += now_s - int(claims.get("iat", now_s)) > WAIT_S
        body = {"jwt": granted, "error": refusal, "type": "authorization_response", "version": 2}
        answer = {"sub": asked["user_nkey"], "aud": asked["server_id"]["id"], "nats": body}
        return self._key.sign(answer, now_s).encode()

    def decide(self, asked: dict[str, Any]) -> tuple[str, str]:
        """Return (device, "") if the client may connect, else ("", reason); count the reason."""
        client = str(asked.get("client_info", {}).get("mqtt_id", ""))
        device, serial = client, ""
        if self._needs_certificate:
            device, serial = _certified(asked.get("client_tls") or {})
        if asked.get("client_info", {}).get("client_type") not in (None, "mqtt"):
            kind, reason = "kind", "devices connect by MQTT"
        elif not DEVICE_ID.fullmatch(device):
            kind, reason = "certificate", "no certificate of a device"
        elif client != device:  # else it could take over another device's connection
            kind, reason = "client_id", f"client id {client[:64]!r} is not the certificate's {device!r}"
        elif self._is_barred(serial):
            kind, reason = "device", f"{device} was deleted: it must enrol again"
        elif not self._is_welcome(device):
            self._strangers.note(device, time.time_ns() // 1_000_000)
            kind, reason = "device", f"{device} is not enrolled, or is revoked"
        else:
            return device, ""
        self.refused[kind] += 1
        return "", reason


def _certified(tls: dict[str, Any]) -> tuple[str, str]:
    """Return device and serial number of the certificate that the broker verified; empty without one."""
    chains = tls.get("verified_chains") or []
    if not chains or not chains[0]:
        return "", ""
    try:
        certificate = x509.load_pem_x509_certificate(chains[0][0].encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return "", ""
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(URN)]
    return (uris[0].removeprefix(URN), f"{certificate.serial_number:x}") if uris else ("", "")


def _user(user_key: str, device: str) -> dict[str, Any]:
    below = f"ek.v1.{device}"
    return {
        "sub": user_key,
        "aud": ACCOUNT,
        "name": device,
        "nats": {
            "pub": {"allow": [f"{below}.up.>"]},
            "sub": {"allow": [f"{below}.down", f"{below}.down.>"]},
            "subs": 16,
            "data": -1,
            "payload": wire.MAX_MESSAGE_BYTES,
            "type": "user",
            "version": 2,
        },
    }
