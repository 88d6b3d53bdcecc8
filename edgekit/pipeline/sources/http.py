"""A camera on HTTP: a stream of Motion JPEG, or snapshots."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from edgekit.base.http import Answer, Patience, Web
from edgekit.base.http_login import authorization
from edgekit.base.secrets import read_secret
from edgekit.base.traceparent import trace_id_of
from edgekit.core.addresses import has_login, shown, split_address
from edgekit.core.errors import LinkError, SourceError, TensorError, TrustError
from edgekit.core.ports import TRACE_ID, Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.multipart import MAX_PART_BYTES, boundary_of, newest_parts
from edgekit.pipeline.picture_files import decode_picture
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import Pacer, Reopener, stamp

logger = logging.getLogger(__name__)
Picture = tuple[int, bytes, str]
"""How many before it were left out, its bytes, and the ``traceparent`` that came with it."""
_TRACE = "traceparent"
_LEAST_BYTES = 4096
_FAULTS = {
    401: ("AUTH_FAILED", "the server refuses the user name or password"),
    403: ("AUTH_FAILED", "the server refuses access"),
    404: ("NOT_FOUND", "the server has nothing at this address"),
}


class HttpOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a camera on HTTP; whether it streams or gives snapshots, its answer says.

    ``fps``: how often a snapshot is asked for. ``user`` and ``password_file`` (its first line, or
    ``env:NAME``): Digest, or Basic where the camera knows nothing better. ``ca``: the CA of an https address.
    ``stall_s``: without a picture for so long it is connected again. ``give_up_s``: how long to retry; 0 is
    forever.
    """

    uri: str
    fps: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    user: str = ""
    password_file: str = ""
    ca: str = ""
    stall_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 4.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0

    def problems(self) -> Iterator[str]:
        """Report an address that cannot be right; no text has the address in it."""
        try:
            parts = split_address(self.uri)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                yield "uri: want an address http://host/path or https://host/path, got another one"
            elif has_login(self.uri):
                yield "uri: want the login in user and password_file, got it in the address"
        except ValueError as problem:
            yield f"uri: {problem}"


class HttpSource:
    """The newest picture of a camera; a snapshot that the server calls unchanged is no frame.

    The events of a picture that comes with a ``traceparent`` go on with its trace.
    """

    Options = HttpOptions
    is_live = True
    due_s = None
    """A snapshot may stay the same for days; a stream that stalls is connected again."""

    def __init__(self, options: HttpOptions, context: SourceContext) -> None:
        self._options, self._context = options, context
        parts = urlsplit(options.uri)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._shown = shown(options.uri)
        self._closing = threading.Event()
        self._pacer = Pacer(options.fps, self._closing)
        self._pictures: Iterator[Picture] = iter(())
        self._challenges: list[str] = []
        self._validators: dict[str, str] = {}
        """What the server is asked with, so that it may answer "not modified"."""
        self._progressed_s = 0.0
        self._seq = self._unreadable = self._unchanged = 0
        self.reopener = Reopener(f"http {self._shown!r}", self._connected, options.give_up_s, self._closing)

    def counts(self) -> dict[str, int]:
        """Return what could not be decoded, and what the server called unchanged."""
        return {"unreadable": self._unreadable, "unchanged": self._unchanged}

    def open(self) -> None:
        """Connect, and wait for the first picture."""
        self._pictures = self.reopener.first()

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the camera."""
        return self.reopener.state()

    def read(self) -> Frame | None:
        """Wait for the next picture; None after ``close``."""
        while not self._closing.is_set():
            try:
                left_out, data, traceparent = next(self._pictures)
                arrived = stamp()
            except StopIteration:
                self._again("the stream came to its end")
                continue
            except SourceError as lost:
                self._again(lost.message, lost.fault)
                continue
            self._seq += 1 + left_out
            began_ns = time.monotonic_ns()
            try:
                pixels = decode_picture(data, self._shown)
            except TensorError as error:
                self._unreadable += 1
                if self._unreadable == 1:
                    logger.warning("a picture is left out (later ones are only counted): %s", error.message)
                continue
            meta: dict[str, Any] = {"capture_ms": (time.monotonic_ns() - began_ns) / 1e6}
            if trace_id := trace_id_of(traceparent):
                meta[TRACE_ID] = trace_id
            return Frame(pixels, self._seq - 1, *arrived, meta)
        return None

    def _again(self, why: str, fault: str = "") -> None:
        self._pictures = self.reopener.again(why, fault) or iter(())

    def close(self) -> None:
        """End a wait; one for the network ends within ``stall_s``."""
        self._closing.set()

    # -- the network

    def _connected(self) -> Iterator[Picture]:
        """Return the pictures of a new connection, the first of which has come.

        Raises:
            SourceError: There is none.
        """
        self._validators = {}
        pictures = self._asked()
        first = next(pictures, None)
        if first is None:
            raise SourceError(f"http {self._shown!r}: the stream has no picture", fault="CONNECTION_FAILED")
        return chain([first], pictures)

    def _asked(self) -> Iterator[Picture]:
        try:
            while not self._closing.is_set():
                with self._answer() as answer:
                    if answer.headers.get_content_type().startswith("multipart/"):
                        yield from self._streamed(answer)
                        return
                    snapshot = self._snapshot(answer)
                if snapshot is not None:
                    yield 0, snapshot, answer.headers.get(_TRACE, "")
                self._pacer.wait()
        except SourceError:
            raise
        except (LinkError, TrustError) as error:
            # the address's query may be a secret
            text = error.message.removeprefix(f"{self._options.uri}: ").replace(
                self._options.uri, self._shown
            )
            fault = "TLS" if isinstance(error, TrustError) else "CONNECTION_FAILED"
            fault = "STALLED" if "timed out" in text else fault
            raise SourceError(f"http {self._shown!r}: {text}", fault=fault) from None

    @contextmanager
    def _answer(self) -> Iterator[Answer]:
        """Yield the answer to a question for the picture, asked again with the login if that is wanted."""
        options, context = self._options, self._context
        web = Web(
            context.path(options.ca) if options.ca else None,
            Patience(until_s=math.inf, stall_s=math.inf),
            silence_s=options.stall_s,
        )
        for is_last in (False, True):
            with web.opened(options.uri, {**self._validators, **self._login()}) as answer:
                self._challenges = answer.headers.get_all("WWW-Authenticate") or self._challenges
                if answer.status == 401 and options.user and not is_last:
                    continue
                self._check(answer.status)
                yield answer
                return

    def _login(self) -> dict[str, str]:
        options = self._options
        if not options.user or not self._challenges:
            return {}
        password = read_secret(options.password_file, self._context.folder, "source 'http': password_file")
        value = authorization(self._challenges, "GET", self._target, options.user, password)
        return {"Authorization": value} if value else {}

    def _check(self, status: int) -> None:
        if status in (200, 304):
            return
        fault, text = _FAULTS.get(status, ("CONNECTION_FAILED", f"the server answers {status}"))
        raise SourceError(f"http {self._shown!r}: {text}", fault=fault)

    def _streamed(self, answer: Answer) -> Iterator[Picture]:
        boundary = boundary_of(answer.headers.get("Content-Type", ""))
        pieces = self._before_stall(answer.pieces)
        for left_out, part in newest_parts(pieces, boundary):
            self._progressed_s = time.monotonic()
            yield left_out, part.body, part.header(_TRACE)

    def _before_stall(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the body on; end it where bytes come, but for ``stall_s`` no picture."""
        self._progressed_s = time.monotonic()
        for piece in pieces:
            if self._closing.is_set():
                return
            if time.monotonic() - self._progressed_s > self._options.stall_s:
                text = f"no picture came for {self._options.stall_s:g} s"
                raise SourceError(f"http {self._shown!r}: {text}", fault="STALLED")
            yield piece

    def _snapshot(self, answer: Answer) -> bytes | None:
        """Return a snapshot; None if it is the one before."""
        if answer.status == 304:
            self._unchanged += 1
            return None
        given = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
        self._validators = {ask: value for ask, name in given.items() if (value := answer.headers.get(name))}
        body = bytearray()
        for piece in self._not_dripping(answer.pieces):
            body += piece
            if len(body) > MAX_PART_BYTES:
                raise LinkError(f"a picture is larger than {MAX_PART_BYTES >> 20} MiB")
        return None if self._closing.is_set() else bytes(body)

    def _not_dripping(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass a snapshot on, which may be long, but not with less than 4 KiB in each ``stall_s``."""
        since_s, since_bytes = time.monotonic(), 0
        for piece in pieces:
            since_bytes += len(piece)
            if self._closing.is_set():
                return
            if time.monotonic() - since_s > self._options.stall_s:
                if since_bytes < _LEAST_BYTES:
                    text = f"{since_bytes} bytes in {self._options.stall_s:g} s are too few"
                    raise SourceError(f"http {self._shown!r}: {text}", fault="STALLED")
                since_s, since_bytes = time.monotonic(), 0
            yield piece
