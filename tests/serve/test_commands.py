"""``edgekit load``, ``top`` and ``predict`` against a real server and real files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted import doubling, served
from test_real_models import image_bundle

from edgekit.bench.load import corrected, made_up
from edgekit.cli.main import main
from edgekit.cli.predict import done_before
from edgekit.core.errors import UsageError
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


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["load", "URL/v2/models/none"], 7),
        (["load", "http://127.0.0.1:1/v2/models/double"], 7),
        (["load", "URL"], 2),
        (["load", "URL/v2/models/double", "--clients", "0"], 2),
        (["top", "ftp://here"], 2),
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


def test_a_file_that_is_no_output_is_not_appended_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(UsageError, match="not an output"):
        done_before(tmp_path / "notes.txt")
