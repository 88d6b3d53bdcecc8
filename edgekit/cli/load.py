"""``edgekit load``: measure a server under load."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgekit.agent.access import read_token
from edgekit.base.command_line import Report
from edgekit.bench.load import LoadTest, Outcome
from edgekit.core.errors import ServerError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("url", help="http://HOST:PORT/v2/models/MODEL, of any such server")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument("--clients", type=int, default=1, metavar="N", help="ask one after the other (1)")
    loop.add_argument("--rate", type=float, metavar="R", help="requests a second at random, answered or not")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="(5)")
    parser.add_argument("--timeout-ms", type=int, default=0, metavar="MS", help="each request's deadline")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="send this picture, not made-up tensors")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the server's token")


def run(arguments: argparse.Namespace) -> Report:
    """Measure; exit code 7 if nothing was answered."""
    url = urlsplit(arguments.url)
    model = url.path.removeprefix("/v2/models/").strip("/")
    if url.scheme != "http" or not url.hostname or not url.port or not model or "/v2/models/" not in url.path:
        raise UsageError(f"want http://HOST:PORT/v2/models/MODEL, got {arguments.url!r}")
    if arguments.clients < 1 or arguments.seconds <= 0 or (arguments.rate or 1) <= 0:
        raise UsageError("--clients, --rate and --seconds must be more than 0")
    outcome = asyncio.run(_measure(arguments, f"http://{url.netloc}", model))
    if not outcome.statuses["200"]:
        raise ServerError(f"{arguments.url} answered no request: {dict(outcome.statuses)}")
    kind = f"{arguments.rate:g} requests a second" if arguments.rate else f"{arguments.clients} clients"
    document = {"url": arguments.url, "load": kind, **outcome.document()}
    return Report(document, _text(document))


async def _measure(arguments: argparse.Namespace, target: str, model: str) -> Outcome:
    test = LoadTest(target, read_token(arguments.token_file) if arguments.token_file else "")
    picture = arguments.picture.read_bytes() if arguments.picture else b""
    try:
        request = await test.request_for(model, picture, arguments.timeout_ms)
        if arguments.rate:
            return await test.open(request, arguments.rate, arguments.seconds)
        return await test.closed(request, arguments.clients, arguments.seconds)
    finally:
        await test.close()


def _text(document: dict[str, Any]) -> str:
    answers = ", ".join(f"{count} x {status}" for status, count in document["answers"].items())
    lines = [
        f"{document['load']} for {document['seconds']} s: {document['answers_per_s']} answers/s ({answers})",
        "latency in ms, corrected for what a waiting client did not ask:",
        "  " + "  ".join(f"{name} {value}" for name, value in document["latency_ms"].items()),
    ]
    return "\n".join(lines)
