"""The worker process by itself, over its channel."""

from __future__ import annotations

import hashlib
import select
import time

import av
import msgspec
import pytest
from bundles import make_bundle, make_detector, pipeline_toml
from rtsp_camera import Camera, needs_rtsp_server
from runnable import write_image_bundle

from edgekit.agent.config import worker_environment
from edgekit.agent.ipc import (
    NOT_SHARED,
    AlertOut,
    Drop,
    End,
    Ended,
    EventOut,
    FailedOver,
    Host,
    Keep,
    ModelFailed,
    Opened,
    Opening,
    Progress,
    Returned,
    Run,
    Started,
    Swap,
    SwapFailed,
    Swapped,
    Turn,
    Varied,
)
from edgekit.agent.supervisor.worker_process import WorkerProcess
from edgekit.base.child import exit_reason
from edgekit.model.bundle import open_bundle
from edgekit.model.costs import MeasuredCost, cost_key, save_costs
from edgekit.model.exclusions import Exclusion


class Worker:
    """A worker that hosts one model, ``m``, with pipelines on it."""

    def __init__(self, folder, model, *texts, is_idle=False, **host):
        self.heard, self.has_closed, self.folder = [], False, folder
        self.process = WorkerProcess(worker_environment(folder / "state"), time.monotonic(), progress_s=0.1)
        self.process.send(Host(model="m", path=str(model), **host))
        for text in texts or [pipeline_toml(fps=200)] * (not is_idle):
            self.run(text)

    def run(self, text, model="m", later=None):
        name = msgspec.toml.decode(text)["pipeline"]["name"]
        folder = str(self.folder)
        self.process.send(
            Run(pipeline=name, model=model, later=later or {}, text=text, what="p.toml", folder=folder)
        )

    def until(self, claim, limit_s=100.0):
        deadline_s = time.monotonic() + limit_s
        while not (found := claim()):
            assert time.monotonic() < deadline_s, self.heard[-5:]
            assert not self.has_closed, self.heard[-5:]
            select.select([self.process.channel], [], [], 0.2)
            messages, self.has_closed = self.process.channel.receive()
            self.heard += messages
        return found

    def first(self, kind, pipeline=None):
        def is_it(message):
            return isinstance(message, kind) and pipeline in (None, getattr(message, "pipeline", None))

        return self.until(lambda: next(filter(is_it, self.heard), None))

    def progress(self, pipeline="motor", stage=""):
        """Return the progress messages of a pipeline, or of a later stage of it, until now."""
        every = [m for m in self.heard if isinstance(m, Progress)]
        return [m for m in every if (m.pipeline, m.stage) == (pipeline, stage)]

    def frames(self, pipeline="motor", version=None):
        """Return the number of its frames until now, of a version or of all."""
        return sum(m.frames for m in self.progress(pipeline) if version in (None, m.running.version))

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
    assert worker.first(Opened).running.variant == "null"
    assert worker.first(Started).pipeline == "motor"
    assert worker.first(EventOut).record.label == "moving"
    worker.until(lambda: sum(m.frames for m in worker.heard if isinstance(m, Progress)) > 50)
    assert worker.end() == 0
    assert worker.heard[-1] == Ended(pipeline="motor", reason="stopped", is_asked=True)
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
        Swap(
            model="m",
            swap=1,
            purpose="trial",
            path=str(make_bundle(tmp_path / "b", version="2.0.0", options=slow)),
        )
    )
    worker.first(Swapped)
    worker.process.send(Swap(model="m", swap=2, purpose="rollback"))
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
    worker.process.send(Swap(model="m", swap=1, purpose="trial", path=str(bad)))
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
    worker.process.send(Swap(model="m", swap=1, purpose="trial", path=str(bundle)))
    assert worker.first(Swapped).running.variant == "spare"
    worker.until(
        lambda: sum(isinstance(m, Progress) and m.running.variant == "spare" for m in worker.heard) > 5
    )
    assert not [
        m for m in worker.heard if isinstance(m, Opening) and m.variant == "null" and m.digest == digest
    ]
    worker.process.send(Keep(model="m"))
    returned = worker.first(Returned).running
    assert (returned.variant, returned.digest, returned.left) == ("null", digest, 1)
    worker.heard.clear()
    assert worker.until(
        lambda: next((m for m in worker.heard if isinstance(m, Progress) and m.frames), None)
    ).running.variant == "null"  # fmt: skip
    assert worker.end() == 0


def test_without_another_variant_a_lost_accelerator_ends_the_model_with_the_reason(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a", options={"lose_at": 60}))
    failed = worker.first(ModelFailed)
    assert (failed.code, failed.is_final) == ("model.no_variant", False)
    assert "lost its accelerator" in failed.reason
    assert worker.end() == 0
    assert not any(isinstance(message, Ended) for message in worker.heard), "it ends with its model"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("synthetic", "telepathy"), "config"),
        (('egress = ["labels"]', 'egress = ["everything"]'), "config"),
    ],
)
def test_a_wrong_pipeline_is_told_with_its_code(start, tmp_path, change, code):
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml().replace(*change))
    ended = worker.first(Ended)
    assert (ended.code, ended.is_final) == (code, True)


def test_a_bundle_that_is_not_there_is_told_with_its_code(start, tmp_path):
    failed = start(tmp_path / "absent").first(ModelFailed)
    assert (failed.model, failed.code, failed.is_final) == ("m", "model.bundle", True)


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


def test_a_pipeline_is_stopped_and_started_again_with_the_reason_in_an_alert_and_in_its_progress(
    start, tmp_path
):
    profile = '[[profile]]\nname = "maintenance"\nrun = false\n'
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml(fps=200) + profile)

    def stands():
        last = worker.progress()[-1:]
        return last and (last[0].switch.get("is_on"), last[0].switch.get("why"), last[0].frames > 0)

    worker.until(lambda: stands() == (None, None, True))
    worker.process.send(Turn(pipeline="motor", to="maintenance", why="a new lens"))
    worker.until(lambda: stands() == (False, "a new lens: profile maintenance", False))
    alert = worker.first(AlertOut).alert
    assert (alert.level, alert.code, alert.pipeline, alert.message) == (
        "info", "pipeline.switched", "motor", "switched off: a new lens: profile maintenance",
    )  # fmt: skip
    worker.process.send(Turn(pipeline="motor", to="noon", why="a slip"))
    worker.until(
        lambda: any(isinstance(m, AlertOut) and "got 'noon'" in m.alert.message for m in worker.heard)
    )
    worker.process.send(Turn(pipeline="motor", to="on", why="done"))
    worker.until(lambda: stands() == (True, "done", True))
    assert worker.end() == 0


def test_a_camera_that_is_lost_is_an_alert_with_its_code_and_so_is_its_return(start, tmp_path):
    needs_rtsp_server()
    camera = Camera()
    try:
        source = f'kind = "rtsp"\nuri = "{camera.uri()}"'
        text = f'[pipeline]\nname = "door"\nmodel = "m"\n[source]\n{source}\n'
        worker = start(write_image_bundle(tmp_path / "tiny"), text)
        worker.until(lambda: worker.frames("door") > 5)
        worker.until(lambda: worker.progress("door")[-1].source["state"] == "open")
        reopened = worker.progress("door")[-1].source["reopened"]  # a busy machine may have stalled it

        def alerts():
            return [message.alert for message in worker.heard if isinstance(message, AlertOut)]

        def is_lost(progress):
            return (progress.source["state"], progress.source["fault"]) == ("lost", "CONNECTION_FAILED")

        camera.kill()
        worker.until(lambda: alerts() and alerts()[-1].code == "source.connection_failed")
        at = len(alerts()) - 1
        assert alerts()[at].level == "error"
        lost = worker.until(lambda: [each for each in worker.progress("door") if is_lost(each)])
        assert lost[-1].advanced
        camera.start()
        worker.until(lambda: "source.back" in [alert.code for alert in alerts()[at:]])
        assert [alert.code for alert in alerts()[at:]].count("source.connection_failed") == 1
        worker.until(lambda: worker.progress("door")[-1].source["reopened"] > reopened)
        assert worker.end() == 0
    finally:
        camera.close()


def test_a_camera_that_is_off_from_the_start_is_one_alert_however_often_it_is_tried(start, tmp_path):
    needs_rtsp_server()
    camera = Camera()
    camera.kill()
    source = f'kind = "rtsp"\nuri = "{camera.uri()}"'
    text = f'[pipeline]\nname = "door"\nmodel = "m"\n[source]\n{source}\n'
    worker = start(write_image_bundle(tmp_path / "tiny"), text)
    opening = worker.until(lambda: len(worker.progress("door")) > 30)  # tried four times in these 3 s
    assert opening
    camera.start()
    try:
        worker.until(lambda: worker.frames("door") > 5)
        worker.until(lambda: worker.progress("door")[-1].source["state"] == "open")
        assert worker.end() == 0
    finally:
        camera.close()
    codes = [message.alert.code for message in worker.heard if isinstance(message, AlertOut)]
    assert codes[:2] == ["source.connection_failed", "source.back"]  # a busy machine may stall it later


def test_an_agents_clips_are_the_main_streams_packets_as_the_camera_encoded_them(start, tmp_path):
    needs_rtsp_server()
    small, large = Camera(), Camera("--width", "640", "--height", "480", "--gop", "17")
    source = f'kind = "rtsp"\nuri = "{small.uri()}"\nmain_uri = "{large.uri()}"'
    sink = '[[sink]]\nkind = "clips"\npath = "clips"\nbefore_s = 1\nafter_s = 2\n'
    text = f'[pipeline]\nname = "door"\nmodel = "m"\n[source]\n{source}\n{sink}'
    try:
        worker = start(write_image_bundle(tmp_path / "tiny"), text)
        worker.until(lambda: worker.frames("door") > 120)
        assert worker.end() == 0
    finally:
        small.close()
        large.close()
    (clip, *_) = sorted((tmp_path / "clips").glob("*.mp4"))
    with av.open(str(clip)) as video:
        stream = video.streams.video[0]
        keyframes = [at for at, packet in enumerate(video.demux(stream)) if packet.is_keyframe]
        assert (stream.width, stream.height) == (640, 480)
    assert keyframes[:3] == [0, 17, 34], "as the camera's encoder has them, and no other"


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
    worker = start(bundle, text, threads=1, variant="null")
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


# -- several pipelines on one model


def of(message, pipeline):
    return getattr(message, "pipeline", None) == pipeline


def test_four_pipelines_open_their_model_once_and_each_counts_its_own_frames(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a"), *(pipeline_toml(f"p{n}", fps=50) for n in range(4)))
    worker.until(lambda: all(worker.frames(f"p{n}") > 20 for n in range(4)))
    assert worker.end() == 0
    assert len([m for m in worker.heard if isinstance(m, Opened)]) == 1
    for name in ("p0", "p1", "p2", "p3"):
        mine = worker.progress(name)
        assert sum(m.captured for m in mine) == sum(m.frames + m.dropped for m in mine)
        assert sum(isinstance(m, EventOut) and m.record.pipeline == name for m in worker.heard) > 0
        assert sum(isinstance(m, Ended) and m.pipeline == name for m in worker.heard) == 1


def test_pipelines_of_one_model_keep_their_own_thresholds(start, tmp_path):
    strict = pipeline_toml("strict") + "[model]\nscore_threshold = 0.95\n"
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml("usual"), strict)
    worker.until(lambda: worker.frames("usual") > 10 and worker.frames("strict") > 10)
    assert sum(m.items for m in worker.progress("usual")) >= 10
    assert sum(m.items for m in worker.progress("strict")) == 0


def test_a_pipeline_that_ends_or_is_not_valid_is_told_and_the_other_goes_on(start, tmp_path):
    short = pipeline_toml("short", fps=500).replace("realtime = true", "frames = 20")
    wrong = pipeline_toml("wrong").replace("synthetic", "telepathy")
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml("long"), short, wrong)
    assert worker.first(Ended, "short").reason == "the source came to its end"
    assert worker.first(Ended, "wrong").is_final
    before = worker.frames("long")
    worker.until(lambda: worker.frames("long") > before + 20)
    assert worker.frames("short") == 20


def test_a_pipeline_can_be_added_to_and_taken_out_of_a_worker_that_runs(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml("first"))
    worker.until(lambda: worker.frames("first") > 5)
    worker.run(pipeline_toml("second"))
    worker.until(lambda: worker.frames("second") > 5)
    worker.process.send(End(pipeline="first"))
    assert worker.first(Ended, "first").is_asked
    before = worker.frames("second")
    worker.until(lambda: worker.frames("second") > before + 5)
    worker.process.send(Drop(model="m"))
    assert worker.first(Ended, "second").is_asked


def test_a_swap_concerns_every_pipeline_and_none_reports_the_old_version_after_the_new(start, tmp_path):
    names = [f"p{n}" for n in range(3)]
    worker = start(make_bundle(tmp_path / "a"), *(pipeline_toml(name, fps=300) for name in names))
    worker.until(lambda: all(worker.frames(name) > 20 for name in names))
    new = make_bundle(tmp_path / "b", version="2.0.0")
    worker.process.send(Swap(model="m", swap=1, purpose="trial", path=str(new)))
    worker.until(lambda: all(worker.frames(name, "2.0.0") > 20 for name in names))
    worker.process.send(Swap(model="m", swap=2, purpose="rollback"))
    worker.until(lambda: sum(isinstance(m, Swapped) for m in worker.heard) == 2)
    count = {name: worker.frames(name, "1.0.0") for name in names}
    worker.until(lambda: all(worker.frames(name, "1.0.0") > count[name] + 20 for name in names))
    for name in names:
        versions = [m.running.version for m in worker.progress(name) if m.frames]
        runs = [version for at, version in enumerate(versions) if at == 0 or versions[at - 1] != version]
        assert runs == ["1.0.0", "2.0.0", "1.0.0"]


def test_a_version_that_lacks_a_label_one_pipeline_redacts_is_taken_by_none(start, tmp_path):
    hides = pipeline_toml("hides").replace("[privacy]", '[privacy]\nredact = ["face"]')
    worker = start(make_detector(tmp_path / "a", labels=("face", "cap")), pipeline_toml("shows"), hides)
    worker.until(lambda: worker.frames("shows") > 5 and worker.frames("hides") > 5)
    new = make_detector(tmp_path / "b", version="2.0.0", labels=("cap", "dog"))
    worker.process.send(Swap(model="m", swap=1, purpose="trial", path=str(new)))
    assert "no label 'face'" in worker.first(SwapFailed).reason
    worker.heard.clear()
    worker.until(lambda: worker.frames("shows") > 5 and worker.frames("hides") > 5)
    assert {m.running.version for m in worker.heard if isinstance(m, Progress)} == {"1.0.0"}


def test_a_lost_accelerator_is_followed_once_by_the_next_variant_for_every_pipeline(start, tmp_path):
    spare = {"id": "spare", "backend": "null"}
    bundle = make_bundle(tmp_path / "a", options={"lose_at": 200}, more_variants=(spare,))
    names = [f"p{n}" for n in range(3)]
    worker = start(bundle, *(pipeline_toml(name, fps=200) for name in names))
    over = worker.first(FailedOver)
    assert (over.lost, over.running.variant) == ("null", "spare")
    for name in names:
        worker.until(
            lambda name=name: any(m.frames and m.running.variant == "spare" for m in worker.progress(name))
        )
    assert worker.end() == 0
    assert len([m for m in worker.heard if isinstance(m, FailedOver)]) == 1
    for name in names:
        mine = worker.progress(name)
        assert sum(m.captured for m in mine) == sum(m.frames + m.dropped for m in mine), "no frame is lost"
        assert sum(m.errors for m in mine) <= 1


def test_without_another_variant_every_pipeline_ends_with_its_model(start, tmp_path):
    bundle = make_bundle(tmp_path / "a", options={"lose_at": 100})
    worker = start(bundle, pipeline_toml("one"), pipeline_toml("two"))
    assert "lost its accelerator" in worker.first(ModelFailed).reason
    assert worker.end() == 0
    assert not any(isinstance(message, Ended) for message in worker.heard)


def test_a_model_whose_file_keeps_state_has_one_pipeline(start, tmp_path):
    bundle = make_bundle(tmp_path / "a", options={"keeps_state": True})
    worker = start(bundle, pipeline_toml("one"))
    worker.until(lambda: worker.frames("one") > 5)
    worker.run(pipeline_toml("two"))
    assert worker.first(Ended, "two").code == NOT_SHARED
    before = worker.frames("one")
    worker.until(lambda: worker.frames("one") > before + 5)


def test_two_models_run_in_one_process_and_one_that_cannot_be_opened_hurts_the_other_not(start, tmp_path):
    worker = start(make_bundle(tmp_path / "a"), pipeline_toml("one"))
    worker.process.send(Host(model="other", path=str(tmp_path / "absent")))
    worker.run(pipeline_toml("two"), "other")
    assert worker.first(ModelFailed).model == "other"
    before = worker.frames("one")
    worker.until(lambda: worker.frames("one") > before + 5)
    worker.process.send(Drop(model="other"))
    worker.process.send(Host(model="other", path=str(make_bundle(tmp_path / "c", model="else"))))
    worker.run(pipeline_toml("two"), "other")
    worker.until(lambda: worker.frames("two") > 5)
    assert worker.progress("two")[-1].running.model == "else"
