"""How commands reach a fleet: ``--fleet URL --token T``, or ``--data DIR`` on the fleet's own machine."""

from __future__ import annotations

import argparse
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from edgekit.core.errors import ConfigError, LinkError, ServerError, UsageError

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 16 << 20
ADDRESS_FILE = "serve.json"
TOKEN_FILE = "admin.token"  # noqa: S105 - a file's name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which fleet."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="the fleet's data folder, on this machine")
    parser.add_argument("--fleet", metavar="URL", help="a running fleet, with --token")
    parser.add_argument("--token", metavar="T", help="an API token, or @FILE that holds one")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the CA of a fleet that speaks HTTPS")


class Remote:
    """A running fleet's API.

    Args:
        url: Its address.
        token: An API token.
        ca: The CA that its certificate must be of; None for those of this machine.
    """

    def __init__(self, url: str, token: str, ca: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"--fleet {url}: want http://host:port or https://host:port")
        try:
            self._tls = ssl.create_default_context(cafile=str(ca)) if ca else None
        except (OSError, ssl.SSLError) as cause:
            raise ConfigError(f"{ca}: {cause}") from cause

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Remote:
        """Return the fleet that a command line names.

        Raises:
            UsageError: It names none, or one that does not run.
        """
        if arguments.fleet:
            if not arguments.token:
                raise UsageError("--fleet needs --token", hint="edgekit-fleet token create --role viewer")
            return cls(arguments.fleet, _text(arguments.token), arguments.ca)
        if not arguments.data:
            raise UsageError("which fleet?", hint="--data DIR on its own machine, or --fleet URL --token T")
        try:
            running = json.loads((arguments.data / ADDRESS_FILE).read_text())
            token = (arguments.data / TOKEN_FILE).read_text().strip()
            return cls(running["url"], token, Path(running["ca"]) if running["ca"] else None)
        except (OSError, ValueError, KeyError) as cause:
            raise UsageError(
                f"no fleet manager runs on {arguments.data}: {cause}",
                hint=f"edgekit-fleet serve --data {arguments.data}",
            ) from cause

    def get(self, path: str, **query: Any) -> Any:
        """Return the decoded answer of ``GET /api/v1/<path>``; None values are left out of the query."""
        given = {key: value for key, value in query.items() if value is not None}
        words = urllib.parse.urlencode(given, doseq=True)
        return self.call("GET", f"{path}?{words}" if words else path)

    def post(self, path: str, body: Any = None) -> Any:
        """Return the decoded answer of ``POST /api/v1/<path>`` with a JSON body."""
        return self.call("POST", path, json.dumps(body if body is not None else {}).encode())

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Return the decoded answer of a request.

        Raises:
            ServerError: The fleet answered with a problem.
            LinkError: It cannot be reached.
        """
        request = urllib.request.Request(  # noqa: S310 - http and https only, checked above
            f"{self.url}/api/v1/{path}",
            data=body,
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls) as answer:  # noqa: S310 - as above
                text = answer.read(MAX_ANSWER_BYTES)
                return json.loads(text) if text else None
        except urllib.error.HTTPError as cause:
            raise _problem(self.url, cause) from cause
        except (OSError, ValueError) as cause:
            raise LinkError(f"{self.url}: {cause}", hint="is the fleet manager running?") from cause


def _problem(url: str, answer: urllib.error.HTTPError) -> ServerError:
    with answer:
        try:
            told = json.loads(answer.read(1 << 16))
            message = told.get("detail") or told["title"]
            return ServerError(
                f"{url}: {message}", reasons=tuple(told.get("reasons", ())), hint=str(told.get("hint", ""))
            )
        except (ValueError, KeyError, AttributeError):
            return ServerError(f"{url}: HTTP {answer.code}")


def _text(given: str) -> str:
    return Path(given[1:]).read_text().strip() if given.startswith("@") else given
