"""What it costs that four pipelines use one model: one process, one load, fair shares; and what a kill costs.

An agent runs a LiteRT int8 classifier on made-up camera frames, first for one pipeline, then for four with a
quarter of its frame rate each, so that the sources do the same work in both. The claims: one worker process
has one loaded model; the memory of the agent's process tree (PSS) is under 1.4 times that of one pipeline;
the four together make at least 0.95 of its frames, and the slowest at least 0.9 of a quarter. Then a worker
is killed (SIGKILL) again and again beside another one: that one's pipeline loses no frame and is not
restarted, the outbox loses nothing, no version is given up.

    python benchmarks/shared_model.py [--bundle PATH] [--seconds S] [--json]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import finish, parser
from footprint import build_bundle

from edgekit.agent.status import ask
from edgekit.agent.supervisor.worker_process import pss_mb
from edgekit.core.errors import LinkError

PSS_RATIO, SUM_RATIO, SHARE_RATIO = 1.4, 0.95, 0.9
FPS = 240.0
"""More than the model makes, so that it is always busy."""
KILLS, FULL_KILLS = 3, 100
WAIT_S = 120.0
PIPELINE = """
[pipeline]
name = "{name}"
model = "{bundle}"
worker = "{worker}"
[model]
variant = "{variant}"
threads = 1
[source]
kind = "synthetic"
{source}
"""


class Agent:
    """An agent with some pipelines, as processes."""

    def __init__(self, work: Path, pipelines: dict[str, str], more: str = "") -> None:
        work.mkdir()
        for name, text in pipelines.items():
            (work / f"{name}.toml").write_text(text)
        files = ", ".join(f'"{name}.toml"' for name in pipelines)
        (work / "agent.toml").write_text(f'[agent]\nstate = "state"\npipelines = [{files}]\n{more}')
        self._state = work / "state"
        command = [sys.executable, "-m", "edgekit.cli.main", "agent", "run", "--config"]
        with (work / "agent.log").open("wb") as log:
            self._process = subprocess.Popen([*command, str(work / "agent.toml")], stderr=log)

    def __enter__(self) -> Agent:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def until(self, claim: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Return the first status that satisfies a claim."""
        deadline_s, status = time.monotonic() + WAIT_S, {}
        while time.monotonic() < deadline_s:
            try:
                status = ask(self._state, {"op": "status"})
            except LinkError:
                status = {}
            if status and claim(status):
                return status
            time.sleep(0.1)
        raise SystemExit(f"not within {WAIT_S:.0f} s; last: {status.get('pipelines')}")

    def pss_mb(self, status: dict[str, Any]) -> float:
        """Return the memory of the process tree, shared pages once."""
        return pss_mb(self._process.pid) + sum(pss_mb(row["pid"]) for row in status["workers"])


def all_run(status: dict[str, Any]) -> bool:
    """Return whether every pipeline makes frames."""
    return all(row["state"] == "running" and row["frames"] > 10 for row in status["pipelines"].values())


def measure(work: Path, texts: dict[str, str], seconds: float) -> dict[str, Any]:
    """Run pipelines; return their frame rates, and what processes and models they have."""
    with Agent(work, texts) as agent:
        first = agent.until(all_run)
        began_s = time.monotonic()
        time.sleep(seconds)
        last = agent.until(all_run)
        took_s = time.monotonic() - began_s
        rates = {
            name: (row["frames"] - first["pipelines"][name]["frames"]) / took_s
            for name, row in last["pipelines"].items()
        }
        return {
            "fps": {name: round(rate, 1) for name, rate in rates.items()},
            "pss_mb": round(agent.pss_mb(last), 1),
            "processes": len({row["pid"] for row in last["workers"]}),
            "models": [model for row in last["workers"] for model in row["models"]],
        }


def kill(work: Path, victim: str, other: str, kills: int) -> dict[str, Any]:
    """Kill one worker so many times beside another; return what was lost."""
    with Agent(work, {"victim": victim, "other": other}) as agent:
        status = agent.until(all_run)
        for _ in range(kills):
            pid = pid_of(status, "victim")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            status = agent.until(
                lambda status, pid=pid: (
                    pid_of(status, "victim") not in (None, pid)
                    and status["pipelines"]["victim"]["state"] == "running"
                )
            )
        status = agent.until(all_run)
        row = status["pipelines"]["other"]
        return {
            "kills": kills,
            "victim_restarts": status["pipelines"]["victim"]["restarts"],
            "other": {key: row[key] for key in ("frames", "dropped", "errors", "restarts")},
            "outbox_dropped": status["outbox"]["dropped"],
            "rejected": status["rejected"],
            "victim_excluded": status["pipelines"]["victim"]["excluded"],
        }


def pid_of(status: dict[str, Any], pipeline: str) -> int | None:
    """Return the process of a pipeline, if it has one."""
    rows = [row["pid"] for row in status["workers"] if pipeline in [p["name"] for p in row["pipelines"]]]
    return rows[0] if rows else None


def text_of(
    name: str, args: Any, bundle: Path, fps: float, worker: str = "auto", *, live: bool = True
) -> str:
    """Return a pipeline on the model; a source that is not live loses no frame."""
    source = f"realtime = {'true' if live else 'false'}\nfps = {fps}\nwidth = 160\nheight = 120"
    return PIPELINE.format(name=name, bundle=bundle, worker=worker, variant=args.variant, source=source)


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parser(__doc__, full="100 kills, a minute each", sabotage="each pipeline has its own process")
    options.add_argument("--bundle", type=Path, help="built from the zoo (efficientnet-lite0) if not given")
    options.add_argument("--variant", default="litert-int8")
    options.add_argument("--seconds", type=float, default=10.0)
    args = options.parse_args()
    seconds = 60.0 if args.full else args.seconds
    with tempfile.TemporaryDirectory(prefix="edgekit-shared-") as folder:
        work = Path(folder)
        bundle = (args.bundle or build_bundle(work)).resolve()
        names = ["p0", "p1", "p2", "p3"]
        workers = names if args.sabotage else ["auto"] * 4
        one = measure(work / "one", {"p0": text_of("p0", args, bundle, FPS)}, seconds)
        four = measure(
            work / "four",
            {n: text_of(n, args, bundle, FPS / 4, w) for n, w in zip(names, workers, strict=True)},
            seconds,
        )
        killed = kill(
            work / "kill",
            text_of("victim", args, bundle, 20.0, "victim"),
            text_of("other", args, bundle, 30.0, "other", live=False),
            FULL_KILLS if args.full else KILLS,
        )
    alone = one["fps"]["p0"]
    ratios = {
        "pss": round(four["pss_mb"] / one["pss_mb"], 3),
        "sum": round(sum(four["fps"].values()) / alone, 3),
        "worst_share": round(min(four["fps"].values()) / (sum(four["fps"].values()) / 4), 3),
    }
    other = killed["other"]
    holds = (
        four["processes"] == len(four["models"]) == 1
        and ratios["pss"] < PSS_RATIO
        and ratios["sum"] >= SUM_RATIO
        and ratios["worst_share"] >= SHARE_RATIO
        and (other["dropped"], other["errors"], other["restarts"]) == (0, 0, 0)
        and killed["outbox_dropped"] == 0
        and not killed["rejected"]
        and not killed["victim_excluded"]
    )
    detail = {"ratios": ratios, "one": one, "four": four, "killed": killed}
    claim = "four pipelines on one model are one process with one load: memory of the process tree by PSS"
    return finish(claim, ratios["pss"], "times one pipeline's", PSS_RATIO, holds, detail, args.json)


if __name__ == "__main__":
    sys.exit(main())
