"""The ASGI application: Open Inference Protocol v2, metrics and status.

Without a framework: for a dozen routes FastAPI costs 18 MB, 0.5 s of import and 50 us a request.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.base.picture_header import check_image
from edgekit.core.errors import EdgekitError, TensorError
from edgekit.core.spec import version_key
from edgekit.serve.body import Bodies, Body
from edgekit.serve.errors import ClientGoneError, HttpError, as_http, error_body
from edgekit.serve.lane import Awaited
from edgekit.serve.models import Entry, Models
from edgekit.serve.oip import InferRequest, answer, feeds_of, json_tensors, parse_request
from edgekit.serve.ports import Limits, Servable
from edgekit.serve.routes import Access, Route, route
from edgekit.serve.siblings import FORWARDED, PART, Siblings
from edgekit.serve.views import (
    index,
    metrics_document,
    model_document,
    own_part,
    server_document,
    status_document,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_HEADER_LENGTH = b"inference-header-content-length"
_IMAGES = frozenset({b"image/jpeg", b"image/png"})
_SMALL_BYTES = 64 << 10
GONE = 499


@dataclass(frozen=True)
class Reply:
    """A complete answer."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


@dataclass(frozen=True)
class Done:
    """A model's answer, and the seconds that the model took for it."""

    reply: Reply
    infer_s: float


Work = Callable[[Servable], Done]


class App:
    """Answers requests for some models, and has siblings answer those for others.

    Args:
        models: The models of this process.
        access: Who may send requests.
        limits: The bounds.
        version: The server's, in ``/v2``.
        siblings: The other processes behind the same address.
        on_change: Called in the event loop when it begins, and when a request has changed a model's state.
        began_s: The monotonic time of the server's start.
    """

    def __init__(
        self,
        models: Models,
        access: Access,
        limits: Limits,
        version: str,
        siblings: Siblings | None = None,
        on_change: Callable[[], object] = lambda: None,
        began_s: float | None = None,
    ) -> None:
        self.models, self._access, self._limits = models, access, limits
        self.bodies = Bodies(limits)
        self._version = version
        self._siblings, self._on_change = siblings or Siblings(), on_change
        self._began_s = time.monotonic() if began_s is None else began_s

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or the server's lifespan events."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            asked = route(scope["method"], scope["path"])
            headers = dict(scope["headers"])
            self._access.check(asked.action, headers, is_tcp=scope.get("client") is not None)
            row = self._siblings.table.find(asked.model, asked.version)
            if row is not None and not self.models.has(row.name, row.version) and FORWARDED not in headers:
                await self._siblings.forward(row, scope, receive, send)
                return
            reply = await self._answer(asked, headers, scope, receive)
        except ClientGoneError:
            return
        except EdgekitError as error:
            reply = _refusal(as_http(error))
        except HttpError as error:
            reply = _refusal(error)
        length = (b"content-length", str(len(reply.body)).encode())
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, length]}
        )
        await send({"type": "http.response.body", "body": reply.body})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.models.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            self._on_change()
            await send({"type": "lifespan.startup.complete"})

    async def _answer(
        self, asked: Route, headers: Mapping[bytes, bytes], scope: Mapping[str, Any], receive: Receive
    ) -> Reply:
        if asked.action == "infer":
            return await self._infer(asked, headers, receive)
        if asked.action in ("load", "unload"):
            return await self._repository(asked, headers, receive)
        if asked.action == "status" and scope.get("query_string") == PART:
            return _json(own_part(self.models, self.bodies))
        if asked.action in ("index", "ready", "metrics", "status"):
            return await self._whole(asked, headers, receive)
        return self._get(asked)

    async def _whole(self, asked: Route, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        """Answer for the models of every process."""
        given = await self._object(headers, receive) if asked.action == "index" else {}
        parts = await self._siblings.parts(own_part(self.models, self.bodies), self._access.headers())
        if asked.action == "index":
            return _json(index(parts, only_ready=given.get("ready") is True))
        if asked.action == "ready":
            is_ready = all(part.is_ready for part in parts)
            return _json({"ready": is_ready}, 200 if is_ready else 503)
        table = self._siblings.table
        if asked.action == "metrics":
            text = metrics_document(parts, table)
            return Reply(text.encode(), headers=((b"content-type", b"text/plain; version=0.0.4"),))
        pid = os.getppid() if table.rows else os.getpid()
        up_s = round(time.monotonic() - self._began_s, 1)
        return _json(status_document(parts, table, {"version": self._version, "pid": pid, "up_s": up_s}))

    def _get(self, asked: Route) -> Reply:
        if asked.action in ("model", "model_ready"):
            entry = self.models.find(asked.model, asked.version)
            if asked.action == "model":
                rows = self._siblings.table.rows or [entry.offer for entry in self.models]
                versions = [row.version for row in rows if row.name == asked.model]
                return _json(model_document(entry, sorted(versions, key=version_key)))
            ready = {"name": asked.model, "ready": entry.is_ready}
            return _json(ready, 200 if entry.is_ready else 503)
        return _json(server_document(self._version) if asked.action == "server" else {"live": True})

    async def _object(self, headers: Mapping[bytes, bytes], receive: Receive) -> dict[str, Any]:
        with self.bodies.holding() as body:
            data = await body.read(receive, headers, _SMALL_BYTES)
        try:
            return msgspec.json.decode(data or b"{}", type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            raise HttpError(400, f"the body is not a JSON object: {cause}") from cause

    async def _repository(self, asked: Route, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        given = await self._object(headers, receive)
        entry = self.models.find(asked.model)
        if asked.action == "load" and given.get("parameters"):
            raise HttpError(400, "a model is loaded as the command line named it, parameters are refused")
        try:
            await (entry.unload() if asked.action == "unload" else entry.load())
        finally:
            self._on_change()
        return _json({})

    async def _infer(self, asked: Route, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        entry = self.models.find(asked.model, asked.version)
        began_s = time.monotonic()
        status = 500
        try:
            with self.bodies.holding() as body:
                reply = await self._run(entry, await self._read(body, headers, receive), headers, receive)
            status = reply.status
        except ClientGoneError:
            status = GONE
            raise
        except HttpError as error:
            status = error.status
            raise
        except EdgekitError as error:
            status = as_http(error).status
            raise
        finally:
            entry.meter.answered(status)
            entry.meter.stages["total"].add(time.monotonic() - began_s)
        return reply

    async def _read(self, body: Body, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        is_json = _HEADER_LENGTH not in headers and not _content_type(headers).startswith(b"image/")
        most = self._limits.json_bytes if is_json else 0
        try:
            return await body.read(receive, headers, most)
        except HttpError as error:
            if error.status == 413 and is_json:
                raise HttpError(413, f"{error.message} as JSON; send tensors as binary data") from error
            raise

    async def _run(
        self, entry: Entry, body: bytes, headers: Mapping[bytes, bytes], receive: Receive
    ) -> Reply:
        servable = entry.require()
        kind = _content_type(headers)
        if kind.startswith(b"image/"):
            work = self._image_work(entry, servable, kind, body)
            return await _in_lane(entry, work, "predict", 0.0, len(body), receive)
        length = _header_length(headers)
        if (length or 0) > self._limits.json_bytes:
            raise HttpError(
                413, f"the JSON is too large: at most {self._limits.json_bytes} bytes are allowed"
            )
        request = parse_request(body, length, servable.inputs)
        work = _tensor_work(entry, request)
        return await _in_lane(entry, work, "infer", request.timeout_us / 1e6, len(body), receive)

    def _image_work(self, entry: Entry, servable: Servable, kind: bytes, body: bytes) -> Work:
        if kind not in _IMAGES:
            raise HttpError(415, "want image/jpeg, image/png, or an inference request")
        if not servable.takes_images:
            raise HttpError(415, f"model {entry.offer.name!r} does not take images")
        check_image(body, self._limits.pixels)

        def work(servable: Servable) -> Done:
            began_s = time.perf_counter()
            prediction = servable.predict(body)
            took_s = time.perf_counter() - began_s
            document: dict[str, Any] = {
                "model_name": entry.offer.name,
                "model_version": entry.offer.version,
                "variant": servable.variant,
                "task": prediction.task,
                "items": msgspec.to_builtins(prediction.items),
            }
            if prediction.tensors:
                document["tensors"] = json_tensors(prediction.tensors)
            return Done(_json(document), took_s)

        return work


def _tensor_work(entry: Entry, request: InferRequest) -> Work:
    def work(servable: Servable) -> Done:
        feeds = feeds_of(request, servable.inputs, servable.optional_inputs)
        began_s = time.perf_counter()
        outputs = servable.infer(feeds)
        took_s = time.perf_counter() - began_s
        result = answer(request, entry.offer.name, entry.offer.version, outputs)
        if result.header_length is None:
            return Done(Reply(result.body), took_s)
        length = (_HEADER_LENGTH, str(result.header_length).encode())
        return Done(Reply(result.body, headers=(_BINARY, length)), took_s)

    return work


async def _in_lane(
    entry: Entry, work: Work, kind: str, timeout_s: float, size_bytes: int, receive: Receive
) -> Reply:
    """Run work on its model, or give it up when the client hangs up."""
    lane, stages = entry.lane, entry.meter.stages
    bound = functools.partial(entry.run, work)
    done = lane.run_inline(bound, kind)
    if done is None:
        awaited = Awaited(lane, bound, kind, timeout_s, size_bytes)
        watcher = asyncio.get_running_loop().create_task(_watch(receive, awaited))
        try:
            done = await awaited.future
        finally:
            watcher.cancel()
            awaited.end()
            if awaited.entry.began_s:
                stages["queue"].add(awaited.entry.began_s - awaited.entry.queued_s)
    stages["infer"].add(done.infer_s)
    return done.reply


async def _watch(receive: Receive, awaited: Awaited) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    awaited.cancel()


def _json(document: Any, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(document), status)


def _refusal(error: HttpError) -> Reply:
    return Reply(error_body(error.message), error.status, (JSON, *error.headers))


def _content_type(headers: Mapping[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    given = headers.get(_HEADER_LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        raise TensorError("Inference-Header-Content-Length: want a whole number from 0")
    return int(given)
