"""``edgekit load``: measure a server under load."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.agent.access import read_token
from edgekit.base.command_line import Report
from edgekit.bench.arrivals import at_random, recorded
from edgekit.bench.load import LoadTest, Outcome, Request
from edgekit.core.errors import ServerError, UsageError
from edgekit.serve.upstream import server_of

RATE_STEPS = 10
"""Of a ramp of rates; one of clients doubles them."""

Put = Callable[[LoadTest, Request], Awaitable[Outcome]]
"""Puts a load on a server."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("url", help="http://HOST:PORT/v2/models/MODEL, of any such server")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument(
        "--clients", default="1", metavar="N", help="ask one after the other (1); 1..64: doubled in steps"
    )
    loop.add_argument(
        "--rate", metavar="R", help="requests a second at random, answered or not; 50..500: in ten steps"
    )
    loop.add_argument(
        "--arrivals",
        type=Path,
        metavar="FILE",
        help="when recorded requests came: a log with traces, or seconds",
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="of --arrivals, times as fast (1)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each step (5)")
    parser.add_argument("--timeout-ms", type=int, default=0, metavar="MS", help="each request's deadline")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="send this picture, not made-up tensors")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the server's token")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; exit code 7 if nothing was answered."""
    server = server_of(arguments.url)
    _, names_model, model = arguments.url.removeprefix(server).partition("/v2/models/")
    model = model.strip("/")
    if not names_model or not model:
        raise UsageError(f"want http://HOST:PORT/v2/models/MODEL, got {arguments.url!r}")
    if arguments.seconds <= 0 or arguments.speed <= 0:
        raise UsageError("--seconds and --speed must be more than 0")
    outcomes = asyncio.run(_measure(arguments, server, model, steps(arguments, model)))
    rows = [{"load": load, **outcome.document()} for load, outcome in outcomes]
    answers = sum(outcome.statuses["200"] for _, outcome in outcomes)
    if not answers:
        raise ServerError(f"{arguments.url} answered no request: {rows[-1]['answers']}")
    document = {"url": arguments.url, **(rows[0] if len(rows) == 1 else {"steps": rows})}
    return Report(document, _text(rows))


def steps(arguments: argparse.Namespace, model: str) -> list[tuple[str, Put]]:
    """Return the loads to measure in words, and what puts each on a server.

    Raises:
        UsageError: A number or range of them is wrong, or the recording has no request to the model.
    """
    seconds = arguments.seconds
    if arguments.arrivals is not None:
        times = recorded(arguments.arrivals, model, arguments.speed)
        return [(f"{len(times)} recorded requests", _at(lambda: times))]
    if arguments.rate is not None:
        low, high = _range(arguments.rate, "--rate", float)
        count = 1 if low == high else RATE_STEPS
        rates = [low + (high - low) * step / max(1, count - 1) for step in range(count)]
        return [(f"{rate:g} requests a second", _at(partial(at_random, rate, seconds))) for rate in rates]
    low, high = _range(arguments.clients, "--clients", int)
    doubled = [low]
    while doubled[-1] < high:
        doubled.append(min(high, 2 * doubled[-1]))
    return [(f"{clients} clients", _asked_by(clients, seconds)) for clients in doubled]


def _at(arrivals: Callable[[], Iterable[float]]) -> Put:
    return lambda test, request: test.open(request, arrivals())


def _asked_by(clients: int, seconds: float) -> Put:
    return lambda test, request: test.closed(request, clients, seconds)


def _range(text: str, flag: str, kind: Callable[[str], Any]) -> tuple[Any, Any]:
    """Return the ends of ``LOW..HIGH``, or a number twice."""
    low, dots, high = text.partition("..")
    try:
        ends = kind(low), kind(high if dots else low)
    except ValueError:
        raise UsageError(f"{flag}: want a number or LOW..HIGH, got {text!r}") from None
    if not 0 < ends[0] <= ends[1] < 1e6:
        raise UsageError(f"{flag}: want more than 0, the lower number first, got {text!r}")
    return ends


async def _measure(
    arguments: argparse.Namespace, target: str, model: str, loads: list[tuple[str, Put]]
) -> list[tuple[str, Outcome]]:
    test = LoadTest(target, read_token(arguments.token_file) if arguments.token_file else "")
    picture = arguments.picture.read_bytes() if arguments.picture else b""
    try:
        request = await test.request_for(model, picture, arguments.timeout_ms)
        return [(load, await put(test, request)) for load, put in loads]
    finally:
        await test.close()


def _text(rows: list[dict[str, Any]]) -> str:
    if len(rows) == 1:
        (row,) = rows
        answers = ", ".join(f"{count} x {status}" for status, count in row["answers"].items())
        head = f"{row['load']} for {row['seconds']} s: {row['answers_per_s']} answers/s ({answers})"
        shares = "  ".join(f"{name} {value}" for name, value in row["latency_ms"].items())
        return f"{head}\nlatency in ms, corrected for what a waiting client did not ask:\n  {shares}"
    lines = [f"{'load':<28}{'answers/s':>10}{'others':>8}{'p50':>10}{'p99 ms':>10}"]
    for row in rows:
        others = sum(count for status, count in row["answers"].items() if status != "200")
        latency = row["latency_ms"]
        lines.append(
            f"{row['load']:<28}{row['answers_per_s']:>10}{others:>8}{latency['p50']:>10}{latency['p99']:>10}"
        )
    return "\n".join(lines)
