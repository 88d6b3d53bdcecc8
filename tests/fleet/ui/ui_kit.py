"""A fleet with its web UI on a real socket, and devices that say what a test lets them."""

import asyncio
import contextlib
import socket
import threading
import time

import httpx
import uvicorn
from fleet_kit import composed
from registry_parts import files_of, write_folder

from edgekit.core import wire
from edgekit.core.sketch import Histogram
from edgekit.core.spec import AcceleratorFact, BackendFact, Facts
from edgekit_fleet.app.application import create_app
from edgekit_fleet.ingest.intake import Message
from edgekit_fleet.registry import publisher
from edgekit_fleet.registry.bundle import read_bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.store.sessions import Sessions
from edgekit_fleet.ui import signin

PATIENCE_S = 60.0


def now_ms():
    return time.time_ns() // 1_000_000


class Device:
    """One device; what it says goes the way that messages of a broker go."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.conn, self.version, self.seq = 0, 0, 1
        lab.services.devices.enroll(name, now_ms(), None)
        lab.services.bus.publish("device", {"device": name, "enrolled": True})

    def say(self, leaf, message):
        self.lab.fleet.intake.take([Message(wire.up(self.name, leaf), wire.encode(message), now_ms())])

    def appears(self, online=True, profile="raspberry-pi-5"):
        self.conn += online
        facts = Facts(
            arch="aarch64",
            board="Raspberry Pi 5 Model B",
            cpu="Cortex-A76",
            cores=4,
            memory_mb=8063,
            accelerators=(AcceleratorFact(kind="edgetpu", name="Coral USB", reason="no driver is bound"),),
        )
        proved = (
            BackendFact(name="litert", version="2.1.6", works=True, ms=0.31),
            BackendFact(name="onnxruntime", version="1.20.0", works=True, ms=0.4),
            BackendFact(name="openvino", reason="the package is not installed"),
        )
        self.say(
            "state",
            wire.Birth(
                online=online,
                boot="b",
                conn=self.conn,
                agent="0.1.0",
                profile=profile,
                hardware=facts,
                backends=proved,
                clock="synced",
            ),
        )
        return self

    def reports(self, active="1.0.0", state="running", **more):
        self.version += 1
        model = wire.ModelState(
            active=active,
            variant="onnx",
            backend="onnxruntime",
            accelerator="cpu",
            why="measured 3.1 ms here; edgetpu: no driver is bound",
            **more.pop("model", {}),
        )
        self.say(
            "reported",
            wire.Reported(
                boot="b",
                version=self.version,
                desired=0,
                models={"motion": model},
                pipelines={"gate": wire.PipelineState(state=state, model="motion", version=active)},
                **more,
            ),
        )
        return self

    def measures(self, infer_ms=3.0, version="1.0.0", age_s=0.0, frames=300, errors=0, **sensors):
        histogram = Histogram()
        for number in range(50):
            histogram.add(infer_ms * (1 + number / 100))
        at_ms = now_ms() - int(age_s * 1000)
        self.durable(
            wire.MetricReport(
                mono_ns=1,
                unix_ms=at_ms,
                pipeline="gate",
                model="motion",
                version=version,
                variant="onnx",
                period_s=10.0,
                frames=frames,
                errors=errors,
                infer_ms=histogram.to_wire(),
                sensors=sensors,
            )
        )
        return self

    def durable(self, *records):
        self.say("ev", wire.Batch(boot="b", seq0=self.seq, items=list(records)))
        self.seq += len(records)

    def alerts(self, message, level="warning"):
        self.durable(
            wire.Alert(mono_ns=1, unix_ms=now_ms(), level=level, code="camera.lost", message=message)
        )

    def updates(self, rollout, event, version="2.0.0", **more):
        state = "TRIAL" if event not in {"COMMITTED", "ROLLED_BACK", "REJECTED"} else "IDLE"
        self.durable(
            wire.UpdateRecord(
                mono_ns=1,
                unix_ms=now_ms(),
                model="motion",
                version=version,
                state=state,
                event=event,
                rollout=rollout,
                **more,
            )
        )


class LiveGate:
    """The application, whose stream of changes waits while a test holds the gate shut."""

    def __init__(self, app):
        self.app, self.is_open = app, True

    async def __call__(self, scope, receive, send):
        while scope.get("path") == "/live" and not self.is_open:  # noqa: ASYNC110 - opened by a thread
            await asyncio.sleep(0.01)
        await self.app(scope, receive, send)


class Lab:
    """A fleet manager in this process with all but its broker, served over HTTP."""

    def __init__(self, fleet, folder, url, live):
        self.fleet, self.services, self.folder, self.url = fleet, fleet.services, folder, url
        self.live = live
        self.admin_token = fleet.admin_token_file.read_text().strip()

    def device(self, name):
        return Device(self, name)

    def publish(self, version, **more):
        repository = self.services.registry.repository
        keys = self.folder / "publisher"
        if not keys.exists():
            publisher.install_root(
                Keyring.make(keys, repository.online_keys(), now_ms()), repository, now_ms()
            )
        folder = write_folder(self.folder / f"bundle-{version}", files_of(version=version, **more))
        publisher.publish(
            read_bundle(folder), Keyring(keys), repository, now_ms(), lambda _done, _total: None
        )

    def token(self, role):
        return self.services.tokens.create(role, now_ms())

    def link(self, token=None):
        sessions = Sessions(self.services.database)
        return signin.link(self.services.tokens, sessions, self.url, token or self.admin_token)

    @contextlib.contextmanager
    def visitor(self, role="admin"):
        """An HTTP client that is signed in as a browser is."""
        with httpx.Client(base_url=self.url, headers={"Origin": self.url}) as client:
            assert client.get(self.link(self.token(role))).status_code == 200
            yield client


@contextlib.contextmanager
def lab(folder):
    with composed(folder) as fleet:
        app = LiveGate(create_app(fleet.services))
        listener = socket.create_server(("127.0.0.1", 0))
        started = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets=None):
                await super().startup(sockets)
                started.set()

        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=2
        )
        server = Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert started.wait(PATIENCE_S)
        try:
            yield Lab(fleet, folder, f"http://127.0.0.1:{listener.getsockname()[1]}", app)
        finally:
            app.is_open = True
            fleet.services.bus.close()
            server.should_exit = True
            thread.join(PATIENCE_S)
            listener.close()
