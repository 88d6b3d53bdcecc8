"""The routes, and who may use them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote

from edgekit.serve.errors import HttpError

# Path ("*" is a model's name, its version is removed before): method: action.
ROUTES: Mapping[tuple[str, ...], Mapping[str, str]] = MappingProxyType(
    {
        ("v2",): {"GET": "server"},
        ("v2", "health", "live"): {"GET": "live"},
        ("v2", "health", "ready"): {"GET": "ready"},
        ("v2", "models", "*"): {"GET": "model"},
        ("v2", "models", "*", "ready"): {"GET": "model_ready"},
        ("v2", "models", "*", "infer"): {"POST": "infer"},
        ("v2", "models", "*", "jobs", "*"): {"GET": "job", "DELETE": "forget_job"},
        ("v2", "models", "*", "config"): {"GET": "config"},
        ("v2", "models", "*", "stats"): {"GET": "stats"},
        ("v2", "models", "*", "trace", "setting"): {"GET": "trace", "POST": "set_trace"},
        ("v2", "models", "stats"): {"GET": "stats"},
        ("v2", "trace", "setting"): {"GET": "trace", "POST": "set_trace"},
        ("v2", "logging"): {"GET": "log", "POST": "set_log"},
        ("v2", "systemsharedmemory", "status"): {"GET": "regions"},
        ("v2", "systemsharedmemory", "unregister"): {"POST": "unregister"},
        ("v2", "systemsharedmemory", "region", "*", "status"): {"GET": "regions"},
        ("v2", "systemsharedmemory", "region", "*", "register"): {"POST": "register"},
        ("v2", "systemsharedmemory", "region", "*", "unregister"): {"POST": "unregister"},
        ("v2", "repository", "index"): {"POST": "index"},
        ("v2", "repository", "models", "*", "load"): {"POST": "load"},
        ("v2", "repository", "models", "*", "unload"): {"POST": "unload"},
        ("metrics",): {"GET": "metrics"},
        ("status",): {"GET": "status"},
    }
)
_OPEN = frozenset({"live", "ready"})


@dataclass(frozen=True)
class Route:
    """The action that a request asks for, and its model."""

    action: str
    model: str = ""
    version: str = ""
    region: str = ""
    job: str = ""
    shadow: str = ""
    """The version that is asked as well, unseen."""


def route(method: str, path: str) -> Route:
    """Return the route of a request; ``path`` is as it was sent, so a name may have a ``/`` in it as %2F.

    >>> route("POST", "/v2/models/door/versions/1.0.0/infer")
    Route(action='infer', model='door', version='1.0.0', region='', job='', shadow='')
    >>> route("POST", "/v2/systemsharedmemory/region/a%2Fb/register").region
    'a/b'

    Raises:
        HttpError: 404: there is no such path. 405: it has no such method.
    """
    parts = [unquote(part) for part in path.rstrip("/").split("/")[1:]]
    model = version = region = job = ""
    if parts == ["v2", "models", "stats"]:
        pass
    elif parts[:2] == ["v2", "models"] and len(parts) >= 3:
        model, parts[2] = parts[2], "*"
        if len(parts) >= 5 and parts[3] == "versions":
            version = parts[4]
            del parts[3:5]
        if len(parts) == 5 and parts[3] == "jobs":
            job, parts[4] = parts[4], "*"
    elif parts[:3] == ["v2", "repository", "models"] and len(parts) == 5:
        model, parts[3] = parts[3], "*"
    elif parts[:3] == ["v2", "systemsharedmemory", "region"] and len(parts) == 5:
        region, parts[3] = parts[3], "*"
    methods = ROUTES.get(tuple(parts))
    if methods is None:
        raise HttpError(404, "there is nothing here; GET /v2 says what is")
    action = methods.get("GET" if method == "HEAD" else method)
    if action is None:
        allowed = ", ".join(methods)
        raise HttpError(405, f"want {allowed}", ((b"allow", allowed.encode()),))
    return Route(action, model, version, region, job)


@dataclass(frozen=True)
class Access:
    """Who may send requests.

    Args:
        token: Required of every request but the health checks; empty for none, which is for loopback
            and UNIX sockets only.
        hosts: Without a token, the names by which a request over TCP may call this server, if not empty:
            a web page in a browser on this machine reaches loopback too, under its own name (DNS
            rebinding) or with its own origin.
    """

    token: str = ""
    hosts: frozenset[str] = frozenset()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of a request that may be sent."""
        return [(b"authorization", b"Bearer " + self.token.encode())] if self.token else []

    def check(self, action: str, headers: Mapping[bytes, bytes], *, is_tcp: bool = True) -> None:
        """Refuse a request that may not be sent.

        Raises:
            HttpError: 401: it has no token, or a wrong one. 403: a web page sent it.
        """
        if self.token:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            is_right = hmac.compare_digest(given.strip(), self.token.encode())
            if action not in _OPEN and not (is_right and scheme.lower() == b"bearer"):
                raise HttpError(
                    401, "want the header Authorization: Bearer TOKEN", ((b"www-authenticate", b"Bearer"),)
                )
            return
        if b"origin" in headers:
            raise HttpError(403, "requests of web pages are refused while no token is set")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if is_tcp and self.hosts and name not in self.hosts:
            raise HttpError(403, f"this server is not called {name[:64]!r}")
