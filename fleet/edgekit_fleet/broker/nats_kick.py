"""Close a device's connection to nats-server at once, as its system account may.

One request over NATS's text protocol; the client library is asynchronous, and belongs to ``ingest``.

Source: docs.nats.io "NATS Client Protocol"; "System Events" (``$SYS.REQ.SERVER.<id>.KICK``).
"""

from __future__ import annotations

import socket
import time
from urllib.parse import quote

import msgspec

from edgekit.base.http import Patience, Web
from edgekit.core.errors import LinkError

SYSTEM_USER = "edgekit-system"
_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 4 << 20
_MAX_LINE_BYTES = 64 << 10


class _Connection(msgspec.Struct):
    cid: int


class _Connections(msgspec.Struct):
    server_id: str
    connections: list[_Connection] = []


class NatsKick:
    """Closes connections of MQTT clients.

    Args:
        nats_port: The broker's port for NATS clients, on loopback.
        http_port: The port of its monitoring, on loopback.
        password: The system user's password.
    """

    def __init__(self, nats_port: int, http_port: int, password: str) -> None:
        self._nats_port, self._http_port, self._password = nats_port, http_port, password

    def disconnect(self, client_id: str) -> int:
        """Close every connection of an MQTT client; return how many there were.

        Raises:
            LinkError: The broker does not answer.
        """
        try:
            found = self._connections(client_id)
            if found.connections:
                subject = f"$SYS.REQ.SERVER.{found.server_id}.KICK"
                self._request(subject, [msgspec.json.encode({"cid": one.cid}) for one in found.connections])
        except (OSError, LinkError, msgspec.DecodeError) as cause:
            raise LinkError(f"the broker cannot close the connection of {client_id}: {cause}") from cause
        return len(found.connections)

    def _connections(self, client_id: str) -> _Connections:
        web = Web(None, Patience(time.monotonic() + _TIMEOUT_S, _TIMEOUT_S))
        url = f"http://127.0.0.1:{self._http_port}/connz?mqtt_client={quote(client_id)}"
        return msgspec.json.decode(web.get(url, _MAX_ANSWER_BYTES), type=_Connections)

    def _request(self, subject: str, bodies: list[bytes]) -> None:
        """Send requests and wait for an answer to each; without a place to answer the broker ignores them."""
        login = {"user": SYSTEM_USER, "pass": self._password, "verbose": False, "pedantic": False}
        lines = [b"CONNECT " + msgspec.json.encode(login), b"SUB kicked 1"]
        for body in bodies:
            lines += [f"PUB {subject} kicked {len(body)}".encode(), body]
        answered = 0
        with (
            socket.create_connection(("127.0.0.1", self._nats_port), _TIMEOUT_S) as sock,
            sock.makefile("rb") as answers,
        ):
            sock.sendall(b"\r\n".join([*lines, b""]))
            while answered < len(bodies):
                line = answers.readline(_MAX_LINE_BYTES)
                if not line or line.startswith(b"-ERR"):
                    raise LinkError(
                        f"the broker refuses: {line.decode(errors='replace').strip() or 'closed'}"
                    )
                answered += line.startswith(b"MSG kicked ")
