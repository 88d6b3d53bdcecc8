"""``edgekit run``: from a file to a summary, an exit code, and nothing left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from real_pair import planted, write_pair

from edgekit.agent.worker.runner import run_pipeline
from edgekit.cli.main import main
from edgekit.cli.run import exit_code, text
from edgekit.core.errors import NoVariantError, SourceError

SCRIPT = {
    "inputs": {"image": {"datatype": "FP32", "shape": [1, 8, 8, 3]}},
    "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.2, 0.8]]}},
}


EGRESS = '[privacy]\negress = ["counts"]'


def write_bundle(folder, variants=({},), **changes):
    folder.mkdir()
    rows = [
        {"id": f"null-{i}", "backend": "null", "options": {**SCRIPT, **options}}
        for i, options in enumerate(variants)
    ]
    manifest = {
        "format": 1,
        "model": "tiny",
        "version": "1.0.0",
        "task": "classify",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "layout": "NHWC"}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
        "post": {"decoder": "classify"},
        "variants": rows,
        **changes,
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.fixture
def pipeline(tmp_path):
    """Write a pipeline on a made video and a null model; return its file."""
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (32, 24))
    for seq in range(12):
        writer.write(np.full((24, 32, 3), seq * 20, np.uint8))
    writer.release()

    def write(
        source='kind = "video"\nuri = "in.avi"',
        sinks='[[sink]]\nkind = "jsonl"\npath = "out.jsonl"',
        rest="",
        **bundle,
    ):
        write_bundle(tmp_path / "tiny", **bundle)
        path = tmp_path / "p.toml"
        path.write_text(f'[pipeline]\nname = "p"\nmodel = "tiny"\n[source]\n{source}\n{rest}\n{sinks}\n')
        return path

    return write


def run(capsys, *words):
    code = main(["run", *map(str, words), "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out)


def test_a_video_runs_through_to_the_contracts_summary(pipeline, capsys):
    path = pipeline()
    code, document = run(capsys, path)
    assert code == 0
    assert document["frames"] == {"captured": 12, "processed": 12, "dropped": 0, "failed": 0, "skipped": 0}
    assert (document["pipeline"], document["model"], document["variant"], document["backend"]) == (
        "p",
        "tiny",
        "null-0",
        "null",
    )
    assert document["events"] == 1
    lines = [json.loads(line) for line in (path.parent / "out.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(12))


def test_frames_variant_and_record_are_obeyed(pipeline, capsys, tmp_path):
    path = pipeline(variants=({}, {}))
    code, document = run(capsys, path, "--frames", 5, "--variant", "null-1", "--record", tmp_path / "rec")
    assert (code, document["frames"]["captured"], document["variant"]) == (0, 5, "null-1")
    assert sorted(p.name for p in (tmp_path / "rec").iterdir()) == [
        "results.jsonl",
        "summary.json",
        "video.mp4",
    ]
    assert json.loads((tmp_path / "rec/summary.json").read_text()) == document
    capture, count = cv2.VideoCapture(str(tmp_path / "rec/video.mp4")), 0
    while capture.read()[0]:
        count += 1
    assert count == 5
    capture.release()


def test_a_time_limit_ends_it(pipeline, capsys):
    path = pipeline('kind = "synthetic"\nrealtime = true\nfps = 100')
    code, document = run(capsys, path, "--seconds", "0.3")
    assert code == 0
    assert document["frames"]["processed"] > 3


def test_a_lost_accelerator_moves_to_the_next_variant(pipeline, capsys):
    code, document = run(capsys, pipeline(variants=({"lose_at": 5}, {})))
    assert code == 0
    assert (document["failovers"], document["variant"], document["frames"]["processed"]) == (1, "null-1", 12)


def test_a_lost_variant_returns_to_a_run_between_two_frames(tmp_path):
    """LiteRT is lost, ONNX Runtime takes over, and LiteRT takes over again once it works."""
    write_pair(tmp_path / "relu")
    path = tmp_path / "p.toml"
    path.write_text(
        '[pipeline]\nname = "p"\nmodel = "relu"\n[source]\nkind = "synthetic"\nrealtime = true\nfps = 200\n'
        '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n[fallback]\nretry_s = [0.05, 1.0]\n'
    )

    @contextlib.contextmanager
    def until_it_is_back(loop):
        def follow():
            for variant in ("onnx", "lite"):
                while loop.predictor.variant.id != variant:
                    time.sleep(0.005)
            loop.stop()

        faults.is_lost = True
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        yield
        thread.join()

    with planted() as faults:
        document = run_pipeline(path, seconds=120, watch=until_it_is_back).document
    assert (document["failovers"], document["returns"], document["errors"]) == (1, 1, 0)
    assert document["variant"] == "lite"
    assert document["frames"]["processed"] == len((tmp_path / "out.jsonl").read_text().splitlines()) > 0
    assert text(document).endswith("1 failovers, 1 returns")


def test_a_lost_accelerator_with_no_variant_left_says_why(pipeline):
    with pytest.raises(NoVariantError) as caught:
        run_pipeline(pipeline(variants=({"lose_at": 5},)))
    assert "null-0: lost its accelerator" in caught.value.render()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"source": 'kind = "video"\nuri = "missing.mp4"'}, 3),
        ({"rest": '[privacy]\nredact = ["face"]'}, 3),
        ({"rest": '[privacy]\nredact = ["*"]'}, 3),
        ({"sinks": '[[sink]]\nkind = "video"\npath = "v.avi"'}, 3),
        ({"sinks": '[[sink]]\nkind = "mqtt"\nurl = "mqtt://h"\ntopic = "a/#"', "rest": EGRESS}, 3),
        ({"source": 'kind = "rtsp"\nuri = "rtsp://x"'}, 3),
        ({"post": {"decoder": "nonesuch"}}, 4),
        ({"variants": ({"fail_at": list(range(1, 99))},)}, 4),
        ({"variants": ({"fail_at": list(range(2, 99))},)}, 5),
        ({"sinks": '[[sink]]\nkind = "mqtt"', "rest": '[privacy]\negress = ["counts"]'}, 3),
    ],
)
def test_what_goes_wrong_has_its_exit_code(pipeline, capsys, changes, code):
    path = (
        pipeline('kind = "video"\nuri = "in.avi"\nloop = true', **changes)
        if "source" not in changes
        else pipeline(**changes)
    )
    assert main(["run", str(path), "--frames", "50"]) == code
    assert "code:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--frames", "0"], ["--seconds", "-1"], ["--frames", "1", "--seconds", "1"], []]
)
def test_wrong_use_is_exit_code_2(pipeline, words, capsys):
    assert main(["run", *([str(pipeline())] if words else []), *words]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_its_summary(pipeline, tmp_path, number, code):
    path = pipeline('kind = "synthetic"\nrealtime = true\nfps = 50\nwidth = 32\nheight = 32')
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli.main", "run", str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    results = path.parent / "out.jsonl"
    while not (results.exists() and results.stat().st_size):  # ended by the suite's own time limit
        assert process.poll() is None, process.stderr.read().decode()
        signal.sigtimedwait([], 0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err.decode()
    assert json.loads(out)["frames"]["processed"] > 0


def test_a_video_that_vanishes_is_a_source_error(pipeline, tmp_path):
    path = pipeline()
    (tmp_path / "in.avi").write_bytes(b"no longer a video")
    with pytest.raises(SourceError, match="is not a video"):
        run_pipeline(path)


def test_a_broker_that_got_nothing_at_all_is_in_the_summary_and_ends_the_run_with_7(
    pipeline, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    path = pipeline(
        sinks='[[sink]]\nkind = "mqtt"\nurl = "mqtt://127.0.0.1:1"',
        rest='[privacy]\negress = ["counts"]',
    )
    code, document = run(capsys, path)
    assert code == 7
    (broker,) = document["brokers"]
    assert (broker["destination"], broker["sent"], broker["unsent"]) == ("127.0.0.1:1", 0, 1)
    assert main(["run", str(path)]) == 7
    out = capsys.readouterr().out
    assert "broker 127.0.0.1:1: 0 sent, 1 unsent (Connection refused)" in out


@pytest.mark.parametrize(
    ("brokers", "code"),
    [
        ((), 0),
        (({"sent": 0, "unsent": 0, "dropped": 0, "refused": 0},), 0),
        (({"sent": 3, "unsent": 2, "dropped": 1, "refused": 1},), 0),
        (
            (
                {"sent": 3, "unsent": 0, "dropped": 0, "refused": 0},
                {"sent": 0, "unsent": 1, "dropped": 0, "refused": 0},
            ),
            7,
        ),
        (({"sent": 0, "unsent": 0, "dropped": 0, "refused": 2},), 7),
    ],
    ids=["no broker", "nothing to send", "some arrived", "one of two got nothing", "all refused"],
)
def test_only_a_broker_that_got_nothing_of_what_there_was_to_send_is_a_failure(brokers, code):
    assert exit_code({"brokers": brokers}) == code


def test_a_model_that_takes_no_frames_is_refused_before_the_first(pipeline, capsys):
    path = pipeline(task="raw", post={"decoder": "raw"})
    code, document = run(capsys, path)
    assert (code, document["error"]["code"]) == (4, "model.tensor")
    assert "takes raw tensors" in document["error"]["message"]
    assert not (path.parent / "out.jsonl").exists()


def test_every_mistake_of_a_pipeline_is_told_at_once_with_its_place(tmp_path, capsys):
    path = tmp_path / "p.toml"
    path.write_text(
        '[pipeline]\nnmae = "p"\nmodel = 5\n[source]\nkind = "synthetic"\nfps = "fast"\n'
        '[privacy]\negress = ["everything"]\n'
    )
    code, document = run(capsys, path)
    assert (code, document["error"]["code"]) == (3, "config")
    told = "\n".join(document["error"]["reasons"])
    for part in ("nmae", "model", "egress"):
        assert part in told
    assert str(path) in document["error"]["message"] + told


@pytest.mark.parametrize("text", [None, "= 5", "\udcff"])
def test_a_pipeline_file_that_cannot_be_read_is_exit_3_and_named(tmp_path, capsys, text):
    path = tmp_path / "p.toml"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    code, document = run(capsys, path)
    assert code == 3
    assert "p.toml" in document["error"]["message"]


def test_a_person_reads_the_model_the_counts_and_the_times(pipeline, capsys):
    assert main(["run", str(pipeline())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "p: tiny 1.0.0, variant null-0 (null on cpu)"
    assert lines[1].startswith("  12 of 12 frames, 0 dropped, ")
    assert lines[2].startswith("  capture to sink p50 ")
    assert lines[3] == "  1 events, 0 errors, 0 failovers"


def test_the_document_has_the_contracts_keys(pipeline, capsys):
    _, document = run(capsys, pipeline())
    keys = {"pipeline", "model", "version", "variant", "backend", "accelerator", "frames", "fps"}
    keys |= {"latency_ms", "stage_ms", "events", "errors", "failovers", "returns"}
    assert keys <= document.keys()
    assert list(document["latency_ms"]) == ["p50", "p95", "p99"]
    assert {"capture", "pre", "infer", "post", "sink"} <= document["stage_ms"].keys()


def test_a_variant_that_is_not_there_is_told_with_those_that_are(pipeline, capsys):
    code, document = run(capsys, pipeline(), "--variant", "tpu")
    assert code == 4
    assert "tpu" in json.dumps(document["error"])


def test_results_name_their_file_and_broken_pictures_are_counted(pipeline, capsys, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"in/{number}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in/2.png").write_bytes(b"broken")
    sinks = (
        '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
        '[[sink]]\nkind = "jsonl"\nwhat = "events"\npath = "ev.jsonl"'
    )
    code, document = run(
        capsys, pipeline('kind = "images"\nuri = "in"', sinks, "[events]\nappear = 1\nwindow = 1")
    )
    assert (code, document["frames"]["captured"], document["frames"]["dropped"]) == (0, 3, 1)
    assert document["source"] == {"unreadable": 1}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["0.png", "1.png"]
    assert rows[0]["items"][0]["index"] == 1
    assert json.loads((tmp_path / "ev.jsonl").read_text())["file"] == "0.png"


@pytest.mark.parametrize("kind", ["video", "jsonl"])
def test_a_sink_does_not_write_over_its_own_source(pipeline, capsys, tmp_path, kind):
    (tmp_path / "in.avi").rename(tmp_path / "in.mp4")
    path = pipeline('kind = "video"\nuri = "in.mp4"', sinks=f'[[sink]]\nkind = "{kind}"\npath = "./in.mp4"')
    before = (tmp_path / "in.mp4").read_bytes()
    code, document = run(capsys, path)
    assert (code, document["error"]["code"]) == (3, "config")
    assert "is the file that the source reads" in document["error"]["message"]
    assert (tmp_path / "in.mp4").read_bytes() == before


def test_a_recording_does_not_mix_with_the_one_before(pipeline, capsys, tmp_path):
    path = pipeline()
    assert run(capsys, path, "--record", tmp_path / "rec")[0] == 0
    before = (tmp_path / "rec/results.jsonl").read_bytes()
    code, document = run(capsys, path, "--record", tmp_path / "rec")
    assert (code, document["error"]["hint"]) == (2, "give another folder")
    assert (tmp_path / "rec/results.jsonl").read_bytes() == before
