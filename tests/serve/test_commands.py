"""``edgekit load``, ``top`` and ``predict`` against a real server and real files."""

import asyncio
import json
import logging
import resource
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from browser import wait_until
from scripted import doubling, served
from test_real_models import image_bundle

from edgekit.bench.arrivals import recorded
from edgekit.bench.load import corrected, made_up
from edgekit.cli.main import main
from edgekit.cli.predict import done_before
from edgekit.cli.top import _look, _row
from edgekit.core.errors import LinkError, StorageError, UsageError
from edgekit.core.sketch import Histogram


@pytest.fixture(scope="module")
def url():
    with served(doubling()[0]) as server:
        yield server.url


def run(capsys, *words):
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_closed_loop_counts_answers_and_gives_both_kinds_of_percentiles(url, capsys):
    code, told = run(capsys, "load", f"{url}/v2/models/double", "--clients", "3", "--seconds", "0.3")
    assert (code, set(told["answers"])) == (0, {"200"})
    assert told["answers_per_s"] > 0
    assert told["latency_ms"]["p50"] <= told["latency_ms"]["p99"] <= told["latency_ms"]["max"]
    assert told["measured_ms"]["max"] == told["latency_ms"]["max"]


def test_an_open_loop_sends_at_its_rate(url, capsys):
    code, told = run(capsys, "load", f"{url}/v2/models/double", "--rate", "200", "--seconds", "0.5")
    assert code == 0
    assert 50 <= sum(told["answers"].values()) <= 160


def test_a_ramp_gives_a_row_for_each_step(url, capsys):
    code, told = run(capsys, "load", f"{url}/v2/models/double", "--clients", "1..6", "--seconds", "0.1")
    assert code == 0
    assert [row["load"] for row in told["steps"]] == ["1 clients", "2 clients", "4 clients", "6 clients"]
    code, told = run(capsys, "load", f"{url}/v2/models/double", "--rate", "100..1000", "--seconds", "0.1")
    assert code == 0
    sent = [sum(row["answers"].values()) for row in told["steps"]]
    assert len(sent) == 10
    assert sent[-1] > 2 * sent[0]


def test_recorded_traffic_is_sent_again_at_its_own_times(url, capsys, caplog, tmp_path):
    """The times come from the log of a server that traced its requests."""
    settings = httpx.post(f"{url}/v2/trace/setting", json={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert settings.status_code == 200
    with caplog.at_level(logging.INFO):
        code, _ = run(capsys, "load", f"{url}/v2/models/double", "--rate", "100", "--seconds", "0.2")
        wait_until(lambda: "trace {" in caplog.text)
    httpx.post(f"{url}/v2/trace/setting", json={"trace_level": ["OFF"]})
    log = tmp_path / "serve.log"
    log.write_text(
        "2026 INFO ready\n" + "".join(f"INFO: {line}\n" for line in caplog.messages) + "trace {cut\n"
    )
    came = recorded(log, "double")
    assert len(came) == caplog.text.count("trace {")
    code, told = run(capsys, "load", f"{url}/v2/models/double", "--arrivals", str(log), "--speed", "2")
    assert (code, told["answers"]) == (0, {"200": len(came)})
    assert told["seconds"] >= came[-1] / 2


def test_times_in_seconds_are_sorted_and_begin_at_the_first(tmp_path):
    path = tmp_path / "times.txt"
    path.write_text("12.5\n\n10.0\n11\n")
    assert recorded(path, "any") == [0.0, 1.0, 2.5]
    assert recorded(path, "any", speed=2.0) == [0.0, 0.5, 1.25]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["load", "URL/v2/models/none"], 7),
        (["load", "http://127.0.0.1:1/v2/models/double"], 7),
        (["load", "URL"], 2),
        (["load", "URL/v2/models/double", "--clients", "0"], 2),
        (["load", "URL/v2/models/double", "--clients", "many"], 2),
        (["load", "URL/v2/models/double", "--rate", "9..3"], 2),
        (["load", "URL/v2/models/double", "--arrivals", __file__], 2),
        (["load", "http://127.0.0.1:port/v2/models/double"], 2),
        (["load", "URL/v2/models/a model"], 2),
        (["top", "ftp://here"], 2),
        (["top", "http://127.0.0.1:99999"], 2),
        (["top", "http://[::1"], 2),
        (["top", "URL", "--every", "nan"], 2),
        (["top", "http://127.0.0.1:1"], 7),
    ],
)
def test_what_cannot_be_asked_is_an_error_with_its_code(url, words, code, capsys):
    assert main([word.replace("URL", url) for word in words]) == code
    capsys.readouterr()


def test_a_pause_counts_for_everyone_who_would_have_asked_meanwhile():
    """One pause of 1,000 ms among answers of 1 ms, 1,000 in all: a second of it is the pause's."""
    measured = Histogram()
    measured.add(1.0, 999)
    measured.add(1000.0)
    assert measured.quantile(0.99) < 1.1
    assert corrected(measured).quantile(0.75) > 400


def test_made_up_tensors_have_the_stated_shapes():
    body, length = made_up(
        [
            {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "t", "datatype": "BYTES", "shape": [2]},
            {"name": "u", "datatype": "UINT8", "shape": [4]},
        ]
    )
    rows = json.loads(body[:length])["inputs"]
    assert [row["parameters"]["binary_data_size"] for row in rows] == [12, 8, 4]
    assert len(body) == length + 24


def test_top_shows_each_model_with_its_rates(url, capsys):
    code, told = run(capsys, "top", url, "--every", "0.05")
    assert (code, [row["name"] for row in told["models"]]) == (0, ["double"])
    assert told["models"][0]["state"] == "READY"
    assert main(["top", url, "--every", "0.05", "--once"]) == 0
    assert "req/s" in capsys.readouterr().out


def counted(count):
    stages = ("success", "fail", "queue", "compute_infer")
    return {"inference_stats": {name: {"count": count, "ns": count * 1_000_000} for name in stages}}


def test_top_counts_a_new_process_from_its_beginning():
    """It began below what the old one had counted: minus hundreds of requests a second were shown."""
    told = _row({"name": "m"}, counted(3), counted(1000), 1.0, None)
    assert (told["answered_per_s"], told["refused_per_s"], told["infer_ms"]) == (3.0, 3.0, 1.0)


def test_top_goes_on_while_the_server_is_away(capsys):
    """Its first look must find one; then it says what it sees, until it is ended."""
    looks = iter([[], LinkError("it does not answer"), [{"name": "double"}], KeyboardInterrupt()])

    class Watch:
        async def rows(self):
            if isinstance(look := next(looks), BaseException):
                raise look
            return look

        async def close(self):
            pass

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(_look(Watch(), 0.001, is_once=False))
    away, back = capsys.readouterr().out.split("\x1b[H\x1b[J")[1:]
    assert away == "it does not answer\nit is asked again\n"
    assert "double" in back


@pytest.fixture
def classifier(tmp_path):
    return image_bundle(tmp_path / "bundle")


def test_predict_writes_a_line_for_each_file_and_goes_on_where_it_was_cut_off(classifier, tmp_path, capsys):
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(paths[-1], np.full((20, 30, 3), 60 * number, np.uint8))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out.jsonl"
    code, told = run(
        capsys, "predict", str(classifier), *paths[:2], str(tmp_path / "bad.png"), "-o", str(out)
    )
    assert (code, told["done"], told["failed"]) == (4, 2, 1)
    out.write_bytes(out.read_bytes() + b'{"file": "cut o')
    code, told = run(capsys, "predict", str(classifier), *paths, "-o", str(out))
    assert (code, told["done"], told["passed_over"]) == (0, 1, 2)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["0.png", "1.png", "bad.png", "2.png"]
    assert ["error" in line for line in lines] == [False, False, True, False]


@pytest.mark.parametrize(
    "content",
    [
        b"mine\n",
        b"mine",
        b'{"mine": 1}',
        b'{"mine": 1',
        b"\x89PNG\r\n\x1a\nIHDR",
        b'{"file": "a"}\nmine',
        b"\n",
    ],
)
def test_a_file_that_is_no_output_is_left_as_it_is(tmp_path, content):
    notes = tmp_path / "notes.txt"
    notes.write_bytes(content)
    with pytest.raises(UsageError, match="not an output"):
        done_before(notes)
    assert notes.read_bytes() == content


@pytest.mark.parametrize("kept", range(1, 14))
def test_an_output_that_was_cut_anywhere_in_its_last_line_is_gone_on_with(tmp_path, kept):
    out = tmp_path / "out.jsonl"
    out.write_bytes(b'{"file":"a"}\n' + b'{"file":"b"}\n'[:kept])
    assert done_before(out) == ({"a"} if kept < 12 else {"a", "b"})


def test_predict_on_a_full_disk_leaves_whole_lines_and_goes_on_once_there_is_room(
    classifier, tmp_path, capsys
):
    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(paths[-1], np.full((20, 30, 3), 60 * number, np.uint8))
    out = tmp_path / "out.jsonl"
    assert run(capsys, "predict", str(classifier), paths[0], "-o", str(out))[0] == 0
    room = int(2.5 * len(out.read_bytes()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        assert main(["predict", str(classifier), *paths, "-o", str(out)]) == StorageError.exit_code
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "out.jsonl" in capsys.readouterr().err
    assert len([json.loads(line) for line in out.read_bytes().splitlines(keepends=True)]) == 2
    code, told = run(capsys, "predict", str(classifier), *paths, "-o", str(out))
    assert (code, told["done"], told["passed_over"]) == (0, 2, 2)
