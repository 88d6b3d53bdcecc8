"""What an agent costs while nothing happens, and how soon it works: memory, processor, flash, cold start.

Starts a broker (TLS, client certificate) and an agent that is connected to it, with one classifier loaded in
LiteRT and a camera that gives one frame and then none. Claims:

- the supervisor stays under 30 MB resident;
- supervisor and worker together take at most 0.5 % of one core (user and system time of the kernel);
- they write at most 5 MB a day to the disk. A day is compressed into 90 s: every timer of the supervisor that
  leads to a write runs 960 times as fast, and what the kernel counts as written (``write_bytes`` of
  /proc/PID/io, the pages that reach the disk) is taken as a day's;
- from the start of ``edgekit run`` to the first written prediction it takes at most 2 s (best of three: the
  files are in memory, the backends were proved before);
- ``import edgekit`` takes under 60 ms more than an empty Python.

The value is the worst figure as a share of its bar.

    python benchmarks/idle_cost.py [--bundle PATH] [--json]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _report import finish, parser
from footprint import (
    ask,
    broker_config,
    build_bundle,
    certificates,
    end,
    environment,
    free_port,
    memory,
    nats_server,
)

BARS = {
    "supervisor_mb": 30.0,
    "idle_cpu_percent": 0.5,
    "written_mb_a_day": 5.0,
    "first_prediction_s": 2.0,
    "import_ms": 60.0,
}
DAY_S, COMPRESSED_S = 86_400.0, 90.0
TRIES, IMPORTS = 3, 9
# Runs the supervisor with its timers shortened: those of code, not those of agent.toml.
COMPRESSED = """
import sys
from edgekit.agent.__main__ import leave_out_unused, main
leave_out_unused()
from edgekit.agent.supervisor import metrics, supervisor
from edgekit.sync import ledger
factor = float(sys.argv[1])
supervisor.CLOCK_KEEP_S /= factor
metrics.IDLE_REPORT_S /= factor
ledger.FLUSH_S /= factor
sys.exit(main(sys.argv[2:]))
"""
# Imported by each Python process of the agent: what a careless logger would do.
WASTEFUL = """
import os, threading, time
def write():
    with open(os.path.join(os.path.dirname(__file__), f"log-{os.getpid()}"), "ab") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            time.sleep(0.1)
threading.Thread(target=write, daemon=True).start()
"""


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parser(
        __doc__,
        full="measure the processor for two minutes",
        sabotage="each process writes 4 kB ten times a second",
    )
    options.add_argument("--bundle", type=Path, help="built from the zoo (efficientnet-lite0) if not given")
    options.add_argument("--variant", default="litert-int8")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-idle-", dir=on_disk()) as folder:
        work = Path(folder)
        bundle = (args.bundle or build_bundle(work)).resolve()
        if args.sabotage:
            (work / "sitecustomize.py").write_text(WASTEFUL)
        figures = measured(work, bundle, args.variant, args.full, args.sabotage)
    shares = {name: figures[name] / BARS[name] for name in BARS if name in figures}
    worst = max(shares, key=lambda name: shares[name])
    detail = {"figures": figures, "bars": BARS, "worst": worst, "python": sys.version.split()[0]}
    return finish(
        "an idle agent's memory, processor and flash writes, its cold start, and its import",
        round(shares[worst], 3),
        "of the bar",
        1.0,
        shares[worst] <= 1.0,
        detail,
        args.json,
    )


def on_disk() -> str:
    """Return a folder that is on a disk: the kernel counts no writes to one in memory."""
    for path in (tempfile.gettempdir(), str(Path.home()), str(Path.cwd())):
        command = ["stat", "--file-system", "--format=%T", path]
        if subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() != "tmpfs":
            return path
    raise SystemExit("neither the temporary folder nor the home folder is on a disk; set TMPDIR")


def measured(work: Path, bundle: Path, variant: str, full: bool, sabotage: bool) -> dict[str, float]:
    """Return every figure; with ``sabotage`` only the one that the planted fault is in."""
    configuration(work, bundle, variant)
    with broker(work):
        with agent(work, []):  # compiles modules, proves backends, copies nothing twice afterwards
            pass
        if sabotage:
            return {"written_mb_a_day": written_mb_a_day(work, 9.0)}
        figures = {"written_mb_a_day": written_mb_a_day(work, COMPRESSED_S)}
        with agent(work, []) as supervisor:
            settled(supervisor)
            figures["idle_cpu_percent"] = cpu_percent(supervisor, 120.0 if full else 20.0)
            figures["supervisor_mb"] = memory(supervisor)["rss_mb"]
    figures["first_prediction_s"] = min(first_prediction_s(work) for _ in range(TRIES))
    figures["import_ms"] = import_ms(work)
    return {name: round(value, 3) for name, value in figures.items()}


def configuration(work: Path, bundle: Path, variant: str) -> None:
    """Write the agent's file and its pipeline's: one frame now, the next in an hour."""
    (work / "camera.toml").write_text(
        f"""
        [pipeline]
        name = "camera"
        model = "{bundle}"
        [model]
        variant = "{variant}"
        threads = 1
        [source]
        kind = "synthetic"
        realtime = true
        fps = 0.000278
        [privacy]
        egress = ["labels", "counts"]
        """
    )
    once = (
        (work / "camera.toml").read_text().replace("realtime = true", "frames = 1").replace("0.000278", "30")
    )
    sink = f'[[sink]]\nkind = "jsonl"\npath = "{work}/out.jsonl"\n'
    (work / "once.toml").write_text(once.replace('egress = ["labels", "counts"]', "") + sink)
    head = '[agent]\nstate = "state"\npipelines = ["camera.toml"]\n'
    (work / "agent.toml").write_text(head)
    factor = DAY_S / COMPRESSED_S
    # 0.05 s at least: what is put within a commit's delay would be one write
    rows = "".join(f"{name} = {max(0.05, seconds / factor)}\n" for name, seconds in DEFAULTS.items())
    (work / "compressed.toml").write_text(f"{head}[intervals]\n{rows}")


DEFAULTS = {"metrics_s": 10.0, "reported_s": 300.0, "sensors_s": 10.0}


@contextmanager
def broker(work: Path) -> Iterator[None]:
    """Run the broker."""
    port = free_port()
    certificates(work, work / "state" / "identity", port)
    command = [nats_server(), "-c", str(broker_config(work, port))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        end(process)


@contextmanager
def agent(work: Path, launcher: list[str], file: str = "agent.toml") -> Iterator[int]:
    """Run an agent until it is idle, with its link up; yield the supervisor's process id."""
    python = launcher or ["-m", "edgekit.agent"]
    command = [sys.executable, *python, str(work / file), str(work / "state")]
    with (work / "agent.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment(work), stderr=log)
    try:
        wait_until_idle(work, process)
        yield process.pid
    finally:
        end(process)


def wait_until_idle(work: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for the only frame, and for the link."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise SystemExit(f"the agent ended: {(work / 'agent.log').read_text()[-2000:]}")
        status = ask(work / "state")
        if status and status["link"]["connected"] and status["pipelines"]["camera"]["frames"] >= 1:
            return
        time.sleep(0.2)
    raise SystemExit(f"the agent does not get to work: {(work / 'agent.log').read_text()[-2000:]}")


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def settled(pid: int) -> list[int]:
    """Return supervisor and worker, once the processes that examine and measure at a start have ended."""
    deadline_s, found = time.monotonic() + 120, family(pid)
    while time.monotonic() < deadline_s:
        time.sleep(3.0)
        before, found = found, family(pid)
        if found == before and len(found) == 2:
            return found
    raise SystemExit(f"the agent goes on with other processes: {names(pid)}")


def counters(pids: list[int], file: str) -> Iterator[str]:
    """Yield a file of /proc of each process."""
    return (Path(f"/proc/{pid}/{file}").read_text() for pid in pids)


def names(pid: int) -> list[str]:
    """Return the command lines of a process and its descendants."""
    return [text.replace("\0", " ") for text in counters(family(pid), "cmdline")]


def written_bytes(pids: list[int]) -> int:
    """Return what the kernel counts as written to disks by these processes."""
    lines = (line for text in counters(pids, "io") for line in text.splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def written_mb_a_day(work: Path, seconds: float) -> float:
    """Return what supervisor and worker write in a compressed day; fewer ``seconds`` are part of one."""
    launcher = ["-c", COMPRESSED, str(DAY_S / COMPRESSED_S)]
    with agent(work, launcher, "compressed.toml") as supervisor:
        pids = settled(supervisor)  # the births and first reports of a start are no day's
        before = written_bytes(pids)
        time.sleep(seconds)
        if family(supervisor) != pids:
            raise SystemExit(
                f"no idle agent, it started processes: {(work / 'agent.log').read_text()[-2000:]}"
            )
        return (written_bytes(pids) - before) / 1e6 * COMPRESSED_S / seconds


def cpu_percent(supervisor: int, seconds: float) -> float:
    """Return the processor time of supervisor and worker, as a share of one core in percent."""

    def used_s() -> float:
        # Source: proc_pid_stat(5): utime and stime are the 14th and 15th field; the name may hold blanks
        rows = [text.rpartition(")")[2].split() for text in counters(family(supervisor), "stat")]
        return sum(int(row[11]) + int(row[12]) for row in rows) / os.sysconf("SC_CLK_TCK")

    before_s, began_s = used_s(), time.monotonic()
    time.sleep(seconds)
    return 100 * (used_s() - before_s) / (time.monotonic() - began_s)


def first_prediction_s(work: Path) -> float:
    """Return the time from the start of the command to the first line in its sink."""
    out = work / "out.jsonl"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "edgekit.cli.main", "run", str(work / "once.toml")]
    began_s = time.monotonic()
    process = subprocess.Popen(
        command, env=environment(work), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.002)
    took_s = time.monotonic() - began_s
    _, errors = process.communicate()
    if process.returncode or not out.exists():
        raise SystemExit(f"edgekit run ended with {process.returncode}: {errors.decode()}")
    return took_s


def import_ms(work: Path) -> float:
    """Return what ``import edgekit`` adds to an empty process: medians, in turn."""

    def took_ms(code: str) -> float:
        began_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], env=environment(work), check=True)
        return 1e3 * (time.perf_counter() - began_s)

    pairs = [(took_ms("import edgekit"), took_ms("pass")) for _ in range(IMPORTS)]
    return statistics.median(pair[0] for pair in pairs) - statistics.median(pair[1] for pair in pairs)


if __name__ == "__main__":
    sys.exit(main())
