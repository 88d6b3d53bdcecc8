"""The official clients, unchanged, each in a process of its own: their libraries clash in one."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripted import doubling, served

from edgekit.serve.ports import Limits

CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module", params=[0.0, 0.01], ids=["in its thread", "on the event loop"])
def server(request):
    with served(doubling()[0], limits=Limits(inline_s=request.param)) as running:
        yield running


def run(script, *arguments):
    command = [sys.executable, str(CLIENTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_tritonclient_over_http_and_its_aio_flavour(server):
    ended = run("triton_http.py", server.url.removeprefix("http://"), "double", "2", "4")
    assert (ended.returncode, ended.stdout) == (0, "all of it works\n"), ended.stderr


def test_tritonclient_over_grpc_and_its_streams(server):
    command = [sys.executable, "-m", "edgekit.serve.grpc", "--target", server.url, "--address", "127.0.0.1:0"]
    with subprocess.Popen([*command, "--dies-with-parent"], stderr=subprocess.PIPE, text=True) as gateway:
        try:
            port = gateway.stderr.readline().rsplit(" ", 1)[1].strip()
            ended = run("triton_grpc.py", f"127.0.0.1:{port}", "double")
        finally:
            gateway.terminate()
        assert (ended.returncode, ended.stdout) == (0, "all of it works\n"), ended.stderr
        assert gateway.wait(30) == 0
