"""A conformance kit for servers of the Open Inference Protocol v2 over HTTP, edgekit's or any other.

    pytest tests/conformance --oip-url http://127.0.0.1:8000 --oip-model relu

It needs pytest alone, and a loaded model of one FP32 input. Without a URL it starts ``edgekit serve``.
"""

import http.client
import json
import struct
import subprocess
import sys
import urllib.parse

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("oip", "Open Inference Protocol")
    group.addoption("--oip-url", help="of the server; by default one of edgekit is started")
    group.addoption("--oip-model", help="a model of one FP32 input")


class Server:
    """One server and one of its models."""

    def __init__(self, url, model):
        self.url, self.model = urllib.parse.urlsplit(url), model

    def ask(self, method, path, body=b"", headers=None):
        """Return status, headers (lower-case) and body of an answer."""
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answered = connection.getresponse()
            told = {name.lower(): value for name, value in answered.getheaders()}
            return answered.status, told, answered.read()
        finally:
            connection.close()

    def get(self, path):
        """Return a document that must be there."""
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    @property
    def path(self):
        """The model's path."""
        return f"/v2/models/{self.model}"

    @property
    def input(self):
        """The metadata of the model's input, with free dimensions set to 1."""
        [row] = self.get(self.path)["inputs"]
        return {**row, "shape": [max(1, length) for length in row["shape"]]}

    def tensor(self, **more):
        """Return the row of a right input, as JSON."""
        row = self.input
        count = 1
        for length in row["shape"]:
            count *= length
        return {**row, "data": [index / 8 for index in range(count)], **more}

    def infer(self, document, path=None):
        """Send a document (or bytes) to be inferred with."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.ask("POST", path or f"{self.path}/infer", body, {"Content-Type": "application/json"})

    def binary(self, tensor, tail=None, length=None, **more):
        """Send one input as binary data; ``tail`` and ``length`` in place of the right ones."""
        values = tensor.pop("data")
        data = struct.pack(f"<{len(values)}f", *values) if tail is None else tail
        tensor.setdefault("parameters", {"binary_data_size": len(data)})
        header = json.dumps({"inputs": [tensor], **more}).encode()
        stated = str(len(header) if length is None else length)
        kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": stated}
        return self.ask("POST", f"{self.path}/infer", header + data, kind)


@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    url = request.config.getoption("--oip-url", default=None)
    if url is not None:
        yield Server(url, request.config.getoption("--oip-model"))
        return
    from pathlib import Path

    import edgekit.backends.tiny

    model = Path(edgekit.backends.tiny.__file__).parent / "relu.onnx"
    command = [sys.executable, "-m", "edgekit.cli.main", "serve", str(model), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "serving at " in line:
                    yield Server(line.split("serving at ")[1].split()[0].rstrip(","), "relu")
                    break
            else:
                raise RuntimeError("edgekit serve did not start")
        finally:
            process.terminate()
