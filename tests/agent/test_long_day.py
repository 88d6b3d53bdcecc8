"""A dead camera, a full disk and no broker, in one agent: what is sound goes on as if they were not there."""

import os
import subprocess
import time

import pytest
from bundles import make_bundle, pipeline_toml
from test_supervisor import Stage, is_running

from edgekit.agent.supervisor.worker_process import rss_mb
from edgekit.base.clock import FlooredClock
from edgekit.core.wire import MetricReport, decode_record
from edgekit.sync.outbox import Cursor, Outbox

FPS = 10
"""Few enough that a busy machine has the time for each."""
DAYS = 4
"""A machine that stands still takes frames of one of them; the three faults would take some of each."""
DAY_S = 6.0
"""A day of metric reports, alerts and retries, at intervals of a tenth of a second in place of minutes."""


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 16 MiB as the agent's state folder."""
    state = tmp_path / "state"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(state)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield state
    subprocess.run(["umount", "-l", str(state)], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def records(state):
    outbox = Outbox(state / "outbox.sqlite", FlooredClock(state / "clock"))
    try:
        batches = [parcel.batch for parcel in outbox.batches(Cursor(0, 0), 10_000)]
    finally:
        outbox.close()
    return [decode_record(bytes(item)) for batch in batches for item in batch.items]


def add(stage, name, text):
    bundle = make_bundle(stage.folder / f"bundle-{name}")
    (stage.folder / f"{name}.toml").write_text(text)
    stage.entries += f'[[pipeline]]\nfile = "{name}.toml"\nmodel = "{bundle}"\n'


def frames_in(stage, seconds):
    """Return a sound pipeline's frames in a time, and MiB of all processes at its beginning and end."""
    before, began_s = stage.status(), time.monotonic()
    time.sleep(seconds)
    after = stage.status()
    passed_s = time.monotonic() - began_s
    count = after["pipelines"]["sound"]["frames"] - before["pipelines"]["sound"]["frames"]
    pids = [os.getpid(), *(row["pid"] for row in after["workers"])]
    return count / passed_s, [rss_mb(pid) for pid in pids], after


def test_a_day_with_a_dead_camera_a_full_disk_and_no_broker_costs_the_sound_pipeline_nothing(
    tmp_path, small_disk
):
    stage = Stage(tmp_path)
    add(stage, "sound", pipeline_toml("sound", fps=FPS))
    stage.run(lambda stage: stage.until(is_running("sound", 10)))
    kept = records(small_disk)
    assert kept

    add(
        stage,
        "dead",
        pipeline_toml("dead").replace(
            'kind = "synthetic"\nrealtime = true\nfps = 100.0', 'kind = "camera"\nuri = "/dev/video99"'
        ),
    )
    add(
        stage,
        "full",
        pipeline_toml("full", fps=FPS) + '[[sink]]\nkind = "jsonl"\npath = "state/full.jsonl"\n',
    )
    add(
        stage,
        "mute",
        pipeline_toml("mute", fps=FPS) + '[[sink]]\nkind = "mqtt"\nurl = "mqtt://127.0.0.1:9"\n',
    )

    def day(stage):
        for name in ("sound", "full", "mute"):
            stage.until(is_running(name))
        fill(small_disk)
        frames_in(stage, 1.0)
        _, mib_before, _ = frames_in(stage, 0.1)
        for _ in range(DAYS):
            rate, mib_after, status = frames_in(stage, DAY_S)
            if rate > 0.95 * FPS:
                break
        (small_disk / "filler").unlink()
        return rate, sum(mib_after) - sum(mib_before), status

    rate, grown_mib, status = stage.run(day)
    assert rate > 0.8 * FPS  # waiting for a disk or a broker takes all of it
    assert grown_mib < 8
    rows = status["pipelines"]
    assert rows["sound"]["errors"] == rows["sound"]["restarts"] == 0
    assert rows["full"]["frames"] > 20
    assert rows["mute"]["brokers"][0]["sent"] == 0
    assert rows["mute"]["brokers"][0]["unsent"] > 0
    left = records(small_disk)
    lost = [record for record in kept if record not in left]
    # on a full disk newer metrics take the place of the oldest, and nothing else is lost
    assert [record for record in lost if not isinstance(record, MetricReport)] == []
    assert not lost or [record for record in left if isinstance(record, MetricReport) and record not in kept]
