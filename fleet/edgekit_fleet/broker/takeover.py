"""Close a device's connection to a broker that has no command for it: connect in its name.

A broker ends a connection when another one begins with the same client id. The fleet's CA issues a
certificate for that moment; key and certificate are in memory alone.

Source: MQTT 3.1.1, [MQTT-3.1.4-2].
"""

from __future__ import annotations

import os
import socket
import ssl

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit.core.errors import LinkError
from edgekit_fleet.identity.authority import Authority

_TIMEOUT_S = 5.0
_ACCEPTED = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"


def take_over(device: str, authority: Authority, host: str, port: int) -> None:
    """Connect as a device and disconnect, and so close the connection that it may have.

    Raises:
        LinkError: The broker does not answer, or refuses.
    """
    try:
        with (
            socket.create_connection((_reachable(host), port), _TIMEOUT_S) as plain,
            _context(device, authority).wrap_socket(plain) as sock,
        ):
            sock.sendall(_connect(device))
            answer = sock.recv(len(_ACCEPTED))
            if answer != _ACCEPTED:
                raise LinkError(f"the broker refuses to close the connection of {device}: {answer.hex()}")
            sock.sendall(_DISCONNECT)
    except OSError as cause:
        raise LinkError(f"the broker cannot close the connection of {device}: {cause}") from cause


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared


def _connect(device: str) -> bytes:
    """Return a CONNECT packet with a clean session and nothing else."""
    name = device.encode("ascii")
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(name).to_bytes(2, "big") + name
    return bytes([0x10, len(body)]) + body  # a device's id has 64 bytes at most


def _context(device: str, authority: Authority) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    context.check_hostname = False  # the certificate's names are those that devices use
    file = os.memfd_create("takeover", os.MFD_CLOEXEC)  # the library reads files only
    try:
        os.write(file, secret + authority.issue(key.public_key(), device).pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context
