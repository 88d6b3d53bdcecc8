"""Asks the version in the shadow what another one was asked, and counts where they disagree.

The shadow costs the client nothing: its request is sent after the answer is ready, one at a time, and
requests that come meanwhile are not compared. Its answers go nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np

from edgekit.core.errors import TensorError
from edgekit.core.spec import TensorSpec
from edgekit.serve.body import Receive
from edgekit.serve.errors import HttpError
from edgekit.serve.metrics import ShadowCounts
from edgekit.serve.models import Entry
from edgekit.serve.reply import Reply
from edgekit.serve.siblings import REMOTE, Siblings
from edgekit.serve.tensors import from_binary
from edgekit.serve.work import HEADER_LENGTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
_MOST_BYTES = 4 << 20
"""Of a request: larger ones are not compared."""
_ANSWER_S = 30.0
_NEAR = 0.05
"""Numbers that differ by less, relative to the largest, agree."""
_KEPT_HEADERS = (b"content-type", HEADER_LENGTH)
_NOT_ASKED = (b'"shared_memory_region"', b'"sequence_id"')
"""What is not asked again: the memory has the client's answer by then; a sequence has every step or none."""
_CLASSIFIED = b'"classification"'


class Shadows:
    """Compares answers with those of the same model's version in the shadow; used in one event loop.

    ``headers`` are those of a request to a sibling.
    """

    def __init__(self, siblings: Siblings, headers: Callable[[], list[tuple[bytes, bytes]]]) -> None:
        self._siblings, self._headers = siblings, headers
        self._asking: asyncio.Task[None] | None = None

    async def answer(
        self,
        entry: Entry,
        shadow: str,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        answer: Callable[[Receive], Awaitable[Reply]],
    ) -> Reply:
        """Return what ``answer`` makes of a request; have the version ``shadow`` answer it too, later."""
        kept = _Kept(receive)
        reply = await answer(kept)
        counts = entry.shadow
        if counts is None or counts.version != shadow:
            counts = entry.shadow = ShadowCounts(shadow)
        if reply.status != 200:
            return reply
        body = b"".join(kept.pieces) if kept.is_whole else b""
        is_free = self._asking is None or self._asking.done()
        if is_free and kept.is_whole and not any(each in body for each in _NOT_ASKED):
            compared = self._compare(counts, entry.offer.name, headers, body, reply)
            self._asking = asyncio.get_running_loop().create_task(compared)
        else:
            counts.skipped += 1
        return reply

    async def _compare(
        self, counts: ShadowCounts, model: str, headers: Mapping[bytes, bytes], body: bytes, reply: Reply
    ) -> None:
        try:
            answered = await self._ask(model, counts.version, headers, body)
            number, disagrees = difference(reply, answered, has_classes=_CLASSIFIED in body)
        except (HttpError, TensorError, EOFError, OSError, asyncio.TimeoutError, ValueError) as cause:
            counts.failed += 1
            logger.warning("%s %s in the shadow has no answer: %s", model, counts.version, cause)
        else:
            counts.add(number, disagrees=disagrees)

    async def _ask(self, model: str, version: str, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        row = self._siblings.table.find(model, version)
        if row is None or row.version != version:
            raise HttpError(503, "it is not served any more")
        names = quote(model, safe=""), quote(version, safe="")
        target = "/v2/models/{}/versions/{}/infer".format(*names).encode()
        sent = [*self._headers(), *((name, headers[name]) for name in _KEPT_HEADERS if name in headers)]
        sent.append((REMOTE, b"1"))  # it must not write into a client's memory, however that is named
        reply = await asyncio.wait_for(self._siblings.ask(row, "POST", target, sent, body), _ANSWER_S)
        if reply.status != 200:
            raise HttpError(reply.status, reply.body[:200].decode(errors="replace"))
        return reply


class _Kept:
    """Receives a request's body, and keeps it if it is not too large."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.pieces: list[bytes] = []
        self.is_whole = False
        self._bytes = 0

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request" and not self.is_whole:
            piece = message.get("body", b"")
            self._bytes += len(piece)
            if self._bytes > _MOST_BYTES:
                self.pieces.clear()
            else:
                self.pieces.append(piece)
                self.is_whole = not message.get("more_body", False)
        return message


def difference(one: Reply, other: Reply, *, has_classes: bool = False) -> tuple[float, bool]:
    """Return how far two answers to one request differ, and whether they disagree.

    The first is the largest relative difference of an output, NaN where there are no numbers. Answers to
    a file disagree where their labels differ; rows of scores, where the largest score of a row stands
    elsewhere; other numbers, where they differ by 5 percent of the largest; texts, where one differs, or with
    ``has_classes`` ("score:class"), where another class is first.
    """
    documents = [msgspec.json.decode(reply.body[: _length_of(reply)]) for reply in (one, other)]
    if "outputs" not in documents[0]:
        return math.nan, _labels(documents[0]) != _labels(documents[1])
    outputs = [_outputs(reply, document) for reply, document in zip((one, other), documents, strict=True)]
    if has_classes:
        outputs = [{name: _winners(array) for name, array in each.items()} for each in outputs]
    pairs = [_pair(array, outputs[1].get(name)) for name, array in outputs[0].items()]
    numbers = [number for number, _ in pairs if not math.isnan(number)]
    return max(numbers, default=math.nan), any(disagrees for _, disagrees in pairs)


def _pair(one: NDArray[Any], other: NDArray[Any] | None) -> tuple[float, bool]:
    if other is None or one.shape != other.shape:
        return math.nan, True
    if one.dtype == object:
        return math.nan, not np.array_equal(one, other)
    wide, also = one.astype(np.float64), other.astype(np.float64)
    scale = max(np.abs(wide).max(initial=0.0), np.abs(also).max(initial=0.0)) or 1.0
    number = float(np.abs(wide - also).max(initial=0.0) / scale)
    if one.ndim == 2 and one.shape[1] > 1:
        return number, not np.array_equal(wide.argmax(1), also.argmax(1))
    return number, not number <= _NEAR


def _winners(array: NDArray[Any]) -> NDArray[Any]:
    """Return the first class of each row of texts like "score:class:label"; numbers as they are."""
    if array.dtype != object or not array.size:
        return array
    rows = array.reshape(-1, array.shape[-1])
    return np.array([str(text).partition(":")[2] for text in rows[:, 0]], object)


def _length_of(reply: Reply) -> int:
    return int(dict(reply.headers).get(HEADER_LENGTH, len(reply.body)))


def _outputs(reply: Reply, document: dict[str, Any]) -> dict[str, NDArray[Any]]:
    arrays, at = dict[str, Any](), _length_of(reply)
    for row in document["outputs"]:
        size = row.get("parameters", {}).get("binary_data_size")
        if size is None:
            kind = object if row["datatype"] == "BYTES" else np.float64
            arrays[row["name"]] = np.array(row.get("data", []), kind).reshape(row["shape"])
            continue
        spec = TensorSpec(name=row["name"], datatype=row["datatype"], shape=tuple(row["shape"]))
        data, at = memoryview(reply.body)[at : at + size], at + size
        arrays[row["name"]] = from_binary(spec, spec.shape, data)
    return arrays


def _labels(document: dict[str, Any]) -> list[list[str]]:
    rows = document.get("predictions", [document])
    return [sorted(item.get("label", "") for item in row.get("items", [])) for row in rows]
