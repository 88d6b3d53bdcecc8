"""A load test of a server that speaks the Open Inference Protocol, over HTTP and from one process.

Closed loop: so many clients, each of which asks again once it is answered. Open loop: requests come at
times of their own (``arrivals``), whatever becomes of the others. A client that waits for a slow answer
sends nothing meanwhile, so a closed loop leaves out what others would have seen (coordinated omission): its
percentiles are given as measured, and corrected. An open loop counts each request from when it was due.

Source: HdrHistogram, "corrected for expected interval between samples"; RFC 2330 for Poisson sampling.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgekit.core.errors import LinkError, ServerError
from edgekit.core.sketch import Histogram
from edgekit.serve.upstream import Upstream

_MOST_IN_WORK = 1024
_BYTES = {"BOOL": 1, "INT8": 1, "UINT8": 1, "FP16": 2, "INT16": 2, "UINT16": 2, "INT64": 8, "UINT64": 8}


@dataclass(frozen=True)
class Request:
    """What is sent, again and again."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...]


@dataclass
class Outcome:
    """What came back; times in milliseconds, of answers with status 200."""

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    """Answers by status; ``error`` for connections that ended, ``unsent`` for what was due while 1,024 were
    in work."""
    measured: Histogram = field(default_factory=Histogram)
    corrected: Histogram = field(default_factory=Histogram)

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        good = self.statuses["200"]
        return {
            "seconds": round(self.seconds, 3),
            "answers": dict(sorted(self.statuses.items())),
            "answers_per_s": round(good / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms": _percentiles(self.corrected),
            "measured_ms": _percentiles(self.measured),
        }


def _percentiles(histogram: Histogram) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(histogram.quantile(share), 3) for name, share in shares.items()}


class LoadTest:
    """Sends one request to one server; ``token`` is its bearer token."""

    def __init__(self, target: str, token: str = "") -> None:
        self._upstream = Upstream(target)
        self._headers = (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self) -> None:
        """Close its connections."""
        await self._upstream.close()

    async def request_for(self, model: str, picture: bytes = b"", timeout_ms: int = 0) -> Request:
        """Return a request to a model: a picture, or made-up tensors of the shapes that it states.

        Raises:
            LinkError: The server cannot be reached.
            ServerError: It has no such model.
        """
        path = f"/v2/models/{model}"
        headers = [*self._headers]
        if timeout_ms:
            headers.append(("x-request-timeout-ms", str(timeout_ms)))
        status, _, data = await self._upstream.ask("GET", path, headers=self._headers)
        if status != 200:
            raise ServerError(f"{path} answers {status}: {data[:300].decode(errors='replace')}")
        if picture:
            kind = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
            return Request(f"{path}/infer", picture, (*headers, ("content-type", kind)))
        body, length = made_up(msgspec.json.decode(data)["inputs"])
        headers.append(("inference-header-content-length", str(length)))
        return Request(f"{path}/infer", body, tuple(headers))

    async def closed(self, request: Request, clients: int, seconds: float) -> Outcome:
        """Have so many clients ask, each again once it is answered."""
        outcome, began_s = Outcome(), time.perf_counter()
        until_s = began_s + seconds

        async def one() -> None:
            while (sent_s := time.perf_counter()) < until_s:
                await self._ask(request, outcome, sent_s)

        await asyncio.gather(*(one() for _ in range(clients)))
        outcome.seconds = time.perf_counter() - began_s
        outcome.corrected = corrected(outcome.measured)
        return outcome

    async def open(self, request: Request, arrivals: Iterable[float]) -> Outcome:
        """Send a request at each of the times, in seconds from now; see ``arrivals``."""
        outcome, tasks = Outcome(), set[asyncio.Task[None]]()
        began_s = time.perf_counter()
        for after_s in arrivals:
            due_s = began_s + after_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if len(tasks) >= _MOST_IN_WORK:
                outcome.statuses["unsent"] += 1
                continue
            task = asyncio.get_running_loop().create_task(self._ask(request, outcome, due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        outcome.seconds = time.perf_counter() - began_s
        outcome.corrected = outcome.measured
        return outcome

    async def _ask(self, request: Request, outcome: Outcome, since_s: float) -> None:
        try:
            status, _, _ = await self._upstream.ask("POST", request.path, request.body, request.headers)
        except LinkError:
            outcome.statuses["error"] += 1
            await asyncio.sleep(0.01)  # a server that is gone is not asked a thousand times a second
            return
        outcome.statuses[str(status)] += 1
        if status == 200:
            outcome.measured.add((time.perf_counter() - since_s) * 1e3)


def corrected(measured: Histogram) -> Histogram:
    """Return latencies with those that a client did not see because it waited for a slow answer.

    It would have asked about once in each typical latency (the median).
    """
    interval = measured.quantile(0.5)
    added = Histogram(measured.scale)
    added.merge(measured)
    for value, times in measured.buckets():
        left = value - interval
        while interval > 0 and left >= interval:
            added.add(left, times)
            left -= interval
    return added


def made_up(inputs: list[Mapping[str, Any]]) -> tuple[bytes, int]:
    """Return the body of a request with made-up tensors (free dimensions are 1), and its JSON's length."""
    rng, rows, pieces = random.Random(0), [], []  # noqa: S311 - data, not secrets
    for spec in inputs:
        shape, count = [max(1, length) for length in spec["shape"]], 1
        for length in shape:
            count *= length
        datatype = spec["datatype"]
        if datatype in ("FP32", "FP64"):
            code = "f" if datatype == "FP32" else "d"
            piece = struct.pack(f"<{count}{code}", *(rng.random() for _ in range(count)))
        elif datatype == "UINT8":
            piece = os.urandom(count)
        else:
            piece = bytes(count * _BYTES.get(datatype, 4))  # zeros; an empty text is four
        pieces.append(piece)
        row = {"name": spec["name"], "datatype": datatype, "shape": shape}
        rows.append({**row, "parameters": {"binary_data_size": len(piece)}})
    header = msgspec.json.encode({"inputs": rows, "parameters": {"binary_data_output": True}})
    return b"".join((header, *pieces)), len(header)
