"""A fleet manager over HTTP, as publishers and the command line see it."""

from __future__ import annotations

import json
import math
import ssl
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.base.failures import Failure, error_of
from edgekit.base.http import Patience, Web
from edgekit.base.tls import trusting
from edgekit.core.errors import ConfigError, EdgekitError, LinkError, ProtocolError, ServerError
from edgekit_fleet.registry.keys import OnlinePublic

MAX_ANSWER_BYTES = 16 << 20
_TIMEOUT_S = 60.0
_MAX_TEXT = 2000


@dataclass(frozen=True)
class Reply:
    """A fleet's answer with a status below 400."""

    status: int
    body: bytes


class FleetClient:
    """Sends requests to one fleet manager; a refusal is raised as the error class that the answer names.

    Args:
        url: Its address, ``http://`` or ``https://``; proxies of the environment are not used.
        token: An API token; empty where none is needed.
        ca: The CA of its HTTPS certificate; None for the system's CAs.

    Raises:
        ConfigError: The address or the CA is not valid.
    """

    def __init__(self, url: str, token: str = "", ca: Path | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is not a fleet's address", hint="want http://HOST:PORT or https://")
        self.url, self._token = url.rstrip("/"), token
        try:
            tls = trusting(ca)
        except (OSError, ssl.SSLError) as cause:
            raise ConfigError(f"{ca}: {cause}") from cause
        self._web = Web(None, Patience(math.inf, _TIMEOUT_S), tls, _TIMEOUT_S)

    def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and return the answer.

        Raises:
            LinkError: The fleet cannot be reached, or its answer is too long.
            TrustError: Its certificate is not accepted.
            EdgekitError: It refused the request, with the class that its answer names.
        """
        token = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            status, data = self._web.send(
                method, self.url + path, MAX_ANSWER_BYTES, body, {**(headers or {}), **token}
            )
        except LinkError as error:
            raise LinkError(error.message, hint="is the fleet manager running there?") from error
        if status >= 300:
            raise refusal(status, data, self.url + path)
        return Reply(status, data)

    def json(self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None) -> Any:
        """Send one request, with a JSON body if any, and return the JSON of the answer.

        Raises:
            LinkError: The fleet cannot be reached.
            ProtocolError: The answer is not JSON: the server there is not a fleet manager.
            EdgekitError: It refused the request.
        """
        query = {key: value for key, value in (params or {}).items() if value}
        reply = self.send(
            method,
            f"{path}?{urllib.parse.urlencode(query)}" if query else path,
            body=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            return json.loads(reply.body)
        except ValueError as cause:
            raise ProtocolError(f"{self.url}{path}: the answer is not JSON") from cause


class RemoteRegistry:
    """The registry of a fleet manager that is reached over HTTP."""

    def __init__(self, client: FleetClient) -> None:
        self._client = client

    def online_keys(self) -> OnlinePublic:
        """Return the public halves of the keys that the fleet signs with."""
        keys = self._client.json("GET", "/api/v1/registry/keys")
        try:
            return OnlinePublic(keys["snapshot"], keys["timestamp"], keys["desired"])
        except (KeyError, TypeError) as cause:
            raise ProtocolError(f"{self._client.url}: its keys are not as expected") from cause

    def metadata(self, role: str, version: int | None = None) -> bytes | None:
        """Return a version of a role's metadata, or the newest; None where there is none."""
        which = "" if version is None else f"?version={version}"
        reply = self._client.send("GET", f"/api/v1/registry/metadata/{role}{which}")
        return reply.body if reply.status == 200 else None

    def missing(self, blobs: Sequence[tuple[str, int]]) -> list[str]:
        """Return which blobs the fleet lacks."""
        asked = [{"sha256": sha256, "bytes": size} for sha256, size in blobs]
        answer = self._client.json("POST", "/api/v1/registry/missing", {"blobs": asked})
        known = {sha256 for sha256, _ in blobs}
        return [str(sha256) for sha256 in answer["missing"] if sha256 in known]

    def upload(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Send a blob."""
        self._client.send(
            "PUT",
            f"/api/v1/registry/blobs/{sha256}",
            body=chunks,
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
        )

    def fit(self, model: str, version: str) -> Any:
        """Return the number of ``devices`` with known hardware, how many are ``unfit``, and ``reasons``."""
        return self._client.json("GET", "/api/v1/rollouts/fit", params={"model": model, "version": version})

    def submit(self, roots: Sequence[bytes], targets: bytes) -> Any:
        """Submit new roots, if any, and a new targets version."""
        body = {"roots": [root.decode() for root in roots], "targets": targets.decode()}
        return self._client.json("POST", "/api/v1/bundles", body)


def refusal(status: int, body: bytes, what: str) -> EdgekitError:
    """Return the error for a fleet's refusal; the ``code`` of a problem+json document names the class."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return ServerError(f"{what}: status {status}: {body[:_MAX_TEXT].decode(errors='replace')}")
    reasons = problem.get("reasons")
    message = str(problem.get("detail") or problem.get("title") or f"status {status}")
    failure = Failure(
        code=str(problem.get("code", "")),
        message=message[:_MAX_TEXT],
        reasons=tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else (),
        hint=str(problem.get("hint", "")),
    )
    return error_of(failure, ServerError)
