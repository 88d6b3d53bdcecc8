"""The fleet side of the demonstration: its commands and its REST API, used as anybody would."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from demonstration.processes import Child, children_of, run, wait_for
from edgekit.core.errors import ServerError


class Site:
    """The fleet manager with its embedded broker.

    Args:
        folder: For the fleet's data, the publisher's keys, and logs.
        logs: Folder for logs.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._data, self._keys, self._log = folder / "fleet", folder / "keys", logs / "commands.log"
        command = self._command(
            "serve", "--data", self._data, "--host", "127.0.0.1", "--port", "0", "--broker-port", "0"
        )
        self.child = Child("fleet", command, logs, {})
        self.url = self._token = ""

    def open(self) -> None:
        """Wait until the fleet manager is ready, and make the publisher's keys."""
        ready = self.child.first_line(60)
        self.url = ready["url"]
        self._token = Path(ready["admin_token_file"]).read_text("ascii").strip()
        self.run("keys", "init", "--keys", self._keys, "--data", self._data)

    def _command(self, *words: object) -> list[str]:
        return [str(Path(sys.executable).with_name("edgekit-fleet")), *map(str, words), "--json"]

    def run(self, *words: object) -> dict[str, Any]:
        """Run an ``edgekit-fleet`` command and return its document."""
        return run(self._command(*words), self._log, {})

    def publish(self, bundle: Path) -> None:
        """Sign a bundle with the publisher's keys and upload it."""
        self.run("publish", bundle, "--keys", self._keys, "--fleet", self.url, "--token", self._token)

    def enrolment_token(self, uses: int) -> str:
        """Make a claim that so many devices may enrol with."""
        words = ("token", "create", "--enroll", "--uses", uses, "--data", self._data)
        token: str = self.run(*words)["token"]
        return token

    def roll_out(self, model: str, version: str, *more: object) -> str:
        """Start a rollout and return its id."""
        words = ("rollout", "create", "--model", model, "--version", version, *more)
        document = self.run(*words, "--fleet", self.url, "--token", self._token)
        return str(document["id"])

    def login_url(self) -> str:
        """Return a link that opens the fleet's pages once, without typing a token."""
        url: str = self._ask("login-links", b"{}")["url"]
        return url

    def get(self, path: str) -> dict[str, Any]:
        """Ask the REST API.

        Raises:
            ServerError: It answered with an error, or not at all.
        """
        return self._ask(path, None)

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        """Send a request, a POST where there is a body.

        Raises:
            ServerError: It answered with an error, or not at all.
        """
        request = urllib.request.Request(  # noqa: S310 - the fleet that this process started
            f"{self.url}/api/v1/{path}",
            data=body,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
                document: dict[str, Any] = json.load(answer)
        except (urllib.error.URLError, OSError, ValueError) as cause:
            raise ServerError(f"the fleet did not answer /api/v1/{path}: {cause}") from cause
        return document

    def broker_pid(self) -> int:
        """Return the process of the embedded broker."""
        found = [pid for pid, line in children_of(self.child.process.pid).items() if "nats-server" in line]
        if not found:
            raise ServerError("the fleet has no broker process")
        return found[0]

    def wait_for_broker(self, old: int) -> int:
        """Wait until the fleet has started its broker again."""

        def another() -> int:
            try:
                pid = self.broker_pid()
            except ServerError:
                return 0
            return pid if pid != old else 0

        pid: int = wait_for("the fleet starts its broker again", another, 60)
        return pid

    def stop(self) -> None:
        """Stop the fleet manager and its broker."""
        self.child.stop()
