"""Refusals of a busy model, given again to equal requests.

Under three times the load two requests of three are refused. Reading each one, only to find what was found
for the one before, takes ten times as long, and meanwhile the model waits for the interpreter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edgekit.core.errors import BusyError
from edgekit.serve.errors import as_http
from edgekit.serve.ports import RequestLane
from edgekit.serve.reply import Reply, refusal

_LONG_BYTES = 4096
_MOST = 64


class Refusals:
    """The refusals of one lane that still hold; for use in one thread.

    A refusal holds while nothing leaves the lane, and for as long as what runs could not have made room.
    """

    def __init__(self, lane: RequestLane, clock: Callable[[], float] = time.monotonic) -> None:
        self._lane, self._clock = lane, clock
        self._left = -1
        self._kept: dict[object, tuple[float, Reply]] = {}

    def find(self, key: object) -> Reply | None:
        """Return the refusal of an equal request, counted as one more; None where it has to be found out."""
        if self._left != self._lane.left:
            self._kept.clear()
            return None
        until_s, reply = self._kept.get(key, (0.0, None))
        if reply is None or self._clock() >= until_s:
            return None
        self._lane.refused_again()
        return reply

    def keep(self, key: object, error: BusyError, left: int) -> None:
        """Keep a refusal, unless ``key`` is None; ``left`` is the lane's before it was asked."""
        if self._left != left:
            self._kept.clear()
            self._left = left
        if key is not None and error.holds_s > 0 and len(self._kept) < _MOST:
            self._kept[key] = (self._clock() + error.holds_s, refusal(as_http(error)))


def key_of(
    data: bytes, header_length: int | None, headers: Mapping[bytes, bytes], names: tuple[bytes, ...]
) -> object:
    """Return what requests have in common that a busy model refuses alike; None for one to be read whole.

    That is the JSON before binary data, the body's length, and the named headers.
    """
    if header_length is None or not 0 <= header_length <= min(len(data), _LONG_BYTES):
        return None
    return (data[:header_length], len(data), *[headers.get(name) for name in names])
