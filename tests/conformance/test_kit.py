"""The kit is installed and run as its users do: edgekit passes, and a server that is wrong does not."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import edgekit.backends.tiny

SOURCE = Path(__file__).parents[2] / "conformance"
RELU = Path(edgekit.backends.tiny.__file__).parent / "relu.onnx"


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Install the kit into a folder of its own; return a call that runs it from an empty folder."""
    folder = tmp_path_factory.mktemp("kit")
    shutil.copytree(SOURCE, folder / "source")  # a build leaves files in its source
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "source")], check=True)
    (folder / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "PYTEST_ADDOPTS": ""}

    def run(*arguments):
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            words, cwd=folder / "empty", env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_edgekit_passes_every_case(check, tmp_path):
    command = [sys.executable, "-m", "edgekit.cli.main", "serve", str(RELU), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            line = next(line for line in server.stderr if "serving at " in line)
            code, text = check("--oip-url", line.split("serving at ")[1].split()[0].rstrip(","))
        finally:
            server.terminate()
    assert code == 0, text
    assert "65 passed" in text
    assert "skipped" not in text


class Careless(http.server.BaseHTTPRequestHandler):
    """Answers everything with an inference, also what it should refuse."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
        document = {"name": "m", "version": "1", "extensions": [], "id": "a-7", "model_name": "m"}
        document |= {"inputs": [tensor], "outputs": [{**tensor, "data": [0, 1]}]}
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_nothing_fails_the_hostile_cases_and_passes_the_others(check):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        code, text = check("--oip-url", url, "--oip-model", "m", "-k", "wrong or id_comes or body or binary")
        server.shutdown()
    assert code == 1
    assert "1 passed" in text
    assert int(re.search(r"(\d+) failed", text)[1]) >= 23
    assert "skipped" in text


def test_without_a_url_the_plugin_adds_nothing(check):
    code, text = check()
    assert (code, "no tests ran" in text) == (5, True)
