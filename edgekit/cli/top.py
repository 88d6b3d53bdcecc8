"""``edgekit top``: what a server's models are doing."""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.access import read_token
from edgekit.base.command_line import Report
from edgekit.core.errors import LinkError, ServerError, UsageError
from edgekit.serve.upstream import Upstream, server_of

_COLUMNS = (
    ("name", "model"),
    ("version", "version"),
    ("state", "state"),
    ("variant", "variant"),
    ("answered_per_s", "req/s"),
    ("refused_per_s", "refused/s"),
    ("queue_ms", "queue ms"),
    ("infer_ms", "model ms"),
    ("waiting", "waiting"),
    ("batch", "batch"),
    ("failovers", "failovers"),
)
_CLEAR = "\x1b[H\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", help="of edgekit serve or the agent"
    )
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two looks (1)")
    parser.add_argument("--once", action="store_true", help="look once, and end; so does --json")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the server's token")


def run(arguments: argparse.Namespace) -> Report | None:
    """Show the models until interrupted, or once."""
    if not 0 < arguments.every < math.inf:
        raise UsageError(f"--every: want seconds above 0, got {arguments.every}")
    token = read_token(arguments.token_file) if arguments.token_file else ""
    headers = [("authorization", f"Bearer {token}")] if token else []
    watch = _Watch(server_of(arguments.url), headers)
    is_once = arguments.once or arguments.json or not sys.stdout.isatty()
    return asyncio.run(_look(watch, arguments.every, is_once=is_once))


async def _look(watch: _Watch, every_s: float, *, is_once: bool) -> Report:
    try:
        await watch.rows()
        while not is_once:
            await asyncio.sleep(every_s)
            print(_CLEAR + fitted(await _seen(watch), *shutil.get_terminal_size()), flush=True)
        await asyncio.sleep(every_s)
        rows = await watch.rows()
        return Report({"models": rows}, text_of(rows))
    finally:
        await watch.close()


async def _seen(watch: _Watch) -> str:
    """Return what there is to be seen; why there is nothing, while the server is away."""
    try:
        return text_of(await watch.rows())
    except LinkError as error:
        return f"{error.one_line()}\nit is asked again"


class _Watch:
    """A server's models, with their rates since the last look."""

    def __init__(self, target: str, headers: list[tuple[str, str]]) -> None:
        self._upstream, self._headers = Upstream(target), headers
        self._before: dict[tuple[str, str], dict[str, Any]] = {}
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._looked_s = time.monotonic()

    async def close(self) -> None:
        """Close its connections."""
        await self._upstream.close()

    async def rows(self) -> list[dict[str, Any]]:
        """Return a row for each model."""
        status = await self._document("/status")
        statistics = await self._document("/v2/models/stats")
        now_s, told = time.monotonic(), {}
        for row in statistics["model_stats"]:
            told[row["name"], row["version"]] = row
        passed_s, self._looked_s = max(now_s - self._looked_s, 1e-9), now_s
        rows = []
        for row in status["models"]:
            key = row["name"], row["version"]
            now = told.get(key)
            rows.append(_row(row, now, self._before.get(key, now), passed_s, self._rows.get(key)))
            self._rows[key] = row
        self._before = told
        return rows

    async def _document(self, path: str) -> Any:
        code, _, data = await self._upstream.ask("GET", path, headers=self._headers)
        if code != 200:
            raise ServerError(f"{path} answers {code}: {data[:300].decode(errors='replace')}")
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as cause:
            raise ServerError(f"{path} answers what is not JSON: {cause}") from cause


def _row(row: dict[str, Any], now: Any, before: Any, passed_s: float, earlier: Any) -> dict[str, Any]:
    rates = {"answered_per_s": 0.0, "refused_per_s": 0.0, "infer_ms": None, "queue_ms": None}
    if now is not None and before is not None:
        stages, old = now["inference_stats"], before["inference_stats"]
        if any(stages[name]["count"] < old[name]["count"] for name in stages):  # its process is a new one
            old = {name: {"count": 0, "ns": 0} for name in stages}
        gone = {name: stages[name]["count"] - old[name]["count"] for name in stages}
        spent = {name: (stages[name]["ns"] - old[name]["ns"]) / 1e6 for name in stages}
        rates["answered_per_s"] = round(gone["success"] / passed_s, 1)
        rates["refused_per_s"] = round(gone["fail"] / passed_s, 1)
        for name, stage in (("infer_ms", "compute_infer"), ("queue_ms", "queue")):
            rates[name] = round(spent[stage] / gone[stage], 3) if gone[stage] else None
    kept = ("name", "version", "state", "reason", "variant", "accelerator", "waiting", "failovers", "pid")
    shown = {**{name: row.get(name) for name in kept}, "batch": row.get("batch", {}).get("most"), **rates}
    if not (replicas := row.get("replicas")):
        return shown
    answered = {each["name"]: each["answered"] for each in (earlier or {}).get("replicas", ())}
    return {**shown, "replicas": [_replica(each, answered, passed_s) for each in replicas]}


def _replica(row: dict[str, Any], answered: dict[str, int], passed_s: float) -> dict[str, Any]:
    """Return a replica's row: under its model's, in the same columns."""
    more = row["answered"] - answered.get(row["name"], row["answered"])
    kept = ("state", "reason", "variant", "accelerator")
    return {
        "name": f"  {row['name']}",
        **{name: row.get(name) for name in kept},
        "waiting": row["outstanding"],
        "failovers": row["losses"],
        "batch": row["batch"]["most"],
        "answered_per_s": round(max(more, 0) / passed_s, 1),
        "infer_ms": row["typical_ms"]["infer"] or None,
    }


def text_of(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    heads = dict(_COLUMNS)
    cells = [list(heads.values())]
    every = [each for row in rows for each in (row, *row.get("replicas", ()))]
    cells += [["-" if row.get(name) is None else str(row[name]) for name in heads] for row in every]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells
    )


def fitted(text: str, columns: int, lines: int) -> str:
    r"""Return the part of a text that a terminal has room for: a longer line would push the first ones out.

    >>> fitted("name  state\ndoor  READY\ngate  READY", 6, 3)
    'name  \ndoor  '
    """
    return "\n".join(line[:columns] for line in text.split("\n")[: max(1, lines - 1)])
