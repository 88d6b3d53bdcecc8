"""The pytest plugin: ``--oip-url`` runs the cases against a server, where no test is named."""

from __future__ import annotations

import errno
import http.client
import json
import math
import socket
import ssl
import struct
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest

CASES = "edgekit_conformance.test_open_inference"
_TIMEOUT_S = 60.0
Answer = tuple[int, dict[str, str], bytes]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Define the options."""
    group = parser.getgroup("oip", "Open Inference Protocol")
    group.addoption("--oip-url", metavar="URL", help="check the server at this address")
    group.addoption("--oip-model", metavar="M", help="a model of one FP32 input; else one of the index")
    group.addoption("--oip-token", metavar="T", help="sent as 'Authorization: Bearer T'")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run the cases where the command line names a server, and no tests."""
    if config.getoption("oip_url") and config.args_source is not config.ArgsSource.ARGS:
        config.args, config.option.pyargs = [CASES], True


class Server:
    """One server and one of its models.

    Args:
        url: Where it answers; a path stands before ``/v2``.
        model: The model's name; empty: the first of its index that takes one FP32 tensor.
        token: Sent with each request, unless it is empty.
    """

    def __init__(self, url: str, model: str, token: str = "") -> None:
        self.url = urllib.parse.urlsplit(url)
        self._own = {"Authorization": f"Bearer {token}"} if token else {}
        self.model = model or self._first_model()

    def _first_model(self) -> str:
        status, _, body = self.ask("POST", "/v2/repository/index", b"{}")
        names = [row["name"] for row in json.loads(body)] if status == 200 else []
        for name in names:
            status, _, body = self.ask("GET", f"/v2/models/{name}")
            inputs = json.loads(body).get("inputs", []) if status == 200 else []
            if [row["datatype"] for row in inputs] == ["FP32"]:
                return str(name)
        raise pytest.UsageError(
            f"no model of one FP32 input is in the index ({', '.join(names)}): give --oip-model"
        )

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return status, headers (lower-case) and body of an answer."""
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.url.hostname or "localhost", self.url.port, timeout=_TIMEOUT_S)
        try:
            path = self.url.path.rstrip("/") + path
            connection.request(method, path, body=body, headers={**self._own, **(headers or {})})
            answered = connection.getresponse()
            named = {name.lower(): value for name, value in answered.getheaders()}
            return answered.status, named, answered.read()
        finally:
            connection.close()

    def send(self, data: bytes) -> bytes:
        """Send bytes on a connection, end it, and return what came before the server ended it too."""
        port = self.url.port or (443 if self.url.scheme == "https" else 80)
        received = b""
        with socket.create_connection((self.url.hostname or "localhost", port), _TIMEOUT_S) as plain:
            connection = plain
            if self.url.scheme == "https":
                connection = ssl.create_default_context().wrap_socket(
                    plain, server_hostname=self.url.hostname
                )
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(1 << 16):
                    received += piece
            except OSError as error:  # a server may end a connection that makes no sense
                if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                    raise
        return received

    def get(self, path: str) -> Any:
        """Return a document that must be there."""
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    @property
    def path(self) -> str:
        """The model's path."""
        return f"/v2/models/{self.model}"

    @property
    def input(self) -> dict[str, Any]:
        """The metadata of the model's input, with free dimensions set to 1."""
        [row] = self.get(self.path)["inputs"]
        return {**row, "shape": [max(1, length) for length in row["shape"]]}

    def tensor(self, **more: Any) -> dict[str, Any]:
        """Return the row of a right input, as JSON."""
        row = self.input
        return {**row, "data": [index / 8 for index in range(math.prod(row["shape"]))], **more}

    def infer(self, document: Any, path: str = "") -> Answer:
        """Send a document (or bytes) to be inferred with."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.ask("POST", path or f"{self.path}/infer", body, {"Content-Type": "application/json"})

    def binary(
        self, tensor: dict[str, Any], tail: bytes | None = None, length: Any = None, **more: Any
    ) -> Answer:
        """Send one input as binary data; ``tail`` and ``length`` in place of the right ones."""
        values = tensor.pop("data")
        data = struct.pack(f"<{len(values)}f", *values) if tail is None else tail
        tensor.setdefault("parameters", {"binary_data_size": len(data)})
        header = json.dumps({"inputs": [tensor], **more}).encode()
        stated = str(len(header) if length is None else length)
        kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": stated}
        return self.ask("POST", f"{self.path}/infer", header + data, kind)


@pytest.fixture(scope="session")
def oip(request: pytest.FixtureRequest) -> Server:
    """The server that ``--oip-url`` names."""
    option = request.config.getoption
    if not option("oip_url"):
        raise pytest.UsageError("give --oip-url, the address of the server to check")
    return Server(option("oip_url"), option("oip_model") or "", option("oip_token") or "")
