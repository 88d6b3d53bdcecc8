"""The ASGI application: Open Inference Protocol v2, metrics and status.

Without a framework: for a dozen routes FastAPI costs 18 MB, 0.5 s of import and 50 us a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.core.errors import EdgekitError
from edgekit.core.spec import version_key
from edgekit.serve.body import Bodies
from edgekit.serve.errors import ClientGoneError, HttpError, as_http
from edgekit.serve.hosting import Call
from edgekit.serve.inference import Inference
from edgekit.serve.jobs import Jobs
from edgekit.serve.lane import Asked
from edgekit.serve.models import READY, Entry, Models
from edgekit.serve.ports import Limits
from edgekit.serve.reply import Reply, json_reply, refusal
from edgekit.serve.repository import change
from edgekit.serve.routes import Access, Route, route
from edgekit.serve.settings import Traces, log_settings, set_log
from edgekit.serve.shadow import Shadows
from edgekit.serve.shared_memory import Regions
from edgekit.serve.siblings import CLIENT, FORWARDED, PART, Siblings, is_local
from edgekit.serve.traffic import Turns
from edgekit.serve.views import (
    config_document,
    index,
    metrics_document,
    model_document,
    own_part,
    server_document,
    statistics_document,
    status_document,
)

if TYPE_CHECKING:
    from edgekit.serve.view.page import Page

logger = logging.getLogger(__name__)
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_SMALL_BYTES = 64 << 10
_TARGETS = 64
_WHOLE = frozenset({"index", "ready", "metrics", "status", "stats"})
_OF_ALL_VERSIONS = frozenset({"load", "unload"})
_CONTROLS = frozenset({"set_log", "set_trace", "register", "unregister"})


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
        page: What a browser sees of the pipelines, with a login of its own.
        jobs: A folder for requests that are answered later; None: all are answered at once.
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
        page: Page | None = None,
        jobs: Path | None = None,
    ) -> None:
        self.models, self._access, self._limits = models, access, limits
        self.bodies = Bodies(limits)
        self._version = version
        self._siblings, self._on_change, self._page = siblings or Siblings(), on_change, page
        self._began_s = time.monotonic() if began_s is None else began_s
        self._regions, self._traces = Regions(limits.body_bytes), Traces()
        self._inference = Inference(limits, self.bodies, self._regions, self._traces)
        self._jobs = Jobs(jobs, models, self.bodies, self._later, self._everywhere) if jobs else None
        self._turns, self._shadows = Turns(), Shadows(self._siblings, access.headers)
        self._known: dict[bytes, Entry | None] = {}
        self._known_for: tuple[object, object] = (None, None)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or the server's lifespan events."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._page is not None and self._page.has(scope["path"]):
            await self._page.answer(scope, receive, send)
            return
        try:
            headers = dict(scope["headers"])
            asked = self._shared(route(scope["method"], scope["raw_path"].decode("latin-1")), headers)
            if not (asked.action == "infer" and self._page and self._page.lets_ask(headers)):
                self._access.check(asked.action, headers, is_tcp=scope.get("client") is not None)
            row = self._siblings.table.find(asked.model, asked.version)
            is_one = FORWARDED not in headers and asked.action not in _OF_ALL_VERSIONS
            if is_one and row is not None and not self.models.has(row.name, row.version):
                await self._siblings.forward(Call(row.name, row.version), scope, receive, send)
                return
            if CLIENT not in headers and scope.get("client"):
                headers[CLIENT] = scope["client"][0].encode()
            reply = await self._answer(asked, headers, scope, receive)
        except ClientGoneError:
            return
        except EdgekitError as error:
            reply = refusal(as_http(error))
        except HttpError as error:
            reply = refusal(error)
        length = (b"content-length", str(len(reply.body)).encode())
        await send(
            {"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, length]}
        )
        await send({"type": "http.response.body", "body": reply.body})

    def _shared(self, asked: Route, headers: Mapping[bytes, bytes]) -> Route:
        """Choose the version of a request that names none, where versions share them."""
        table = self._siblings.table
        traffic = table.traffic_of(asked.model) if asked.action == "infer" and not asked.version else None
        if traffic is None:
            return asked
        if FORWARDED in headers:  # it is this process's turn
            version = headers[FORWARDED].decode("latin-1")
            version = version if self.models.has(asked.model, version) else ""  # it was updated meanwhile
            return replace(asked, version=version, shadow=traffic.shadow)
        rows = [row for row in table.rows if row.name == asked.model]
        ready = {row.version for row in rows if row.state == READY and row.is_answering}
        version = self._turns.next(traffic, ready)
        if not any(row.version == version for row in rows):
            names = ", ".join(traffic.shares)
            message = (
                f"model {asked.model!r} is not ready: no version with a share of its requests is ({names})"
            )
            raise HttpError(503, message, ((b"retry-after", b"1"),))
        return replace(asked, version=version, shadow=traffic.shadow)

    def takes(self, target: bytes, headers: Mapping[bytes, bytes], client: tuple[str, int] | None) -> bool:
        """Return whether a POST may be sent, and ``ask`` answers it: where no answers are kept."""
        entry = self._entry_at(target)
        if entry is None or entry.cache is not None or (self._jobs and _is_for_later(headers)):
            return False
        try:
            self._access.check("infer", headers, is_tcp=client is not None)
        except HttpError:
            return False
        return True

    def ask(
        self,
        target: bytes,
        headers: dict[bytes, bytes],
        client: tuple[str, int] | None,
        body: bytes,
        on_end: Callable[[Reply | None], object],
    ) -> Asked | Reply | None:
        """Queue an inference request; return its refusal at once, None where the model has gone.

        Args:
            target: Of the request line.
            headers: The request's, lower-case; ``takes`` was True for them.
            client: Its address, None for a UNIX socket.
            body: The whole body.
            on_end: Called in the event loop with the answer; with None where its client gave it up, or where
                it ended in a bug.
        """
        entry = self._entry_at(target)
        if entry is None:
            return None
        local = is_local(client, headers)
        if client and CLIENT not in headers:
            headers[CLIENT] = client[0].encode()

        def ended(result: Reply | BaseException) -> None:
            on_end(result if isinstance(result, Reply) else _reply_to(result))

        try:
            return self._inference.ask(entry, headers, body, ended, is_local=local)
        except EdgekitError as error:
            return refusal(as_http(error))
        except HttpError as error:
            return refusal(error)

    def _entry_at(self, target: bytes) -> Entry | None:
        """Return the model of this process that a target names; None where that has to be found out."""
        table, entries = self._siblings.table, self.models.entries
        if self._known_for[0] is not table or self._known_for[1] is not entries:
            self._known_for, self._known = (table, entries), {}
        if target not in self._known and len(self._known) < _TARGETS:
            self._known[target] = self._find(target)
        return self._known.get(target)

    def _find(self, target: bytes) -> Entry | None:
        try:
            asked = route("POST", target.decode("ascii"))
            named = [each for each in self.models if each.offer.name == asked.model]
            row = self._siblings.table.find(asked.model, asked.version)
        except (HttpError, UnicodeDecodeError):
            return None
        if asked.action != "infer" or (row and not self.models.has(row.name, row.version)):
            return None
        if not asked.version and self._siblings.table.traffic_of(asked.model):
            return None  # the versions take turns
        if asked.version:
            named = [each for each in named if each.offer.version == asked.version]
        return named[0] if len(named) == 1 else None  # of two, which one answers changes

    async def _later(self, entry: Entry, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        return await self._inference.answer(entry, headers, receive, is_local=False)

    def _everywhere(self) -> set[tuple[str, str]]:
        rows = self._siblings.table.rows or [entry.offer for entry in self.models]
        return {(row.name, row.version) for row in rows}

    async def _live(self, receive: Receive, send: Send) -> None:
        running = asyncio.ensure_future(self._jobs.run()) if self._jobs is not None else None
        if running is not None:
            running.add_done_callback(_require_no_bug)
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                if running is not None:
                    running.cancel()
                await self.models.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            self._on_change()
            await send({"type": "lifespan.startup.complete"})

    async def _answer(
        self, asked: Route, headers: Mapping[bytes, bytes], scope: Mapping[str, Any], receive: Receive
    ) -> Reply:
        if asked.action == "infer" or asked.job:
            return await self._infer(asked, headers, scope, receive)
        if asked.action in _OF_ALL_VERSIONS:
            return await self._repository(asked, headers, receive)
        if asked.action in _CONTROLS:
            return await self._control(asked, headers, scope, receive)
        if asked.action == "status" and scope.get("query_string") == PART:
            return json_reply(own_part(self.models, self.bodies))
        if asked.action in _WHOLE:
            return await self._whole(asked, headers, receive)
        return self._get(asked)

    async def _infer(
        self, asked: Route, headers: Mapping[bytes, bytes], scope: Mapping[str, Any], receive: Receive
    ) -> Reply:
        """Answer a request for inference, now or later, or one for a job of before."""
        jobs = self._jobs
        if asked.job and jobs is None:
            raise HttpError(404, "this server keeps no jobs: requests are answered at once")
        if asked.job and jobs is not None:
            act = jobs.find if asked.action == "job" else jobs.forget
            return await act(asked.model, asked.version, asked.job)
        entry = self.models.find(asked.model, asked.version)
        if jobs is not None and _is_for_later(headers):
            return await jobs.accept(entry, headers, receive)
        local = is_local(scope.get("client"), headers)
        answer = partial(self._inference.answer, entry, headers, is_local=local)
        if asked.shadow and asked.shadow != entry.offer.version:
            return await self._shadows.answer(entry, asked.shadow, headers, receive, answer)
        return await answer(receive)

    async def _whole(self, asked: Route, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        """Answer for the models of every process."""
        given = await self._object(headers, receive) if asked.action == "index" else {}
        parts = await self._siblings.parts(own_part(self.models, self.bodies), self._access.headers())
        if asked.action == "index":
            return json_reply(index(parts, only_ready=given.get("ready") is True))
        if asked.action == "ready":
            is_ready = all(part.is_ready for part in parts)
            return json_reply({"ready": is_ready}, 200 if is_ready else 503)
        if asked.action == "stats":
            return json_reply(statistics_document(parts, asked.model, asked.version))
        table = self._siblings.table
        if asked.action == "metrics":
            text = metrics_document(parts, table)
            return Reply(text.encode(), headers=((b"content-type", b"text/plain; version=0.0.4"),))
        pid = os.getppid() if table.rows else os.getpid()
        up_s = round(time.monotonic() - self._began_s, 1)
        return json_reply(status_document(parts, table, {"version": self._version, "pid": pid, "up_s": up_s}))

    def _get(self, asked: Route) -> Reply:
        if asked.action in ("model", "model_ready", "config"):
            return self._model(asked)
        if asked.action == "trace":
            self._require(asked.model)
        documents: dict[str, Callable[[], Any]] = {
            "regions": lambda: self._regions.rows(asked.region),
            "trace": lambda: self._traces.document(asked.model),
            "log": log_settings,
            "server": lambda: server_document(self._version),
            "live": lambda: {"live": True},
        }
        return json_reply(documents[asked.action]())

    def _model(self, asked: Route) -> Reply:
        entry = self.models.find(asked.model, asked.version)
        if asked.action == "model_ready":
            ready = {"name": asked.model, "ready": entry.is_ready}
            return json_reply(ready, 200 if entry.is_ready else 503)
        if asked.action == "config":
            return json_reply(config_document(entry))
        rows = self._siblings.table.rows or [entry.offer for entry in self.models]
        versions = [row.version for row in rows if row.name == asked.model]
        return json_reply(model_document(entry, sorted(versions, key=version_key)))

    async def _control(
        self, asked: Route, headers: Mapping[bytes, bytes], scope: Mapping[str, Any], receive: Receive
    ) -> Reply:
        """Change what holds for every process behind the address, here and there."""
        given = await self._object(headers, receive)
        if asked.action in ("register", "unregister") and not is_local(scope.get("client"), headers):
            raise HttpError(403, "shared memory is for clients on this machine")
        if asked.action == "register":
            self._regions.register(asked.region, given)
        elif asked.action == "unregister":
            self._regions.unregister(asked.region)
        elif asked.action == "set_log":
            set_log(given)
        else:
            self._require(asked.model)
            self._traces.set(given, asked.model)
        if FORWARDED not in headers:
            own = [(entry.offer.name, entry.offer.version) for entry in self.models]
            body = msgspec.json.encode(given)
            await self._siblings.repeat(own, scope["raw_path"], body, self._access.headers())
        if asked.action in ("register", "unregister"):
            return json_reply({})
        return json_reply(log_settings() if asked.action == "set_log" else self._traces.document(asked.model))

    def _require(self, model: str) -> None:
        """Refuse what is for a model that no process has: its settings would be kept for ever."""
        if model and self._siblings.table.find(model) is None:
            self.models.find(model)

    async def _object(self, headers: Mapping[bytes, bytes], receive: Receive) -> dict[str, Any]:
        with self.bodies.holding() as body:
            data = await body.read(receive, headers, _SMALL_BYTES)
        try:
            return msgspec.json.decode(data or b"{}", type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            raise HttpError(400, f"the body is not a JSON object: {cause}") from cause

    async def _repository(self, asked: Route, headers: Mapping[bytes, bytes], receive: Receive) -> Reply:
        given = await self._object(headers, receive)
        if asked.action == "load" and given.get("parameters"):
            raise HttpError(400, "a model is loaded as the command line named it, parameters are refused")
        own_headers, only = self._access.headers(), headers.get(FORWARDED)
        version = None if only is None else only.decode("latin-1")
        try:
            await change(asked.action, asked.model, self.models, self._siblings, own_headers, version)
        finally:
            self._on_change()
        return json_reply({})


def _reply_to(error: BaseException) -> Reply | None:
    """Return the refusal that an error stands for; None for a client that has gone, and for a bug."""
    if isinstance(error, EdgekitError):
        return refusal(as_http(error))
    if isinstance(error, HttpError):
        return refusal(error)
    if not isinstance(error, ClientGoneError):
        logger.error("a request ended in a bug", exc_info=error)
    return None


def _is_for_later(headers: Mapping[bytes, bytes]) -> bool:
    return b"respond-async" in headers.get(b"prefer", b"").lower()


def _require_no_bug(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("running jobs ended in a bug", exc_info=error)
