"""A small bundle, a repository on disk, and the registry served over real HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import tarfile
import threading
from types import SimpleNamespace

import uvicorn
from fastapi import FastAPI

from edgekit_fleet.registry.service import RegistryService
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.tokens import Tokens
from edgekit_fleet.web import auth, problems
from edgekit_fleet.web.bus import Bus

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000


def files_of(*, model="motion", version="1.0.0", weights=b"weights" * 1000):
    """Return a bundle's files by path."""
    listed = {"v/model.onnx": weights, "labels.txt": b"still\nmoving\n"}

    def entry(path):
        data = listed[path]
        return {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    manifest = {
        "format": 1,
        "model": model,
        "version": version,
        "task": "sensor",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2]}],
        "labels": "labels.txt",
        "variants": [{"id": "onnx", "backend": "onnxruntime", "files": [entry("v/model.onnx")]}],
        "files": [entry("labels.txt")],
    }
    return {"bundle.json": json.dumps(manifest).encode(), **listed}


def write_folder(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@contextlib.contextmanager
def serving(tokens, *routers):
    """Serve routers on a real socket; gives the URL."""
    app = FastAPI()
    auth.install(app, tokens)
    problems.install(app)
    for router in routers:
        app.include_router(router)
    listener = socket.create_server(("127.0.0.1", 0))
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextlib.contextmanager
def fleet(data):
    """Run a registry over HTTP."""
    data.mkdir(exist_ok=True)
    with contextlib.closing(Database(data / "fleet.sqlite")) as database:
        tokens, registry = Tokens(database), RegistryService(data, database, Bus())
        try:
            with serving(tokens, *registry.routers) as url:
                yield SimpleNamespace(
                    url=url,
                    token=tokens.create("publisher", NOW_MS),
                    tokens=tokens,
                    database=database,
                    registry=registry,
                    repository=registry.repository,
                )
        finally:
            registry.stop()
