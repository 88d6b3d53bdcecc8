"""Several models in one pipeline, as ``edgekit run`` runs them."""

import contextlib
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from blobs import BLUE, HEIGHT, RED, WIDTH, blob_bundle, film, tint_bundle
from pipeline_fakes import make_predictor

from edgekit.agent.worker.runner import run_pipeline
from edgekit.base.lane import Lane
from edgekit.core.errors import ConfigError, InferenceError
from edgekit.core.ports import Frame
from edgekit.pipeline.config import parse_config
from edgekit.pipeline.events import Debounce, EventMaker
from edgekit.pipeline.stages.calls import LaneModel
from edgekit.pipeline.stages.graph import Graph, Stage
from edgekit.pipeline.stages.tables import StageTable

EXAMPLE = Path(__file__).parents[2] / "examples" / "stages.toml"
FRAMES = 24


def way(start, end, y):
    return [(start + (end - start) * n / (FRAMES - 1), y) for n in range(FRAMES)]


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A detector, a classifier, and a recording of a red and a blue one that pass each other."""
    folder = tmp_path_factory.mktemp("street")
    blob_bundle(folder / "people")
    tint_bundle(folder / "shirts")
    film(folder / "street.avi", [way(0.2, 0.8, 0.25), way(0.8, 0.2, 0.75)], colors=(RED, BLUE))
    (folder / "street.avi").rename(folder / "street.mp4")
    (folder / "examples").mkdir()
    return folder


def run(folder, text):
    """Run a pipeline's text beside the models; return the summary and each frame's result."""
    (folder / "seen.jsonl").unlink(missing_ok=True)
    document = run_pipeline(parse_config(text, folder=str(folder / "examples"))).document
    return document, [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]


def told(document, results):
    """Return the frames' counts; what a run has captured is accounted for."""
    frames = document["frames"]
    parts = ("processed", "dropped", "failed", "skipped")
    assert frames["captured"] == sum(frames[part] for part in parts) == FRAMES
    assert len(results) == frames["processed"]
    return frames


def test_each_crop_is_looked_at_and_names_the_item_that_it_is_of(street):
    document, results = run(street, EXAMPLE.read_text())
    assert told(document, results)["processed"] == FRAMES
    people, shirt = document["stages"]
    assert (document["model"], people["model"], shirt["model"]) == ("blobs", "blobs", "tints")
    assert (people["name"], people["on"], people["inferences"], people["skipped"]) == (
        "people",
        "frames",
        12,
        12,
    )
    assert (shirt["name"], shirt["on"], shirt["version"], shirt["skipped"]) == ("shirt", "people", "1.0.0", 0)
    tints = set()
    for result in results[6:]:
        items = [item for item in result["items"] if "stage" not in item]
        found = [item for item in result["items"] if item.get("stage") == "shirt"]
        assert result["total"] == len(items) == len(found) == 2
        assert result["versions"] == {"blobs": "1.0.0", "tints": "1.0.0"}
        for item in found:
            parent = items[item["parent"]["item"]]
            assert item["parent"]["stage"] == "people"
            assert parent["box"][0] >= item["box"][0] - 1
            tints.add((parent["track"], item["label"]))
    assert tints in ({(1, "red"), (2, "blue")}, {(2, "red"), (1, "blue")})
    appeared = {(e["stage"], e["label"]) for r in results for e in r.get("events", ()) if "stage" in e}
    assert appeared == {("shirt", "red"), ("shirt", "blue")}


def test_without_a_tracker_the_frames_between_are_skipped_and_counted(street):
    text = EXAMPLE.read_text().replace('[track]\nlabels = ["person"]', "")
    document, results = run(street, text)
    frames = told(document, results)
    assert (frames["processed"], frames["skipped"]) == (12, 12)
    assert document["stages"][0]["skipped"] == 12


def test_the_tracker_carries_the_boxes_over_the_frames_between(street):
    _, results = run(street, EXAMPLE.read_text())
    for before, between, after in zip(results[10:-2:2], results[11:-1:2], results[12::2], strict=True):
        lefts = [
            {i["track"]: i["box"][0] for i in r["items"] if "track" in i} for r in (before, between, after)
        ]
        for track, left in lefts[1].items():
            low, high = sorted((lefts[0][track], lefts[2][track]))
            assert low - 12 <= left <= high + 12


def test_no_more_crops_than_allowed_are_looked_at_and_the_rest_is_counted(street):
    document, results = run(street, EXAMPLE.read_text().replace("at_most = 8", "at_most = 1"))
    assert all(sum("stage" in item for item in result["items"]) <= 1 for result in results)
    assert document["stages"][1]["skipped"] >= FRAMES - 4


def test_all_crops_of_a_frame_take_one_run_where_the_model_has_the_batch(street, monkeypatch):
    from edgekit.backends.onnxruntime import OnnxRuntimeBackend

    runs, run_once = [], OnnxRuntimeBackend.run

    def counted(backend):
        runs.append(backend.inputs[0].shape[0])
        return run_once(backend)

    monkeypatch.setattr(OnnxRuntimeBackend, "run", counted)
    _, alone = run(street, EXAMPLE.read_text())
    single = runs.count(1)
    runs.clear()
    _, batched = run(street, EXAMPLE.read_text().replace("at_most = 8", "at_most = 8\nbatch = 2"))
    assert runs.count(2) >= FRAMES - 4
    assert runs.count(1) < single - FRAMES
    labels = [[item["label"] for result in some for item in result["items"]] for some in (alone, batched)]
    assert labels[0] == labels[1]


def test_the_motion_gate_looks_at_what_changes_only(street, tmp_path):
    still = [(0.3, 0.5)] * 12 + way(0.3, 0.8, 0.5)[:12]
    film(street / "gate.avi", [still])
    text = EXAMPLE.read_text().replace("street.mp4", "gate.avi").replace("every = 2", "motion = 0.005")
    document, _ = run(street, text)
    people = document["stages"][0]
    assert people["skipped"] == 12
    assert people["inferences"] == 12


def test_an_object_that_two_tiles_see_is_reported_once_and_at_its_place(street):
    tiled = '[pipeline]\nname = "p"\n[source]\nkind = "video"\nuri = "../street.mp4"\n'
    tiled += '[[stage]]\nname = "people"\n'
    tiled += 'model = "../people"\ntiles = [2, 2]\n[[sink]]\nkind = "jsonl"\npath = "../seen.jsonl"'
    document, results = run(street, tiled)
    assert document["stages"][0]["inferences"] == FRAMES
    for number, result in enumerate(results):
        centres = sorted((i["box"][1] + i["box"][3]) / 2 / HEIGHT for i in result["items"])
        assert centres == pytest.approx([0.25, 0.75], abs=0.04)
        left = min(result["items"], key=lambda item: item["box"][1])["box"]
        assert (left[0] + left[2]) / 2 / WIDTH == pytest.approx(way(0.2, 0.8, 0.25)[number][0], abs=0.06)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's with a stage of plain Python."""
    (tmp_path / "shades.py").write_text(
        "from edgekit.core.spec import Item\n"
        "def shades(items, crops):\n"
        "    return [Item(value=float(crop.mean()), label='shade') if item.label else None\n"
        "            for item, crop in zip(items, crops)]\n"
    )
    info = tmp_path / "shades-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shades\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text("[edgekit.stages]\nshades = shades:shades\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_stage_may_be_a_function_of_an_installed_package(street, package):
    text = EXAMPLE.read_text().replace('model = "../shirts"', 'function = "shades"')
    document, results = run(street, text)
    values = [i["value"] for r in results for i in r["items"] if i.get("stage") == "shirt"]
    assert len(values) >= 2 * (FRAMES - 6)
    assert all(100 <= value <= 255 for value in values)
    assert document["stages"][1]["model"] == "shades"


def test_a_function_that_no_package_has_is_refused_with_the_group(street):
    with pytest.raises(ConfigError, match=r"stage 'shirt': function: .*'nonesuch'.*edgekit.stages"):
        run(street, EXAMPLE.read_text().replace('model = "../shirts"', 'function = "nonesuch"'))


def test_what_a_later_stage_finds_can_be_hidden_and_is_where_the_stage_fails(street, monkeypatch):
    shown = []
    keeper = SimpleNamespace(keep=lambda result: shown.append(result.frame.data.copy()))
    monkeypatch.setitem(sys.modules, "keeps_frames", keeper)
    text = EXAMPLE.read_text() + '[privacy]\nredact = ["red"]\nredact_style = "fill"\n'
    text += '[[sink]]\nkind = "callback"\nfunction = "keeps_frames:keep"\n'
    run(street, text)
    assert all(pixels[: HEIGHT // 2].max() < 60 for pixels in shown[8:])  # the red one's way
    assert all(pixels[HEIGHT // 2 :].max() > 200 for pixels in shown[8:])

    def fails(*_):
        raise InferenceError("the classifier is gone")

    monkeypatch.setattr(LaneModel, "ask", fails)
    shown.clear()
    document, _ = run(street, text)
    assert document["errors"] == document["stages"][1]["errors"] > 10
    assert all(pixels.max() == 0 for pixels in shown[8:])


def test_all_crops_of_a_frame_go_through_one_model_while_another_takes_over():
    """A takeover between any two frames; each model says another label."""
    models = [make_predictor(values={"scores": [scores]}) for scores in ([0.9, 0.1, 0.0], [0.0, 0.1, 0.9])]
    crops, labels, ended = [np.zeros((8, 8, 3), np.uint8)] * 6, [], threading.Event()

    def take_over():
        while not ended.is_set():
            for model in models:
                lane.call(lambda model=model: stage.use(model))

    with contextlib.closing(Lane("stage-tint")) as lane:
        stage = LaneModel(models[0], lane, lambda lost, _: lost)
        thread = threading.Thread(target=take_over)
        thread.start()
        while len(labels) < 10_000 and (len(labels) < 200 or len(set(labels)) < 2):
            (label,) = {prediction.best.label for prediction in stage.ask(crops)()}
            labels.append(label)
        ended.set()
        thread.join()
        stage.close()
    assert set(labels) == {"a", "c"}


class Looks:
    """What a stage runs; the pictures that it was given."""

    def __init__(self):
        self.given = []

    def look(self, _items, crops):
        self.given += [int(crop[0, 0, 0]) for crop in crops]
        return lambda: [()]


def frame(seq):
    return Frame(np.full((4, 4, 3), seq, np.uint8), seq, 0, 0)


def test_a_stage_looks_at_a_frame_once_and_what_it_saw_is_not_anothers():
    runs = Looks()
    stage = Stage(StageTable(name="fire", model="fire"), runs, EventMaker(Debounce(), str))
    first, second = frame(0), frame(1)
    stage.look(first)
    stage.look(first)
    assert (runs.given, stage.inferences) == ([0], 0)
    assert stage.step(first, ()) == []
    assert (runs.given, stage.inferences) == ([0], 1)
    stage.look(first)  # and then the first model failed
    assert stage.step(second, ()) == []
    assert (runs.given, stage.inferences) == ([0, 0, 1], 2)


def test_a_frame_on_which_the_first_model_fails_counts_for_no_later_stage():
    runs = Looks()
    stage = Stage(StageTable(name="fire", model="fire", every=2), runs, EventMaker(Debounce(), str))
    frames = [frame(seq) for seq in range(5)]
    for failed in frames[:2]:
        stage.look(failed)
    for done in frames[2:]:
        stage.look(done)
        stage.step(done, ())
    assert runs.given == [0, 1, 2, 4]
    assert (stage.inferences, stage.skipped) == (2, 1)


def test_only_stages_on_frames_run_beside_the_first_one():
    tables = [StageTable(name="fire", model="fire"), StageTable(name="shirt", model="shirt", on="people")]
    looks = [Graph("people", [Stage(each, Looks(), EventMaker(Debounce(), str))]).looks for each in tables]
    assert looks == [True, False]


def test_a_stage_on_frames_sees_the_frame_of_which_it_is_reported(street):
    """The same detector twice: whatever runs beside what, both say the same of each frame."""
    text = '[pipeline]\nname = "p"\n[source]\nkind = "video"\nuri = "../street.mp4"\n'
    text += "".join(
        f'[[stage]]\nname = "{name}"\nmodel = "../people"\n' for name in ("people", "again", "more")
    )
    document, results = run(street, text + '[[sink]]\nkind = "jsonl"\npath = "../seen.jsonl"')
    assert [row["inferences"] for row in document["stages"]] == [FRAMES] * 3
    boxes = [
        [[i["box"] for i in result["items"] if i.get("stage") == stage] for stage in (None, "again", "more")]
        for result in results
    ]
    assert all(first == again == more for first, again, more in boxes)
    assert len({json.dumps(first) for first, _, _ in boxes}) > FRAMES / 2
