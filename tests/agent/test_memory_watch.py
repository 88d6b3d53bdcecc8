"""A worker whose memory grows without end is started anew in time; one that only breathes is left alone."""

import math
import os
import random
import signal
from pathlib import Path

import pytest
from bundles import make_bundle
from test_supervisor import LIMITS, Stage, is_running, pid_of

from edgekit.agent.supervisor import memory, supervisor
from edgekit.agent.supervisor.memory import LEAST_SAMPLES, MemoryWatch, free_mb, slope_of, verdict
from edgekit.agent.supervisor.worker_process import rss_mb


def samples(count, mb_of, seed=0):
    noise = random.Random(seed)
    return [(n * 10.0, mb_of(n) + noise.uniform(-2, 2)) for n in range(count)]


def test_a_slope_is_found_with_its_error():
    slope = slope_of(samples(60, lambda n: 100 + 0.5 * n))
    assert slope.mb_per_s == pytest.approx(0.05, abs=4 * slope.error)
    assert 0 < slope.error < 0.01
    assert slope_of([(0, 1), (1, 2)]).error == math.inf


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "mb_of",
    [
        lambda _: 200.0,
        lambda n: 200 + 30 * (n % 10 < 5),  # a cache that is filled and emptied
        lambda n: 300 - n,
        lambda n: 200 + 0.1 * n,  # less than is worth a start
    ],
)
def test_memory_that_does_not_grow_without_end_is_left_alone(mb_of, seed):
    seen = samples(60, mb_of, seed)
    assert not verdict(seen, max(seen[-1][1] - seen[0][1], 0), 100_000.0, 256.0)


def test_growth_beyond_the_limit_or_towards_the_end_of_memory_is_a_reason():
    leak = samples(60, lambda n: 200 + 2 * n)  # 720 MiB an hour
    assert "limits.growth_mb is 100" in verdict(leak, 120, 100_000, 100)
    assert not verdict(leak, 120, 100_000, 0)
    assert "the 60 MiB that are free would last" in verdict(leak, 120, 60, 0)
    assert not verdict(leak[: LEAST_SAMPLES - 1], 120, 60, 100)


def test_a_watch_samples_now_and_then_and_begins_anew_where_something_else_runs():
    taken, grown = [], iter(range(200, 10_000, 4))

    def resident_mb(pid):
        taken.append(pid)
        return float(next(grown))

    watch = MemoryWatch(100, resident_mb, lambda: 100_000.0)
    said = [second for second in range(2000) if watch.look(float(second), 7, "a" if second < 300 else "b")]
    assert len(taken) == pytest.approx((2000 - 240) / 10, abs=3)
    assert 300 + memory.SETTLE_S + LEAST_SAMPLES * 10 - 20 <= said[0] <= 300 + memory.SETTLE_S + 310


def test_there_is_room_where_the_process_as_it_settled_fits_in_once_more_with_a_quarter_to_spare():
    left_mb = [126.0]
    grown = iter([100.0, 400.0])
    watch = MemoryWatch(0, lambda _: next(grown), lambda: left_mb[0])
    for second in (0.0, memory.SETTLE_S, memory.SETTLE_S + memory.SAMPLE_S):
        watch.look(second, 7, "a")
    assert (watch.settled_mb, watch.has_room()) == (100.0, True)
    left_mb[0] = 124.0
    assert not watch.has_room()


def test_what_is_free_is_the_machines_or_the_control_groups(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\n")
    assert free_mb(tmp_path) == 2000
    write(f"proc/{os.getpid()}/cgroup", "0::/system.slice/edgekit.service\n")
    write("sys/fs/cgroup/system.slice/edgekit.service/memory.max", "max\n")
    assert free_mb(tmp_path) == 2000
    write("sys/fs/cgroup/system.slice/edgekit.service/memory.max", f"{500 << 20}\n")
    write("sys/fs/cgroup/system.slice/edgekit.service/memory.current", f"{400 << 20}\n")
    assert free_mb(tmp_path) == 100
    assert 0 < free_mb() < math.inf
    assert rss_mb(os.getpid()) > 0


LEAKING = """
import os, time
kept = []
def grow(result):
    kept.append(b"x" * (1 << 20))
    with open({seen!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{time.monotonic()}}\\n")
"""


@pytest.fixture
def leaky(request, tmp_path, monkeypatch):
    """An agent whose pipeline ``leaky`` leaks a MiB a frame, beside a sound one; samples each 0.1 s.

    The parameter is how many seconds the leaky one's model takes to load.
    """
    for name, value in (("SAMPLE_S", 0.1), ("SETTLE_S", 0.3), ("LEAST_SAMPLES", 6)):
        monkeypatch.setattr(memory, name, value)
    (tmp_path / "leaking.py").write_text(LEAKING.format(seen=str(tmp_path / "seen")))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    stage = Stage(tmp_path)
    stage.limits = LIMITS + "growth_mb = 40\n"
    stage.pipeline("sound", make_bundle(tmp_path / "sound"))
    stage.pipeline(
        "leaky", make_bundle(tmp_path / "leaky", options={"load_ms": 1e3 * getattr(request, "param", 0.0)})
    )
    with (tmp_path / "leaky.toml").open("a") as file:
        file.write('[[sink]]\nkind = "callback"\nfunction = "leaking:grow"\n')
    return stage


def row_of(status, pipeline):
    return next(row for row in status["workers"] if row["pipelines"][0]["name"] == pipeline)


def children():
    """Return the ids of the workers that this process has."""
    tasks = Path("/proc/self/task").iterdir()
    pids = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in pids if b"edgekit.agent.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alerts_of(stage, code):
    return [alert.message for alert in stage.alerts() if alert.code == code]


def has(pipeline, **claims):
    def claim(status):
        rows = [row for row in status["workers"] if row["pipelines"][0]["name"] == pipeline]
        return bool(rows) and all(rows[0][key] == value for key, value in claims.items())

    return claim


@pytest.mark.parametrize("leaky", [2.0], indirect=True)
def test_a_second_process_takes_over_from_a_worker_that_leaks_between_two_frames(leaky):
    """The pause between two frames is the source's: models, runtime and modules are loaded before it."""

    def client(stage):
        stage.until(is_running("sound"))
        stage.until(has("leaky", recycled=1, standby=""))
        before = stage.status()["pipelines"]["leaky"]["frames"]
        return stage.until(is_running("leaky", before + 10))

    status = leaky.run(client)
    assert row_of(status, "sound")["recycled"] == 0
    for name in ("leaky", "sound"):
        assert status["pipelines"][name]["restarts"] == status["pipelines"][name]["errors"] == 0
    (said,) = alerts_of(leaky, "agent.recycled")
    assert "leaky: its memory grew by" in said
    assert "took over from" in said
    lines = [line.split() for line in (leaky.folder / "seen").read_text().splitlines()]
    pids = [pid for pid, _ in lines]
    second = pids.index(str(row_of(status, "leaky")["pid"]))
    assert set(pids[:second]).isdisjoint(pids[second:])
    pause_s = float(lines[second][1]) - float(lines[second - 1][1])
    assert pause_s < 2.0  # the model alone takes so long to load


def test_a_second_process_takes_over_a_pipeline_of_several_models(leaky):
    make_bundle(leaky.folder / "second", model="second")
    path = leaky.folder / "leaky.toml"
    stages = "".join(f'[[stage]]\nname = "{name}"\nmodel = "./{name}"\n' for name in ("leaky", "second"))
    path.write_text(path.read_text().replace('model = "motion"', "") + stages)

    def client(stage):
        stage.until(has("leaky", recycled=1, standby=""))
        return stage.until(is_running("leaky", stage.status()["pipelines"]["leaky"]["frames"] + 10))

    status = leaky.run(client)
    row = status["pipelines"]["leaky"]
    assert row["restarts"] == row["errors"] == 0
    assert [(each["name"], each["model"]) for each in row["stages"]] == [
        ("leaky", "motion"),
        ("second", "second"),
    ]
    assert [each["users"] for each in row_of(status, "leaky")["models"]] == [["leaky"], ["leaky/second"]]
    assert all(each["inferences"] for each in row["stages"])


def test_where_the_second_process_cannot_open_the_model_the_first_goes_on_and_says_why(leaky):
    def client(stage):
        pid = row_of(stage.until(is_running("leaky")), "leaky")["pid"]
        (stage.folder / "leaky").rename(stage.folder / "gone")
        status = stage.until(lambda status: row_of(status, "leaky")["standby_failures"] >= 1)
        assert (row_of(status, "leaky")["pid"], row_of(status, "leaky")["recycled"]) == (pid, 0)
        status = stage.until(is_running("leaky", status["pipelines"]["leaky"]["frames"] + 10))
        (stage.folder / "gone").rename(stage.folder / "leaky")  # and is asked again later
        return stage.until(lambda status: row_of(status, "leaky")["recycled"] >= 1)

    status = leaky.run(client)
    assert status["pipelines"]["leaky"]["restarts"] == status["pipelines"]["leaky"]["errors"] == 0
    assert "leaky" in alerts_of(leaky, "agent.standby_failed")[0]


@pytest.mark.parametrize("leaky", [1.0], indirect=True)  # both are killed long before the handover
@pytest.mark.parametrize("victim", ["standby", "first"])
def test_whichever_process_is_killed_during_a_handover_frames_go_on(leaky, victim):
    def client(stage):
        first = row_of(stage.until(is_running("leaky")), "leaky")["pid"]
        status = stage.until(has("leaky", standby="opening"))
        pids = {pid for pid in children() if pid not in {row["pid"] for row in status["workers"]}}
        (standby,) = pids
        os.kill(first if victim == "first" else standby, signal.SIGKILL)
        status = stage.until(has("leaky", standby_failures=1))
        return stage.until(is_running("leaky", status["pipelines"]["leaky"]["frames"] + 10))

    status = leaky.run(client)
    assert status["pipelines"]["leaky"]["restarts"] == (victim == "first")
    said = alerts_of(leaky, "agent.standby_failed")[0]
    assert (
        "its process ended: killed by SIGKILL" if victim == "standby" else "the first process ended"
    ) in said


@pytest.mark.parametrize(
    "why_not", ["what is free does not hold it twice", "one process at a time can have npu"]
)
def test_where_two_processes_cannot_be_a_worker_is_started_anew_plainly_and_says_so(
    leaky, monkeypatch, why_not
):
    if "npu" in why_not:
        monkeypatch.setattr(
            supervisor, "exclusive_of", lambda plans, *_: {plan.name: {"npu"} for plan in plans}
        )
    else:
        rooms = iter([False])  # for the first time; afterwards a second process may take over
        monkeypatch.setattr(MemoryWatch, "has_room", lambda _: next(rooms, True))

    def client(stage):
        first = pid_of(stage.until(lambda status: pid_of(status, "leaky") is not None), "leaky")
        stage.until(lambda status: pid_of(status, "leaky") not in {None, first})
        before = stage.status()["pipelines"]["leaky"]["frames"]
        return stage.until(is_running("leaky", before + 10))

    status = leaky.run(client)
    assert status["pipelines"]["leaky"]["restarts"] == status["pipelines"]["leaky"]["errors"] == 0
    assert f"started anew without a standby: {why_not}" in alerts_of(leaky, "agent.recycled")[0]
