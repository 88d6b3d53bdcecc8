"""A fleet manager over HTTP, as publishers and the command line see it."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.base.failures import Failure, error_of
from edgekit.base.http import certificate_error
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
            tls = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except (OSError, ssl.SSLError) as cause:
            raise ConfigError(f"{ca}: {cause}") from cause
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )

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
            LinkError: The fleet cannot be reached.
            EdgekitError: It refused the request, with the class that its answer names.
        """
        request = urllib.request.Request(  # noqa: S310 - http and https only, checked above
            self.url + path, data=body, method=method, headers=dict(headers or {})
        )
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                data = answer.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as refused:
            with refused:
                raise refusal(refused.code, refused.read(1 << 16), self.url + path) from refused
        except (OSError, http.client.HTTPException) as cause:
            reason = getattr(cause, "reason", None) or cause
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise certificate_error(self.url, reason) from cause
            raise LinkError(f"{self.url}: {reason}", hint="is the fleet manager running there?") from cause
        if len(data) > MAX_ANSWER_BYTES:
            raise ProtocolError(f"{self.url}{path}: the answer has more than {MAX_ANSWER_BYTES} bytes")
        return Reply(answer.status, data)

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
