"""The worker process by itself, over its channel."""

from __future__ import annotations

import hashlib
import select
import time

import pytest
from bundles import make_bundle, pipeline_toml

from edgekit.agent.config import worker_environment
from edgekit.agent.ipc import (
    AlertOut,
    Ended,
    EventOut,
    FailedOver,
    Fatal,
    Keep,
    Opening,
    Progress,
    Returned,
    Run,
    Started,
    Swap,
    SwapFailed,
    Swapped,
    Varied,
)
from edgekit.agent.supervisor.worker_process import WorkerProcess
from edgekit.base.child import exit_reason
from edgekit.model.bundle import open_bundle
from edgekit.model.costs import MeasuredCost, cost_key, save_costs
from edgekit.model.exclusions import Exclusion


class Worker:
    def __init__(self, folder, model, text=None, **run):
        self.heard = []
        message = Run(
            pipeline=text or pipeline_toml(fps=200), what="p.toml", folder=str(folder), model=str(model),
            progress_s=0.1, **run,
        )  # fmt: skip
        self.process = WorkerProcess(message, worker_environment(), time.monotonic())
        self.has_closed = False

    def until(self, claim, limit_s=100.0):
        deadline_s = time.monotonic() + limit_s
        while not (found := claim()):
            assert time.monotonic() < deadline_s, self.heard[-5:]
            assert not self.has_closed, self.heard[-5:]
            select.select([self.process.channel], [], [], 0.2)
            messages, self.has_closed = self.process.channel.receive()
            self.heard += messages
        return found

    def first(self, kind):
        return self.until(lambda: next((m for m in self.heard if isinstance(m, kind)), None))

    def end(self):
        self.process.stop(time.monotonic() + 60)
        while not self.has_closed:
            messages, self.has_closed = self.process.channel.receive()
            self.heard += messages
            time.sleep(0.01)
        return self.process.reap()


@pytest.fixture
def start(tmp_path):
    started = []

    def make(*args, **kw):
        started.append(Worker(tmp_path, *args, **kw))
        return started[-1]

    yield make
    for worker in started:
        worker.process.kill()
        worker.process.reap()


def test_a_worker_says_what_it_runs_counts_and_stops_when_told(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a"))
    assert worker.first(Started).running.variant == "null"
    assert worker.first(EventOut).record.label == "moving"
    worker.until(lambda: sum(m.frames for m in worker.heard if isinstance(m, Progress)) > 50)
    assert worker.end() == 0
    assert worker.heard[-1] == Ended(reason="stopped")
    seconds = [m for m in worker.heard if isinstance(m, Progress)]
    assert sum(m.captured for m in seconds) == sum(m.frames + m.dropped for m in seconds)
    assert sum(sum(m.infer_ms.counts) + m.infer_ms.zero for m in seconds if m.infer_ms) == sum(
        m.frames for m in seconds
    )


def test_a_source_that_ends_is_said_so_and_every_frame_was_counted(start, tmp_path):
    text = pipeline_toml(fps=500).replace("realtime = true", "frames = 40")
    worker = start(make_bundle(tmp_path / "a"), text)
    ended = worker.first(Ended)
    assert ended.reason == "the source came to its end"
    assert sum(m.frames for m in worker.heard if isinstance(m, Progress)) == 40


def test_a_lossless_source_loses_no_frame_over_swap_and_swap_back(start, tmp_path):
    text = pipeline_toml(fps=500).replace("realtime = true", "frames = 500")
    slow = {"latency_ms": 20}  # long enough for a busy machine to load the other version
    worker = start(make_bundle(tmp_path / "a", options=slow), text)
    worker.first(Started)
    worker.process.send(
        Swap(swap=1, purpose="trial", path=str(make_bundle(tmp_path / "b", version="2.0.0", options=slow)))
    )
    worker.first(Swapped)
    worker.process.send(Swap(swap=2, purpose="rollback"))
    worker.until(lambda: sum(isinstance(m, Swapped) for m in worker.heard) == 2)
    worker.first(Ended)
    by_version = {}
    for message in worker.heard:
        if isinstance(message, Progress):
            version = message.running.version
            by_version[version] = by_version.get(version, 0) + message.frames
    assert sum(by_version.values()) == 500
    assert by_version["2.0.0"] > 0


def test_a_bundle_that_fails_its_golden_samples_is_not_taken(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a"))
    worker.first(Started)
    bad = make_bundle(tmp_path / "b", version="2.0.0", golden=(0.9, 0.1))
    worker.process.send(Swap(swap=1, purpose="trial", path=str(bad)))
    failed = worker.first(SwapFailed)
    assert failed.code == "model.golden"
    worker.heard.clear()
    assert worker.first(Progress).running.version == "1.0.0"


def test_a_lost_accelerator_is_followed_by_the_next_variant(start, tmp_path):
    spare = {"id": "spare", "backend": "null"}
    bundle = make_bundle(tmp_path / "a", options={"lose_at": 60}, more_variants=(spare,))
    worker = start(bundle)
    over = worker.first(FailedOver)
    assert (over.lost, over.running.variant) == ("null", "spare")
    assert (over.running.at, over.running.of) == (1, 2)
    assert over.reason.startswith("lost its accelerator: null variant 'null': run 60")
    worker.heard.clear()
    assert worker.until(
        lambda: next((m for m in worker.heard if isinstance(m, Progress) and m.frames), None)
    ).running.variant == "spare"  # fmt: skip


def test_a_variant_that_was_lost_before_returns_once_the_trial_of_its_bundle_is_over(start, tmp_path):
    spare = {"id": "spare", "backend": "null"}
    bundle = make_bundle(tmp_path / "b", version="2.0.0", more_variants=(spare,))
    digest = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    lost = {digest: {"null": Exclusion("killed by SIGSEGV", 0.05)}}
    worker = start(make_bundle(tmp_path / "a"), exclude=lost)
    worker.first(Started)
    worker.process.send(Swap(swap=1, purpose="trial", path=str(bundle)))
    assert worker.first(Swapped).running.variant == "spare"
    worker.until(
        lambda: sum(isinstance(m, Progress) and m.running.variant == "spare" for m in worker.heard) > 5
    )
    assert not [
        m for m in worker.heard if isinstance(m, Opening) and m.variant == "null" and m.digest == digest
    ]
    worker.process.send(Keep())
    returned = worker.first(Returned).running
    assert (returned.variant, returned.digest, returned.left) == ("null", digest, 1)
    worker.heard.clear()
    assert worker.until(
        lambda: next((m for m in worker.heard if isinstance(m, Progress) and m.frames), None)
    ).running.variant == "null"  # fmt: skip
    assert worker.end() == 0


def test_without_another_variant_a_lost_accelerator_ends_the_worker_with_the_reason(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a", options={"lose_at": 60}))
    fatal = worker.first(Fatal)
    assert fatal.code == "model.no_variant"
    assert "lost its accelerator" in fatal.message
    assert worker.end() == fatal.exit_code == 4


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("synthetic", "telepathy"), "config"),
        (('egress = ["labels"]', 'egress = ["everything"]'), "config"),
    ],
)
def test_a_wrong_pipeline_is_told_with_its_code(start, tmp_path, change, code):
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml().replace(*change))
    fatal = worker.first(Fatal)
    assert (fatal.code, fatal.exit_code) == (code, 3)


def test_a_bundle_that_is_not_there_is_told_with_its_code(start, tmp_path):
    fatal = start(tmp_path / "absent").first(Fatal)
    assert (fatal.code, fatal.exit_code) == ("model.bundle", 4)


def test_a_worker_ends_when_the_supervisors_end_closes(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a"))
    worker.first(Started)
    worker.process.channel.close()
    assert worker.process._process.wait(60) == 0


def test_a_source_that_is_lost_is_opened_again_with_the_model_kept_loaded(start, tmp_path):
    text = pipeline_toml().replace(
        'kind = "synthetic"\nrealtime = true\nfps = 100.0', 'kind = "serial"\nuri = "/dev/nowhere"'
    )
    worker = start(make_bundle(tmp_path / "a"), text)
    worker.first(Started)
    alert = worker.until(lambda: next((m for m in worker.heard if type(m).__name__ == "AlertOut"), None))
    assert alert.alert.code == "config.source"
    assert worker.until(lambda: all(m.advanced for m in worker.heard if isinstance(m, Progress)))
    assert worker.end() == 0


def test_exit_codes_and_signals_have_words():
    assert exit_reason(0) == "exit code 0"
    assert exit_reason(-9) == "killed by SIGKILL"
    assert exit_reason(-200) == "killed by signal 200"


def test_a_budget_is_kept_by_a_faster_variant_and_each_change_is_reported_with_its_reason(start, tmp_path):
    quick = {"id": "quick", "backend": "null", "options": {"latency_ms": 1}}
    bundle = make_bundle(tmp_path / "a", options={"latency_ms": 80}, more_variants=(quick,))
    ids = {"null": 80.0, "quick": 1.0}
    variants = open_bundle(bundle).manifest.variants
    save_costs({cost_key(v, 1): MeasuredCost(ids[v.id], 0, 0, 0, 0) for v in variants})
    text = pipeline_toml(fps=30) + '[model]\nvariant = "null"\n[budget]\np95_ms = 60\norder = ["variant"]\n'
    worker = start(bundle, text, threads=1)
    assert worker.first(Varied).running.variant == "quick"
    alert = worker.first(AlertOut).alert
    assert (alert.level, alert.code, alert.pipeline) == ("warning", "agent.budget", "motor")
    assert alert.message.startswith("full -> variant +1: p95 ")
    worker.until(
        lambda: any(
            isinstance(m, Progress) and m.setting == "variant +1" and m.changes == 1 for m in worker.heard
        )
    )
    assert worker.end() == 0
