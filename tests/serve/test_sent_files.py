"""A sound or a table in place of tensors is answered window by window, or row by row."""

import io

import numpy as np
import pytest
from bundles import make_bundle
from onnx import helper
from onnx_bundles import make_onnx_bundle, make_site_bundle
from scripted import served

from edgekit.model.servable import offer
from edgekit.pipeline.sent_samples import MOST, frames_of, kinds_for
from edgekit.pipeline.sources import SourceContext

SOUND = SourceContext(window=400, hop=200, channels=1, rate_hz=16_000)


def loud_bundle(folder):
    """A sound model that compares the largest sample with a half."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["loud"], axes=[1], keepdims=1),
        helper.make_node("Constant", [], ["one"], value_floats=[1.0]),
        helper.make_node("Sub", ["one", "loud"], ["quiet"]),
        helper.make_node("Concat", ["quiet", "loud"], ["scores"], axis=1),
    ]
    return make_onnx_bundle(
        folder,
        nodes,
        [("x", "FP32", [1, 400])],
        [("scores", "FP32", [1, 2])],
        {},
        model="loud",
        task="sensor",
        labels=["quiet", "loud"],
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 400]}],
        outputs=[{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
        pre={"resize": "none", "window": 400, "hop": 200, "rate_hz": 16_000},
        post={"decoder": "classify", "score_threshold": 0.5, "options": {"activation": "none"}},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory, proved_cache):
    folder = tmp_path_factory.mktemp("models")
    bundles = loud_bundle(folder / "a"), make_site_bundle(folder / "b"), make_bundle(folder / "c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proved_cache()))
        with served(*(offer(str(bundle), None) for bundle in bundles)) as running:
            yield running


@pytest.fixture(scope="module")
def soundfile():
    return pytest.importorskip("soundfile", reason="the extra 'audio' is not installed")


def wav(soundfile, samples, rate_hz=16_000):
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples, np.float32), rate_hz, format="WAV", subtype="FLOAT")
    return file.getvalue()


def post(server, model, content, kind):
    return server.client.post(f"/v2/models/{model}/infer", content=content, headers={"content-type": kind})


def test_a_sound_is_answered_window_by_window_with_the_seconds_of_each(server, soundfile):
    samples = np.repeat(np.float32([0.1, 0.9]), 400)
    answered = post(server, "loud", wav(soundfile, samples), "audio/wav").json()
    assert (answered["model_name"], answered["task"]) == ("loud", "sensor")
    seen = [(row["start_s"], row["end_s"], row["items"][0]["label"]) for row in answered["predictions"]]
    assert seen == [(0.0, 0.025, "quiet"), (0.0125, 0.0375, "loud"), (0.025, 0.05, "loud")]


def test_a_sound_of_another_rate_and_of_two_channels_is_the_models_mono(server, soundfile):
    samples = np.stack([np.full(4410, 0.9), np.full(4410, 0.7)], axis=1)
    answered = post(server, "loud", wav(soundfile, samples, 44_100), "audio/x-wav; charset=binary").json()
    assert len(answered["predictions"]) == (1600 - 400) // 200 + 1
    assert answered["predictions"][3]["items"][0]["score"] == pytest.approx(0.8, abs=0.01)


def test_a_sound_shorter_than_a_window_is_followed_by_silence(server, soundfile):
    [only] = post(server, "loud", wav(soundfile, [0.75] * 160), "audio/wav").json()["predictions"]
    assert (only["start_s"], only["end_s"], only["items"][0]["score"]) == (0.0, 0.01, 0.75)


def test_rows_of_a_table_and_windows_of_a_sensor_are_answered_in_their_order(server):
    answered = post(server, "site", "site\nA\nelsewhere\n", "text/csv").json()
    assert [(row["row"], row["items"][0]["label"]) for row in answered["predictions"]] == [
        (0, "a"),
        (1, "other"),
    ]
    lines = "ax;ay\r\n" + "0,5;1\r\n".replace(",", ".") * 40
    windows = post(server, "motion", lines, "text/csv; header=present").json()["predictions"]
    assert [(row["row"], row["items"][0]["label"]) for row in windows] == [(0, "moving"), (16, "moving")]


def test_the_pace_of_tables_is_their_own_since_one_may_have_many_rows(server):
    lane = next(entry.lane for entry in server.entries if entry.offer.name == "site")
    pictures, tables = lane.pace("predict").runs, lane.pace("table").runs
    assert post(server, "site", "site\nA\n", "text/csv").status_code == 200
    assert (lane.pace("predict").runs, lane.pace("table").runs) == (pictures, tables + 1)


@pytest.mark.parametrize(
    ("model", "kind", "why"),
    [
        ("site", "audio/wav", "'site' does not take sound"),
        ("motion", "audio/wav", "a rate that its bundle says"),
        ("motion", "audio/ogg", "want image/jpeg, image/png, audio/wav, text/csv"),
        ("motion", "image/png", "'motion' does not take images"),
    ],
)
def test_what_a_model_does_not_take_is_a_415_with_the_reason(server, model, kind, why):
    answered = post(server, model, b"RIFF", kind)
    assert (answered.status_code, why in answered.json()["error"]) == (415, True)


@pytest.mark.parametrize(
    ("model", "content", "status", "why"),
    [
        ("site", b"site\n\xff", 400, "cannot be read"),
        ("site", b"site\n", 400, "want at least 1 rows, got 0"),
        ("site", b"site\n" + b"A\n" * (MOST + 1), 400, f"want at most {MOST} rows"),
        ("site", b"n,site\n1," + b"A" * 200_000, 400, "field larger than field limit"),
        ("site", b"a" * (2 << 20), 413, "too large"),
        ("motion", b"1,2\n1,x\n", 400, "row 1: "),
        ("motion", b"1,2\n" * 15, 400, "want at least 16 rows, got 15"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_the_row(server, model, content, status, why):
    answered = post(server, model, content, "text/csv")
    assert (answered.status_code, why in answered.json()["error"]) == (status, True), answered.text


def test_a_sound_that_is_none_or_out_of_bounds_is_refused_before_it_is_decoded(server, soundfile):
    whole = wav(soundfile, np.zeros(800))
    for content, why in (
        (b"", "cannot be decoded"),
        (whole[:30], "cannot be decoded"),
        (wav(soundfile, []), "want a sound of at most"),
        (wav(soundfile, np.zeros(400 + 200 * MOST + 1)), "want a sound of at most 3.2 s"),
        (wav(soundfile, np.zeros(800), 500_000), "500000 Hz is not taken"),
        (wav(soundfile, np.zeros(800), 16_001), "16001 Hz is not taken"),
    ):
        answered = post(server, "loud", content, "audio/wav")
        assert (answered.status_code, why in answered.json()["error"]) == (400, True), answered.text


def test_sound_needs_one_channel_and_a_rate_tables_need_a_window_or_columns():
    assert kinds_for(SOUND) == {"sound", "table"}
    assert kinds_for(SourceContext(window=16, hop=16, channels=2)) == {"table"}
    assert kinds_for(SourceContext(columns=("site",))) == {"table"}
    assert kinds_for(SourceContext()) == frozenset()


def test_the_most_that_is_taken_is_that_many_windows(soundfile):
    assert len(frames_of(wav(soundfile, np.zeros(400 + 200 * (MOST - 1))), "sound", SOUND)) == MOST
