"""The routes of the page: its files, the list of pipelines, and of each the frames, events and settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from edgekit.core.errors import ConfigError, EdgekitError, UsageError
from edgekit.serve.body import Receive
from edgekit.serve.errors import HttpError, as_http
from edgekit.serve.hosting import Call
from edgekit.serve.siblings import CLIENT, FORWARDED, Siblings
from edgekit.serve.view.clip_file import send_clip
from edgekit.serve.view.feed import Feed
from edgekit.serve.view.login import Login, is_own
from edgekit.serve.view.ports import Told, View

Send = Callable[[MutableMapping[str, Any]], Any]
Headers = tuple[tuple[bytes, bytes], ...]
STATIC = Path(__file__).parent / "static"
_TYPES = {".html": b"text/html; charset=utf-8", ".js": b"text/javascript", ".css": b"text/css"}
_TYPES |= {".svg": b"image/svg+xml"}
_JSON: Headers = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self';"
    b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY: Headers = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
FIGURES_S = 1.0
LOOK_S = 0.1
"""How often a stream looks for new events."""
_BODY_BYTES = 64 << 10
_FRAME = b"application/vnd.edgekit.frame"
"""Four bytes: the length of the JSON, big-endian; the JSON; the rest is the JPEG, empty if none may leave."""


_READS: dict[tuple[str, str], Callable[[View, Mapping[str, list[str]]], Told]] = {
    ("GET", "figures"): lambda view, _: view.figures(),
    ("GET", "shapes"): lambda view, _: view.shapes(),
    ("GET", "clips"): lambda view, query: view.clips(query.get("words", [""])[0]),
}


class Page:
    """Answers ``/`` and what is below ``/page`` for the pipelines of this process.

    Args:
        views: Returns the pipelines of this process by name.
        login: Who may see them.
        siblings: The processes of the other pipelines, behind the same address.
    """

    def __init__(
        self, views: Callable[[], Mapping[str, View]], login: Login, siblings: Siblings | None = None
    ) -> None:
        self._views, self._login, self._siblings = views, login, siblings or Siblings()
        self._answers = siblings is not None
        """Whether models answer at the same address."""
        self._feeds: dict[str, tuple[View, Feed]] = {}
        self._is_closing = False

    def close(self) -> None:
        """Answer whoever waits at the next frame, and end the streams of events; safe from any thread."""
        self._is_closing = True

    def has(self, path: str) -> bool:
        """Return whether a path is the page's."""
        return path == "/" or path.startswith("/page/")

    def lets_ask(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request comes from this page and a visitor who may see it."""
        return self._login.admits(headers) and is_own(headers)

    async def answer(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request whose path is the page's."""
        try:
            await self._route(scope, receive, send)
        except EdgekitError as error:
            is_visitors = isinstance(error, (UsageError, ConfigError))
            await _refuse(send, _bad(error) if is_visitors else as_http(error))
        except HttpError as error:
            await _refuse(send, error)

    async def _route(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        headers, path, method = dict(scope["headers"]), unquote(scope["path"]), scope["method"]
        is_reading = method in ("GET", "HEAD")
        if path == "/page/sign-in" and method == "POST":
            await self._sign_in(headers, receive, send)
        elif is_reading and path.startswith("/page/static/"):
            await _file(send, path.rpartition("/")[2])
        elif path == "/" and is_reading:
            await self._open(headers, scope["query_string"], send)
        elif not self._login.admits(headers):
            raise HttpError(401, "want the link with the token, or sign in at /")
        elif not is_reading and not is_own(headers):
            raise HttpError(403, "this request came from another site")
        elif path == "/page/pipelines" and is_reading:
            names = {*self._views(), *self._siblings.table.pipelines}
            told = {"pipelines": sorted(names), "answers": self._answers}
            await _reply(send, msgspec.json.encode(told), _JSON)
        else:
            await self._pipeline(scope, path, receive, send)

    async def _open(self, headers: Mapping[bytes, bytes], query: bytes, send: Send) -> None:
        """Show the page, or have the visitor sign in; a link with the token becomes a cookie."""
        token = self._login.in_query(query)
        if token is not None and self._login.is_right(token):
            moved = ((b"location", b"/"), self._login.cookie(headers), (b"cache-control", b"no-store"))
            await _reply(send, b"", moved, 303)
        elif self._login.admits(headers):
            await _file(send, "page.html")
        else:
            await _file(send, "sign-in.html", 401)

    async def _sign_in(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        given = parse_qs((await _body(receive)).decode("latin-1")).get("token", [""])[0]
        if not is_own(headers) or not self._login.is_right(given):
            await asyncio.sleep(0.3)  # nobody guesses 16 characters at three tries a second
            await _reply(send, b"", ((b"location", b"/?again"),), 303)
            return
        await _reply(send, b"", ((b"location", b"/"), self._login.cookie(headers)), 303)

    async def _pipeline(self, scope: Mapping[str, Any], path: str, receive: Receive, send: Send) -> None:
        parts, headers = path.split("/")[1:], dict(scope["headers"])
        name = parts[2] if len(parts) == 4 and parts[:2] == ["page", "pipelines"] else ""
        view = self._views().get(name)
        if view is None and name in self._siblings.table.pipelines and FORWARDED not in headers:
            await self._siblings.forward(Call(pipeline=name), scope, receive, send)
            return
        if view is None:
            raise HttpError(404, "there is nothing here; GET / is the page")
        await self._act(view, (scope["method"], parts[3]), scope, receive, send)

    async def _act(
        self, view: View, act: tuple[str, str], scope: Mapping[str, Any], receive: Receive, send: Send
    ) -> None:
        headers, query = dict(scope["headers"]), parse_qs(scope["query_string"].decode("latin-1"))
        client = _client(scope, headers)
        if act == ("GET", "frame"):
            await self._frame(view, _number(query), client, send)
        elif act == ("GET", "events"):
            last = headers.get(b"last-event-id", b"").decode("latin-1")
            await self._stream(view, _number({"after": [last]}) or _number(query), client, receive, send)
        elif act == ("GET", "clip"):
            clip = await asyncio.to_thread(view.clip, query.get("name", [""])[0])
            clip.sent(client, await send_clip(send, clip.path, headers, SECURITY))
        elif act in _READS:
            await _tell(send, await asyncio.to_thread(_READS[act], view, query), client)
        elif act == ("POST", "settings"):
            view.change(_object(await _body(receive)))
            await _tell(send, view.figures(), client)
        elif act == ("POST", "switch"):
            await asyncio.to_thread(view.turn, _object(await _body(receive)))
            await _tell(send, view.figures(), client)
        elif act == ("POST", "shapes"):
            wanted = _object(await _body(receive))
            applies = await asyncio.to_thread(view.save, wanted)
            await _reply(send, msgspec.json.encode({"applies": applies}), _JSON)
        else:
            raise HttpError(405, f"{act[1]!r} does not take {act[0]}")

    async def _frame(self, view: View, after: int, client: str, send: Send) -> None:
        kept = self._feeds.get(view.name)
        if kept is None or kept[0] is not view:
            kept = self._feeds[view.name] = (view, Feed(view, lambda: self._is_closing))
        shown = await kept[1].after(after)
        if shown is None:
            await _reply(send, b"", ((b"cache-control", b"no-store"),))
            return
        head = b'{"number":%d,"frame":%b}' % (shown.number, shown.head)
        body = len(head).to_bytes(4, "big") + head + shown.image
        shown.sent(client, len(body))
        await _reply(send, body, ((b"content-type", _FRAME), (b"cache-control", b"no-store")))

    async def _stream(self, view: View, after: int, client: str, receive: Receive, send: Send) -> None:
        """Send events as they come, and the figures once a second, until the visitor leaves."""
        gone = asyncio.ensure_future(_gone(receive))
        kind = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), *SECURITY)
        await send({"type": "http.response.start", "status": 200, "headers": [*kind]})
        loop, figures_s = asyncio.get_running_loop(), 0.0
        try:
            while not (gone.done() or self._is_closing):
                pieces = []
                for told in view.events(after):
                    after = told.number
                    pieces.append(b"id: %d\nevent: happened\ndata: %b\n\n" % (after, told.body))
                    told.sent(client, len(pieces[-1]))
                if loop.time() >= figures_s:
                    figures_s = loop.time() + FIGURES_S
                    figures = view.figures()
                    pieces.append(b"event: figures\ndata: %b\n\n" % figures.body)
                    figures.sent(client, len(pieces[-1]))
                if pieces:
                    await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
                await asyncio.wait({gone}, timeout=LOOK_S)
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()


def _client(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> str:
    """Return the visitor's address, which the process says that forwards a request over a local socket."""
    if scope.get("client"):
        return str(scope["client"][0])
    return headers.get(CLIENT, b"local socket").decode("latin-1")


def _bad(error: EdgekitError) -> HttpError:
    return HttpError(400, "; ".join((error.one_line(), *error.reasons)))


def _number(query: Mapping[str, list[str]]) -> int:
    given = query.get("after", ["0"])[0]
    return int(given) if given.isdecimal() and len(given) < 16 else 0


def _object(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise HttpError(400, f"the body is not a JSON object: {cause}") from cause


async def _body(receive: Receive) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        data += message.get("body", b"")
        if len(data) > _BODY_BYTES:
            raise HttpError(413, f"the body is too large: at most {_BODY_BYTES} bytes are allowed")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(data)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(send: Send, body: bytes, headers: Headers, status: int = 200) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *SECURITY, length]})
    await send({"type": "http.response.body", "body": body})


async def _tell(send: Send, told: Told, client: str) -> None:
    told.sent(client, len(told.body))
    await _reply(send, told.body, _JSON)


async def _refuse(send: Send, error: HttpError) -> None:
    await _reply(send, msgspec.json.encode({"error": error.message}), (*_JSON, *error.headers), error.status)


async def _file(send: Send, name: str, status: int = 200) -> None:
    path = STATIC / name
    if path.parent != STATIC or path.suffix not in _TYPES or not path.is_file():
        raise HttpError(404, f"there is no {name[:64]!r}")
    cached = b"no-store" if path.suffix == ".html" else b"no-cache"
    await _reply(
        send, path.read_bytes(), ((b"content-type", _TYPES[path.suffix]), (b"cache-control", cached)), status
    )
