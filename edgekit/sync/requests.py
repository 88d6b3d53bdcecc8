"""Requests to the fleet and their answers, matched by id."""

import threading
from typing import Literal, TypeAlias

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
            question = self._open[self._last] = Question(self._last)
            return question

    def drop(self, question: Question) -> None:
        """Forget a request, answered or not."""
        with self._lock:
            self._open.pop(question.number, None)

    def answered(self, message: wire.Response | wire.Chunk) -> bool:
        """Set the answer of its request; False where there is none."""
        with self._lock:
            question = self._open.pop(message.id, None)
        if question is not None:
            question.answer(message)
        return question is not None

    def disconnected(self) -> None:
        """Fail every open request."""
        with self._lock:
            questions, self._open = self._open, {}
        for question in questions.values():
            question.answer(None)
