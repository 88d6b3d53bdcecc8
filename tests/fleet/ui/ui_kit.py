"""A fleet with its web UI on a real socket, devices that say what a test lets them, and a browser."""

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import uvicorn
from fleet_kit import composed, wait_until
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

BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
PATIENCE_S = 60.0
GLANCE_S = 1.0


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


def missing_browser():
    """Why there is no browser here, or nothing."""
    absent = [path for path in (BROWSER, DRIVER) if not Path(path).exists()]
    return f"no {' and no '.join(absent)}: packaging/system_packages.sh installs them" if absent else ""


class Browser:
    """Chromium through the WebDriver protocol. Source: W3C, "WebDriver"."""

    def __init__(self, folder, *, width=1280, height=1000):
        self.process = subprocess.Popen(
            [DRIVER, "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TMPDIR": "/tmp"},  # the browser makes a socket there; long paths are none
        )
        self.http = httpx.Client(base_url=self._told_url(), timeout=2 * PATIENCE_S, trust_env=False)
        wait_until(self._is_ready, "chromedriver")
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--metrics-recording-only",
            "--no-proxy-server",
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
        ]
        options = {"binary": BROWSER, "args": arguments}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        answer = self.http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()
        assert "sessionId" in answer["value"], answer
        self.session = f"/session/{answer['value']['sessionId']}"
        self.logged = []

    def _told_url(self):
        """Where the driver says that it listens; what it says afterwards fits into the pipe."""
        for line in self.process.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                return f"http://127.0.0.1:{match[1]}"
        raise AssertionError("chromedriver did not start")

    def _is_ready(self):
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/status").json()["value"]["ready"]
        return False

    def _ask(self, path, **body):
        """What the driver answers, and the name of its error if that is one."""
        answer = self.http.post(f"{self.session}/{path}", json=body).json()["value"]
        return answer, answer["error"] if isinstance(answer, dict) and "error" in answer else ""

    def call(self, path, **body):
        answer, error = self._ask(path, **body)
        assert not error, answer
        return answer

    def open(self, url):
        self.call("url", url=url)

    def run(self, script):
        """What a script returns; it may await."""
        text = (
            "const done = arguments[arguments.length - 1];"
            f"(async () => {{ {script} }})().then(done, e => done('' + e))"
        )
        self.call("timeouts", script=int(PATIENCE_S * 1000))
        return self.call("execute/async", script=text, args=[])

    def holds(self, expression):
        """Wait until a script's expression is true."""
        wait_until(lambda: self.run(f"return {expression}") is True, expression)

    def text(self, selector):
        return self.run(f"return document.querySelector({json.dumps(selector)})?.textContent.trim()")

    def until(self, selector, contains):
        """Wait, by what the page itself tells, until an element's text contains something.

        A page that is being left takes its script along unanswered, frozen in the browser's
        back/forward cache: the question is then put to the page that came.
        """
        script = (
            f"const [selector, wanted, done] = [...{json.dumps([selector, contains])}, arguments[0]];"
            """
            const holds = () => [...document.querySelectorAll(selector)]
              .some((one) => one.textContent.includes(wanted));
            if (holds()) return done(true);
            new MutationObserver(() => holds() && done(true)).observe(document.documentElement,
              {subtree: true, childList: true, characterData: true, attributes: true});
            """
            f"setTimeout(() => done(holds()), {GLANCE_S * 1000});"
        )
        self.call("timeouts", script=int(2 * GLANCE_S * 1000))
        deadline = time.monotonic() + PATIENCE_S
        answer = None
        while answer is not True and time.monotonic() < deadline:
            answer, error = self._ask("execute/async", script=script, args=[])
            assert error in ("", "script timeout", "javascript error"), answer
        assert answer is True, (selector, contains, self.text("main"))

    def click(self, selector):
        self._act(selector, "click")

    def type(self, selector, text):
        self._act(selector, "value", text=text)

    def _act(self, selector, act, **body):
        """Act on the element that is there; a live page may put another in its place meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer, error = self._ask("element", using="css selector", value=selector)
            if not error:
                answer, error = self._ask(f"element/{next(iter(answer.values()))}/{act}", **body)
            if not error:
                return
            assert error in ("no such element", "stale element reference"), answer
            assert time.monotonic() < deadline, answer

    def complaints(self):
        """What the browser logged so far: script errors, policy violations, failed requests."""
        self.logged += [one["message"] for one in self.call("se/log", type="browser")]
        return self.logged

    def requested(self):
        """Every URL that the page asked for."""
        return self.run("return performance.getEntriesByType('resource').map(one => one.name)")

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.http.get(f"{self.session}/screenshot").json()["value"]))

    def resize(self, width, height):
        """Be a screen of this size, however small."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)

    def prefer(self, scheme):
        """Prefer ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": features})

    def without_scripts(self):
        self.call("goog/cdp/execute", cmd="Emulation.setScriptExecutionDisabled", params={"value": True})

    def close(self):
        self.http.delete(self.session)
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()
        self.http.close()
