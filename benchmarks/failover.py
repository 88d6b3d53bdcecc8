"""What a lost, a lying and a hanging runtime cost a pipeline, on a real pair: LiteRT and ONNX Runtime.

A sensor pipeline of 100 windows a second; LiteRT's variant is first. Faults are planted in it by seed: an
inference *loses* its accelerator, or its answers turn *wrong* and the check between frames finds it. ONNX
Runtime's variant takes over, the fault ends, LiteRT's returns, and the next fault comes. In the second half
the other variant stands by (``standby = "warm"``). A *hang* needs a process to kill: it is planted in an
agent's worker, with ``hang_s = 2``.

The claim: no frame is answered wrongly once its variant was found wrong; each fault is followed by a takeover
and a return, which are counted; no process restarts but one that hangs. The outage lasts from the fault (from
the finding of a wrong answer) to the next answer.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from _report import finish, parser

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kit"))

from real_pair import write_pair

from edgekit.agent.status import ask
from edgekit.agent.worker.runner import choices_of, make_loop
from edgekit.backends.litert import LiteRtBackend
from edgekit.core.errors import AcceleratorLostError, GoldenError, LinkError
from edgekit.model.holder import Holder
from edgekit.pipeline.config import load_config

FAULTS, FULL_FAULTS, HANGS, FULL_HANGS = 60, 1000, 2, 20
WAIT_S = 120.0
MARK = np.float32([0, 0, 0, 99])
"""The planted wrong answer: the last label with a score of 1."""
PIPELINE = """
[pipeline]
name = "p"
model = "relu"
[source]
kind = "synthetic"
realtime = true
fps = 100
[fallback]
standby = "{standby}"
recheck_s = 0.2
retry_s = [0.1, 0.1]
[[sink]]
kind = "{sink}"
"""
AGENT = """
[agent]
state = "state"
[[pipeline]]
file = "p.toml"
[intervals]
progress_s = 0.1
[limits]
hang_s = 2
"""
HANGING = """
import sys
if "edgekit.agent.worker" in sys.orig_argv:
    import pathlib, time
    from edgekit.backends.litert import LiteRtBackend
    run = LiteRtBackend.run
    def hanging(backend):
        while pathlib.Path({flag!r}).exists():
            time.sleep(0.05)
        return run(backend)
    LiteRtBackend.run = hanging
"""


def until(claim, what):
    """Wait until a claim is true."""
    deadline_s = time.monotonic() + WAIT_S
    while not (answer := claim()):
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{what}: not within {WAIT_S:.0f} s")
        time.sleep(0.001)
    return answer


class Stage:
    """A pipeline in this process whose LiteRT variant fails when ``fault`` says so."""

    def __init__(self, path, *, lets_one_through):
        config = load_config(path)
        self.fault, self.began_s, self.outage_s, self.wrong = "", 0.0, None, 0
        self.lets_one_through = lets_one_through
        self.holder = Holder(path.parent / "relu", choices_of(config), fallback=config.fallback)
        self.loop = make_loop(
            config,
            self.holder.ready.predictor,
            failover=self.fail_over,
            recheck=self.holder.recheck,
            callback=self.answered,
        )
        self.holder.watch(lambda _, new: self.loop.swap(new.predictor))
        self.thread = threading.Thread(target=self.loop.run)

    def run(self, backend):
        """Run LiteRT, or do what the fault says."""
        if self.fault == "lost":
            self.began_s = self.began_s or time.monotonic()
            raise AcceleratorLostError("planted")
        answers = LITERT(backend)
        return {name: MARK.reshape(a.shape) if self.fault == "wrong" else a for name, a in answers.items()}

    def fail_over(self, lost, error):
        """Have the holder take over, and note when a wrong answer was found."""
        if isinstance(error, GoldenError):
            self.began_s = self.began_s or time.monotonic()
            if self.lets_one_through:
                self.lets_one_through = False
                return lost
        return self.holder.fail_over(lost, error)

    def answered(self, result):
        """Note a frame's answer."""
        if self.began_s:
            self.outage_s = self.outage_s or time.monotonic() - self.began_s
            if any(item.score > 0.9999 for item in result.prediction.items):
                self.wrong += 1
                self.fault = "lost"  # it was let through; now the variant is lost all the same

    def suffer(self, fault, *, is_warm):
        """Plant a fault, and wait until the other variant runs and LiteRT's is back; return the outage."""
        holder = self.holder
        if is_warm:
            until(lambda: holder._standby is not None, "a variant that stands by")  # noqa: SLF001
        failovers, returns = holder.failovers, holder.returns
        self.began_s, self.outage_s, self.fault = 0.0, None, fault
        until(lambda: holder.failovers > failovers, f"a takeover ({fault})")
        until(lambda: self.outage_s, "an answer")
        self.fault = ""
        until(lambda: holder.returns > returns, "the return")
        self.began_s = 0.0
        return self.outage_s


LITERT = LiteRtBackend.run


def in_process(folder, faults, seed, *, is_warm, lets_one_through):
    """Run a pipeline through so many faults; return its figures."""
    chance = random.Random(seed)
    path = folder / "p.toml"
    path.write_text(PIPELINE.format(standby="warm" if is_warm else "none", sink="callback"))
    stage = Stage(path, lets_one_through=lets_one_through)
    LiteRtBackend.run = lambda backend: stage.run(backend)  # noqa: PLW0108 - a method must not be bound
    stage.thread.start()
    outages = {"lost": [], "wrong": []}
    try:
        for number in range(faults):
            time.sleep(chance.uniform(0.0, 0.05))
            fault = "wrong" if number == 0 else chance.choice(("lost", "wrong"))
            outages[fault].append(stage.suffer(fault, is_warm=is_warm) * 1e3)
    finally:
        stage.loop.stop()
        stage.thread.join()
        stage.holder.close()
        LiteRtBackend.run = LITERT
    tally, holder = stage.loop.tally, stage.holder
    return {
        "faults": faults,
        "failovers": tally.failovers if lets_one_through else holder.failovers,
        "returns": holder.returns,
        "is_counted": holder.failovers == tally.failovers == holder.returns == faults,
        "wrong_after_found": stage.wrong,
        "frames": tally.processed,
        "failed": tally.failed,
        "rechecks": holder.rechecks,
        "outage_ms": {fault: spread(times) for fault, times in outages.items() if times},
    }


def spread(times):
    """Return median, 99th percentile and worst."""
    ordered = sorted(times)
    rank = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[rank], 2),
        "worst": round(ordered[-1], 2),
    }


def in_agent(folder, hangs):
    """Have an agent's worker hang so many times; return the figures, by the agent's status."""
    flag, state = folder / "hang", folder / "state"
    (folder / "sitecustomize.py").write_text(HANGING.format(flag=str(flag)))
    (folder / "p.toml").write_text(PIPELINE.format(standby="none", sink="jsonl") + 'path = "out.jsonl"\n')
    (folder / "agent.toml").write_text(AGENT)
    words = [sys.executable, "-m", "edgekit.cli.main", "agent", "run", "--config", str(folder / "agent.toml")]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])

    def row():
        try:
            return ask(state, {"op": "status"}, timeout_s=30)["pipelines"]["p"]
        except LinkError:
            return {"variant": "", "fps": 0.0, "fallback": {}}

    def runs(variant):
        return until(lambda: (r := row())["variant"] == variant and r["fps"] > 0 and r, f"{variant} runs")

    outages = []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, stderr=log, env={**os.environ, "PYTHONPATH": path})
    try:
        for _ in range(hangs):
            runs("lite")
            flag.touch()
            began_s = time.monotonic()
            until(lambda: row()["variant"] != "lite", "the end of the hanging worker")
            flag.unlink()
            fallback = runs("onnx")["fallback"]
            outages.append((time.monotonic() - began_s) * 1e3)
        last = runs("lite")
    finally:
        process.terminate()
        process.wait()
    figures = {name: last[name] for name in ("restarts", "returns")}
    is_shown = (fallback["at"], fallback["of"]) == (1, 2) and "finished no frame" in fallback["reason"]
    return {
        "hangs": hangs,
        **figures,
        "is_counted": set(figures.values()) == {hangs},
        "fallback": fallback,
        "is_shown": is_shown,
        "outage_ms": spread(outages),
    }


def main():
    """Measure, and hold it against the bar."""
    arguments = parser(
        __doc__,
        full=f"{FULL_FAULTS} faults and {FULL_HANGS} hangs, not {FAULTS} and {HANGS}",
        sabotage="one finding of a wrong answer is ignored",
    ).parse_args()
    faults, hangs = (FULL_FAULTS, FULL_HANGS) if arguments.full else (FAULTS, HANGS)
    if arguments.sabotage:
        faults, hangs = 2, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder / "relu")
        detail = {
            standby: in_process(
                folder,
                faults // 2,
                seed,
                is_warm=standby == "warm",
                lets_one_through=arguments.sabotage and not seed,
            )
            for seed, standby in enumerate(("none", "warm"))
        }
        rows = list(detail.values())
        if hangs:
            detail["hang"] = in_agent(folder, hangs)
            rows.append({"wrong_after_found": 0, "failed": 0, **detail["hang"]})
            rows[-1]["is_counted"] &= rows[-1]["is_shown"]
    wrong = sum(row["wrong_after_found"] for row in rows)
    holds = not wrong and all(row["is_counted"] and not row["failed"] for row in rows)
    claim = "no frame is answered by a variant that was found wrong; each fault is survived, and it returns"
    return finish(claim, wrong, "wrong answers after the finding", 0, holds, detail, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
