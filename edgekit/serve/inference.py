"""Inference requests: from a body to the model's lane, and its answer to the client."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from edgekit.base.entry import Entry as LaneEntry
from edgekit.base.traceparent import trace_id_of
from edgekit.core.errors import BusyError, EdgekitError, TensorError
from edgekit.serve.body import Bodies, Body, hung_up
from edgekit.serve.errors import ClientGoneError, HttpError, as_http
from edgekit.serve.lane import Asked, Awaited, Terms, outcome_of
from edgekit.serve.models import Entry
from edgekit.serve.oip import PRIORITIES, InferRequest, parse_request
from edgekit.serve.ports import Limits
from edgekit.serve.refusals import key_of
from edgekit.serve.reply import Done, Reply
from edgekit.serve.rounds import Rounds
from edgekit.serve.sent_files import MOST_BYTES, check_file, kind_of
from edgekit.serve.settings import Traces
from edgekit.serve.shared_memory import Regions
from edgekit.serve.siblings import CLIENT
from edgekit.serve.work import HEADER_LENGTH, PredictWork, TensorWork

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
OnEnd = Callable[[Reply | BaseException], object]
_TIMEOUT = b"x-request-timeout-ms"
_TRACE = b"traceparent"
_OF_TERMS = (_TIMEOUT, CLIENT, b"content-type")
"""The headers that say what a request asks of a lane."""
GONE = 499
_OF_REFRESHES: Mapping[str, Any] = MappingProxyType(
    {"timeout_s": 0.0, "priority": PRIORITIES, "client": "cache"}
)
"""What makes a stale answer anew waits behind those who wait for an answer."""


class Inference:
    """Runs inference requests on the models of this process."""

    def __init__(self, limits: Limits, bodies: Bodies, regions: Regions, traces: Traces) -> None:
        self._limits, self._bodies, self._regions, self._traces = limits, bodies, regions, traces
        self._rounds = Rounds()

    async def answer(self, entry: Entry, headers: Headers, receive: Receive, *, is_local: bool) -> Reply:
        """Return the answer to one request, counted.

        Raises:
            HttpError, EdgekitError: It is refused, or fails.
            ClientGoneError: Its client hung up.
        """
        counted = _Counted(entry)
        with counted:
            body = Body(self._bodies, self._limits)
            try:
                data = await self._read(body, headers, receive)
                work, request = self._work(entry, data, headers, is_local=is_local)
                terms = _terms(entry, work.kind, request, headers, len(data))
                done = entry.lane.run_inline(work, work.kind) if entry.cache is None else None
                if done is None:
                    done = await _run(entry, work, terms, receive)
            finally:
                body.release()
            counted.done = done
        return self._traced(counted, headers)

    def ask(
        self, entry: Entry, headers: Headers, data: bytes, on_end: OnEnd, *, is_local: bool
    ) -> Asked | Reply:
        """Return the answer to a request whose whole body is here, or queue it.

        Raises as ``answer`` does. ``on_end`` is called in the event loop with a queued request's answer, or
        with the exception in its place.
        """
        counted, age_s, left = _Counted(entry), self._rounds.age_s(), entry.lane.left
        with counted:
            entry.require()
            key = key_of(data, _header_length(headers), headers, _OF_TERMS)
            if key is not None and (again := entry.refusals.find(key)) is not None:
                counted.done = Done(again, 0.0, 0.0, 0.0, is_kept=True)
                return again
            work, request = self._work(entry, data, headers, is_local=is_local)
            is_quick = entry.lane.is_quick(work.kind)
            if is_quick and self._rounds.may_run(entry.lane, joins=entry.batching.joint is not None):
                is_late = 0 < _limit_s(request, headers) < age_s
                counted.done = None if is_late else entry.lane.run_inline(work, work.kind)
            if counted.done is None:
                work.prepare()
                terms = _terms(entry, work.kind, request, headers, len(data))
                ended = functools.partial(self._ended, counted, headers, on_end)
                try:
                    asked = Asked(
                        entry.lane, entry.way_back, work, terms, ended, age_s=age_s, wake=not is_quick
                    )
                except BusyError as error:
                    entry.refusals.keep(key, error, left)
                    raise
                work.asked = asked.entry
                return asked
        return self._traced(counted, headers)

    def _ended(self, counted: _Counted, headers: Headers, on_end: OnEnd, entry: LaneEntry) -> None:
        counted.done, error = outcome_of(entry)
        counted.end(error)
        if entry.began_s:
            counted.entry.meter.stages["queue"].add(entry.began_s - entry.queued_s)
        on_end(error or self._traced(counted, headers))

    async def _read(self, body: Body, headers: Headers, receive: Receive) -> bytes:
        kind = kind_of(headers)
        is_json = HEADER_LENGTH not in headers and not kind
        most = self._limits.json_bytes if is_json else MOST_BYTES.get(kind, 0)
        try:
            return await body.read(receive, headers, most)
        except HttpError as error:
            if error.status == 413 and is_json:
                raise HttpError(413, f"{error.message} as JSON; send tensors as binary data") from error
            raise

    def _work(
        self, entry: Entry, body: bytes, headers: Headers, *, is_local: bool
    ) -> tuple[TensorWork | PredictWork, InferRequest | None]:
        servable = entry.require()
        if kind := kind_of(headers):
            check_file(entry.offer.name, servable, kind, body, self._limits.pixels)
            return PredictWork(entry, body, kind), None
        length = _header_length(headers)
        if (len(body) if length is None else length) > self._limits.json_bytes:
            most = self._limits.json_bytes
            raise HttpError(
                413, f"the JSON is too large: at most {most} bytes are allowed; send tensors as binary data"
            )
        request = parse_request(body, length, servable.inputs)
        return TensorWork(entry, request, self._regions if is_local else None), request

    def _traced(self, counted: _Counted, headers: Headers) -> Reply:
        """Return the answer; log a request that is traced, and name its trace to the client."""
        done = counted.done
        assert done is not None
        if not self._traces.is_on and _TRACE not in headers:
            return done.reply
        parent = trace_of(headers)
        times = {"pre_us": done.pre_s, "infer_us": done.infer_s, "post_us": done.post_s}
        facts = {name: round(seconds * 1e6, 1) for name, seconds in times.items()}
        when = {"traceparent": parent, "unix_ms": int(time.time() * 1e3)}
        total_us = round(counted.total_s * 1e6, 1)
        self._traces.log(counted.entry.offer.name, {**when, **facts, "total_us": total_us})
        if not parent:
            return done.reply
        return Reply(done.reply.body, done.reply.status, (*done.reply.headers, (_TRACE, parent.encode())))


class _Counted:
    """Counts one request by its answer; one that is not ``done`` and raises nothing does not count."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.done: Done | None = None
        self.total_s = self._began_s = 0.0

    def __enter__(self) -> None:
        self._began_s = time.monotonic()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Count it."""
        done, meter = self.done, self.entry.meter
        self.total_s = time.monotonic() - self._began_s
        if error is not None:
            meter.answered(_status_of(error), self.total_s)
        elif done is not None:
            if not done.is_kept:
                meter.ran(done.pre_s, done.infer_s, done.post_s)
            meter.answered(done.reply.status, self.total_s)


def _status_of(error: BaseException) -> int:
    if isinstance(error, EdgekitError):
        return as_http(error).status
    if isinstance(error, ClientGoneError):
        return GONE
    return error.status if isinstance(error, HttpError) else 500


def trace_of(headers: Headers) -> str:
    """Return a request's W3C trace context, if it has a valid one.

    >>> trace_of({b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    >>> trace_of({b"traceparent": b"00-zz-1-01"}), trace_of({})
    ('', '')
    """
    given = headers.get(_TRACE, b"").decode("latin-1")
    return given if trace_id_of(given) else ""


def _terms(entry: Entry, kind: str, request: InferRequest | None, headers: Headers, size_bytes: int) -> Terms:
    timeout_s, client = _limit_s(request, headers), headers.get(CLIENT, b"")[:64].decode("latin-1")
    if request is None:
        return Terms(kind, timeout_s, size_bytes=size_bytes, client=client)
    servable = entry.servable
    is_free = servable is not None and any(spec.shape[:1] == (-1,) for spec in servable.inputs)
    rows = max(1, request.rows) if is_free else 1
    joint = entry.batching.joint if rows == 1 else None
    return Terms(kind, timeout_s, request.priority, rows, size_bytes, client, joint)


async def _run(entry: Entry, work: TensorWork | PredictWork, terms: Terms, receive: Receive) -> Done:
    """Return the answer that is kept for such a request, or that of the model."""
    if (cache := entry.cache) is None:
        return await _in_lane(entry, work, terms, receive)
    run = functools.partial(_in_lane, entry, work, terms, receive)
    refresh = functools.partial(_refreshed, entry, work, replace(terms, **_OF_REFRESHES))
    return await cache.answer(work, run, refresh, terms.timeout_s, receive)


async def _refreshed(entry: Entry, work: TensorWork | PredictWork, terms: Terms) -> Done:
    """Run work whose client has a stale answer, for the next one who asks."""
    done = await _in_lane(entry, work, terms, _never)
    entry.meter.ran(done.pre_s, done.infer_s, done.post_s)
    return done


async def _never() -> MutableMapping[str, Any]:
    """Receive nothing: there is no client that could hang up."""
    message: MutableMapping[str, Any] = await asyncio.get_running_loop().create_future()
    return message


async def _in_lane(entry: Entry, work: TensorWork | PredictWork, terms: Terms, receive: Receive) -> Done:
    """Run work on its model, or give it up when the client hangs up."""
    awaited = Awaited(entry.lane, entry.way_back, work, terms)
    work.asked = awaited.entry
    watcher = asyncio.get_running_loop().create_task(_watch(receive, awaited))
    try:
        done: Done = await awaited.future
        return done
    finally:
        watcher.cancel()
        awaited.end()
        if awaited.entry.began_s:
            entry.meter.stages["queue"].add(awaited.entry.began_s - awaited.entry.queued_s)


async def _watch(receive: Receive, awaited: Awaited) -> None:
    await hung_up(receive)
    awaited.cancel()


def _limit_s(request: InferRequest | None, headers: Headers) -> float:
    """Return the shorter of a request's two deadlines, in seconds; 0 without one."""
    if _TIMEOUT not in headers:
        return request.timeout_us / 1e6 if request else 0.0
    limits_s = (_timeout_s(headers), request.timeout_us / 1e6 if request else 0.0)
    return min((each for each in limits_s if each), default=0.0)


def _timeout_s(headers: Headers) -> float:
    given = headers.get(_TIMEOUT)
    if given is None:
        return 0.0
    if not given.isdigit() or len(given) > 9:
        raise TensorError("X-Request-Timeout-Ms: want a whole number of milliseconds")
    return int(given) / 1e3


def _header_length(headers: Headers) -> int | None:
    given = headers.get(HEADER_LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        raise TensorError("Inference-Header-Content-Length: want a whole number from 0")
    return int(given)
