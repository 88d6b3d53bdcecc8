"""A real browser for tests, and waiting for what it shows."""

import base64
import contextlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

import httpx

BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
PATIENCE_S = 60.0
GLANCE_S = 1.0
STARTS = 3


def wait_until(claim, what="", patience_s=PATIENCE_S):
    """Wait until a claim holds; what it returned."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        found = claim()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {patience_s} s: {what or claim}")


def missing_browser():
    """Why there is no browser here, or nothing."""
    absent = [path for path in (BROWSER, DRIVER) if not Path(path).exists()]
    return f"no {' and no '.join(absent)}: packaging/system_packages.sh installs them" if absent else ""


class Browser:
    """Chromium through the WebDriver protocol. Source: W3C, "WebDriver"."""

    def __init__(self, folder, *, width=1280, height=1000):
        self.http = httpx.Client(base_url=self._start_driver(), timeout=2 * PATIENCE_S, trust_env=False)
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

    def _start_driver(self):
        """Where it listens. It ends where the free port it chose for IPv4 is another one's on IPv6."""
        said = []
        for _ in range(STARTS):
            self.process = subprocess.Popen(
                [DRIVER, "--port=0"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "TMPDIR": "/tmp"},  # the browser makes a socket there; long paths are none
            )
            for line in self.process.stdout:  # what it says afterwards fits into the pipe
                if match := re.search(r"started successfully on port (\d+)", line):
                    return f"http://127.0.0.1:{match[1]}"
                said.append(line)
            self.process.wait()
            self.process.stdout.close()
        raise AssertionError(f"chromedriver did not start: {''.join(said)}")

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
