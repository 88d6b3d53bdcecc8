"""Questions to the fleet and their answers, matched by id."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Literal, Protocol, TypeAlias

from edgekit.core import wire
from edgekit.core.errors import LinkError, ServerError

MAX_WAITING = 64
Kind: TypeAlias = Literal["time", "desired", "chunk", "renew"]


class Question:
    """One open request."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._done = threading.Event()
        self._answer: wire.Response | wire.Chunk | None = None

    def answer(self, message: wire.Response | wire.Chunk | None) -> None:
        """Set the answer; None when the link went down."""
        self._answer = message
        self._done.set()

    def wait(self, timeout_s: float) -> wire.Response | wire.Chunk:
        """Wait for the answer.

        Raises:
            LinkError: None came in time, or the link went down.
            ServerError: The fleet answered with an error.
        """
        if not self._done.wait(timeout_s) or self._answer is None:
            raise LinkError(f"the fleet did not answer request {self.number} in {timeout_s:g} s")
        if isinstance(self._answer, wire.Response) and self._answer.error:
            raise ServerError(f"the fleet answered: {self._answer.error[:500]}")
        return self._answer


class Questions:
    """All open requests; thread-safe and bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Question] = {}
        self._last = 0

    def ask(self) -> Question:
        """Return a new request.

        Raises:
            LinkError: Too many are open.
        """
        with self._lock:
            if len(self._open) >= MAX_WAITING:
                raise LinkError(f"{MAX_WAITING} requests to the fleet are open already")
            self._last = self._last % 0xFFFF_FFFF + 1
            question = Question(self._last)
            self._open[question.number] = question
            return question

    def drop(self, question: Question) -> None:
        """Forget a request, answered or not."""
        with self._lock:
            self._open.pop(question.number, None)

    def answered(self, message: wire.Response | wire.Chunk) -> bool:
        """Set the answer of its request; False where there is none."""
        with self._lock:
            question = self._open.pop(message.id, None)
        if question is None:
            return False
        question.answer(message)
        return True

    def disconnected(self) -> None:
        """Fail every open request."""
        with self._lock:
            questions, self._open = list(self._open.values()), {}
        for question in questions:
            question.answer(None)


class Asker(Protocol):
    """The part of the link that ``download`` uses."""

    def ask(self, kind: Kind, args: dict[str, Any]) -> Question:
        """Send a question and return at once."""


def download(
    link: Asker, sha256: str, size: int, start: int = 0, *, timeout_s: float = 10.0, tries: int = 5
) -> Iterator[bytes]:
    """Yield a blob's bytes from ``start`` on, fetched over MQTT, for networks that block HTTP.

    Keeps eight pieces of 128 KiB under way and asks again for a missing one. The caller checks the hash.

    Raises:
        LinkError: A piece did not come in ``tries`` tries, or has another length.
        ServerError: The fleet has no such blob.
    """
    offsets = list(range(start, size, wire.CHUNK_BYTES))
    flying: dict[int, Question] = {}

    def ask(offset: int) -> Question:
        length = min(wire.CHUNK_BYTES, size - offset)
        return link.ask("chunk", {"sha256": sha256, "offset": offset, "length": length})

    for index, offset in enumerate(offsets):
        for ahead in offsets[index : index + wire.CHUNK_WINDOW]:
            if ahead not in flying:
                flying[ahead] = ask(ahead)
        length = min(wire.CHUNK_BYTES, size - offset)
        for left in reversed(range(tries)):
            try:
                chunk = flying.pop(offset).wait(timeout_s)
            except ServerError:
                raise
            except LinkError:
                if not left:
                    raise
                flying[offset] = ask(offset)
                continue
            if not isinstance(chunk, wire.Chunk) or (chunk.offset, len(chunk.data)) != (offset, length):
                raise LinkError(f"the fleet sent another piece of {sha256[:12]} than {offset}+{length}")
            yield chunk.data
            break
