"""When the requests of a load test come: at random at a rate, or as they came once before.

>>> [round(due_s, 2) for due_s in at_random(2.0, 2.0)]
[0.93, 1.64, 1.91]
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.core.errors import UsageError

_TRACE = "trace {"


def at_random(per_s: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Yield when each of so many requests a second, on average, is due, in seconds from the beginning."""
    rng, due_s = random.Random(seed), 0.0  # noqa: S311 - arrivals, not secrets
    while (due_s := due_s + rng.expovariate(per_s)) < seconds:
        yield due_s


def recorded(path: Path, model: str, speed: float = 1.0) -> list[float]:
    """Return when each recorded request came, in seconds from the first, ``speed`` times as fast.

    The file is a server's log in which requests to the model were traced (``docs/serving.md``), or has a
    number of seconds in each line. The order does not matter.

    Raises:
        UsageError: The file has no such line, or one that is neither.
    """
    times: list[float] = []
    lines = path.read_text(errors="replace").splitlines()
    is_log = any(_TRACE in line for line in lines)
    for number, line in enumerate(lines, 1):
        if is_log:
            times += _traced(line, model)
        elif line.strip():
            times.append(_seconds(line, f"{path}:{number}"))
    if not times:
        raise UsageError(f"{path}: no request to model {model!r} is in it")
    first = min(times)
    return sorted((time_s - first) / speed for time_s in times)


def _traced(line: str, model: str) -> list[float]:
    """Return when a traced request came; a log's other lines have none."""
    if _TRACE not in line:
        return []
    try:
        facts: dict[str, Any] = json.loads(line[line.index(_TRACE) + len(_TRACE) - 1 :])
        came_s = facts["unix_ms"] / 1e3 - facts["total_us"] / 1e6
    except (ValueError, KeyError, TypeError):
        return []  # a line that the log's rotation cut
    return [came_s] if facts.get("model") == model else []


def _seconds(line: str, place: str) -> float:
    try:
        return float(line)
    except ValueError:
        raise UsageError(f"{place}: want a number of seconds, got {line[:64]!r}") from None
