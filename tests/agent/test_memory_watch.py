"""A worker whose memory grows without end is started anew in time; one that only breathes is left alone."""

import math
import os
import random

import pytest
from bundles import make_bundle
from test_supervisor import LIMITS, Stage, is_running

from edgekit.agent.supervisor import memory
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


def test_a_worker_that_leaks_is_started_anew_between_frames_and_the_others_run_on(tmp_path, monkeypatch):
    for name, value in (("SAMPLE_S", 0.1), ("SETTLE_S", 0.3), ("LEAST_SAMPLES", 6)):
        monkeypatch.setattr(memory, name, value)
    (tmp_path / "leaking.py").write_text("kept = []\ndef grow(_):\n    kept.append(b'x' * (1 << 20))\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    stage = Stage(tmp_path)
    stage.limits = LIMITS + "growth_mb = 60\n"
    for name in ("sound", "leaky"):
        stage.pipeline(name, make_bundle(tmp_path / name))
    with (tmp_path / "leaky.toml").open("a") as file:
        file.write('[[sink]]\nkind = "callback"\nfunction = "leaking:grow"\n')

    def client(stage):
        stage.until(
            lambda status: any(row["recycled"] for row in status["workers"]) and is_running("leaky")(status)
        )
        before = stage.status()["pipelines"]["leaky"]["frames"]
        return stage.until(is_running("leaky", before + 20))

    status = stage.run(client)
    recycled = {row["pipelines"][0]["name"]: bool(row["recycled"]) for row in status["workers"]}
    assert recycled == {"sound": False, "leaky": True}
    assert status["pipelines"]["leaky"]["restarts"] == status["pipelines"]["leaky"]["errors"] == 0
    assert status["pipelines"]["sound"]["restarts"] == 0
    said = [alert.message for alert in stage.alerts() if alert.code == "agent.recycled"]
    assert said
    assert all("leaky: its memory grew by" in text for text in said)
