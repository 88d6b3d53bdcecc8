"""Later stages as users of hosted models, in a worker process by itself."""

import itertools
import json
import os

import pytest
from blobs import RED, blob_bundle, film, tint_bundle
from bundles import make_bundle, pipeline_toml
from test_worker import start

from edgekit.agent.ipc import (
    Drop,
    Ended,
    EventOut,
    FailedOver,
    Host,
    ModelFailed,
    Opened,
    Progress,
    Swap,
    SwapFailed,
    Swapped,
)

__all__ = ["start"]  # a fixture

STAGES = """
[pipeline]
name = "street"
[source]
kind = "video"
uri = "street.avi"
[[stage]]
name = "people"
model = "people"
[[stage]]
name = "tint"
model = "tints"
on = "people"
[track]
confirm = 2
[[line]]
name = "middle"
points = [[0.5, 0.0], [0.5, 1.0]]
[privacy]
redact = ["red"]
"""


def host(worker, bundle):
    """Open a bundle as the worker's model ``t``."""
    worker.process.send(Host(model="t", path=str(bundle)))


def test_a_pipeline_of_several_models_reports_its_stages_and_what_it_counted(start, tmp_path):
    """The label to hide is the second one's."""
    blob_bundle(tmp_path / "people")
    tint_bundle(tmp_path / "tints")
    film(tmp_path / "street.avi", [[(0.2 + 0.02 * n, 0.5) for n in range(30)]], colors=(RED,))
    worker = start(tmp_path / "people", is_idle=True)
    host(worker, tmp_path / "tints")
    worker.run(STAGES, later={"tint": "t"})
    assert worker.first(Ended).reason == "the source came to its end"
    assert worker.frames("street") == 30
    last = worker.progress("street")[-1]
    counted = worker.progress("street", "tint")
    assert sum(m.frames for m in counted) == sum(m.items for m in counted) == 30
    assert sum(m.labels.get("red", 0) for m in counted) == 30
    assert {(m.running.model, m.running.version) for m in counted} == {("tints", "1.0.0")}
    assert [(stage.name, stage.model, stage.on, stage.inferences) for stage in last.stages] == [
        ("people", "blobs", "frames", 30),
        ("tint", "tints", "people", 30),
    ]
    assert last.places == {"tracks": 1, "lines": {"middle": {"forward": {}, "backward": {"person": 1}}}}
    records = [m.record for m in worker.heard if isinstance(m, EventOut)]
    crossed = next(record for record in records if record.kind == "crossed")
    assert (crossed.line, crossed.direction, crossed.tracks) == ("middle", "backward", (1,))
    assert crossed.versions == {"blobs": "1.0.0", "tints": "1.0.0"}
    assert len(crossed.trace_id) == 32
    assert {record.stage for record in records if record.label == "red"} == {"tint"}


PAIR = """
[[stage]]
name = "one"
model = "one"
[[stage]]
name = "two"
model = "two"
[[sink]]
kind = "jsonl"
path = "{name}.jsonl"
"""


def pair(name, fps=100, more=""):
    """Return a pipeline of two models that both look at each window of a sensor."""
    text = pipeline_toml(name, fps=fps).replace('model = "motion"', "")
    return text + PAIR.format(name=name) + more


THIRD = """
[[stage]]
name = "three"
model = "two"
"""


def results(folder, name):
    """Return the results of a pipeline so far."""
    lines = (folder / f"{name}.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def labelled(folder, version, **options):
    """Write a version of the model of the second stages, whose label names the version."""
    return make_bundle(folder, model="two", version=version, label=f"v{version[0]}", **options)


def test_every_frame_has_one_version_of_a_model_that_two_of_its_stages_and_another_pipeline_run(
    start, tmp_path
):
    """Swapped again and again at whatever moment, while its pipelines' frames flow."""
    worker = start(make_bundle(tmp_path / "one", model="one"), is_idle=True)
    old, new = labelled(tmp_path / "a", "1.0.0"), labelled(tmp_path / "b", "2.0.0")
    host(worker, old)
    worker.run(pair("p", fps=300, more=THIRD), later={"two": "t", "three": "t"})
    worker.run(pipeline_toml("q", fps=300), model="t")
    worker.until(lambda: worker.frames("p") > 20 and worker.frames("q") > 20)
    for number in range(1, 13):
        before = worker.frames("p")
        worker.process.send(Swap(model="t", swap=number, purpose="switch", path=str((old, new)[number % 2])))
        worker.until(lambda number=number: len([m for m in worker.heard if isinstance(m, Swapped)]) == number)
        worker.until(lambda before=before: worker.frames("p") > before + 10)
    assert worker.end() == 0
    seen = set()
    for result in results(tmp_path, "p"):
        (version,) = {item["label"] for item in result["items"] if item.get("stage")}
        assert result["versions"] == {"one": "1.0.0", "two": f"{version[1]}.0.0"}
        assert len(result["items"]) == 3
        seen.add(version)
    assert seen == {"v1", "v2"}
    for stage in ("two", "three"):
        assert sum(m.frames for m in worker.progress("p", stage)) == worker.frames("p")
        versions = [m.running.version for m in worker.progress("p", stage) if m.frames]
        changes = sum(before != after for before, after in itertools.pairwise(versions))
        assert changes <= 12, "the old version is never reported after the new one"


def test_two_models_that_are_first_and_second_of_each_others_pipelines_are_swapped_at_once(start, tmp_path):
    """Each lane's frames wait for the other lane: no order of waiting may make a circle."""
    worker = start(make_bundle(tmp_path / "one", model="one", options={"latency_ms": 2}), is_idle=True)
    worker.process.send(
        Host(model="t", path=str(labelled(tmp_path / "two", "1.0.0", options={"latency_ms": 2})))
    )
    worker.run(pair("p", fps=300, more=THIRD.replace('"two"', '"one"')), later={"two": "t", "three": "m"})
    worker.run(pair("q", fps=300), model="t", later={"two": "m"})
    worker.until(lambda: worker.frames("p") > 10 and worker.frames("q") > 10)
    for number in range(1, 9):
        for model, path in (("m", tmp_path / "one"), ("t", tmp_path / "two")):
            worker.process.send(Swap(model=model, swap=number, purpose="switch", path=str(path)))
        worker.until(
            lambda number=number: len([m for m in worker.heard if isinstance(m, Swapped)]) == 2 * number
        )
    before = worker.frames("p"), worker.frames("q")
    worker.until(lambda: worker.frames("p") > before[0] + 10 and worker.frames("q") > before[1] + 10)


@pytest.mark.parametrize("lose_at", [150, 151])
def test_a_variant_takes_over_whether_the_first_or_the_later_stage_loses_its_accelerator(
    start, tmp_path, lose_at
):
    """Both stages run one model in turn; a lost one is replaced on the lane for which the other may wait."""
    spare = {"id": "spare", "backend": "null"}
    bundle = make_bundle(tmp_path / "one", model="one", options={"lose_at": lose_at}, more_variants=(spare,))
    worker = start(bundle, is_idle=True)
    worker.run(pair("p"), later={"two": "m"})
    assert worker.first(FailedOver).running.variant == "spare"
    for stage in ("", "two"):
        worker.until(
            lambda stage=stage: any(
                m.frames and m.running.variant == "spare" for m in worker.progress("p", stage)
            )
        )
    assert worker.end() == 0
    assert len([m for m in worker.heard if isinstance(m, FailedOver)]) == 1
    assert sum(m.errors for m in worker.heard if isinstance(m, Progress)) <= 1


def test_without_another_variant_a_later_stages_model_ends_the_pipeline_and_no_other(start, tmp_path):
    worker = start(make_bundle(tmp_path / "one", model="one"), is_idle=True)
    worker.process.send(
        Host(model="t", path=str(labelled(tmp_path / "two", "1.0.0", options={"lose_at": 50})))
    )
    worker.run(pair("p"), later={"two": "t"})
    worker.run(pipeline_toml("q"))
    failed = worker.first(ModelFailed)
    assert failed.model == "t"
    assert "lost its accelerator" in failed.reason
    before = worker.frames("q")
    worker.until(lambda: worker.frames("q") > before + 10)
    worker.process.send(Drop(model="t"))
    host(worker, labelled(tmp_path / "again", "1.1.0"))
    worker.run(pair("p"), later={"two": "t"})
    worker.until(lambda: any(m.frames and m.running.version == "1.1.0" for m in worker.progress("p", "two")))
    assert not any(isinstance(message, Ended) for message in worker.heard)


WAITS = """
import pathlib, time

def write(result):
    has_failed = not any(item.stage for item in result.prediction.items)
    while has_failed and not pathlib.Path({go!r}).exists():
        time.sleep(0.01)
"""


def test_a_pipeline_begins_again_once_its_run_before_has_left_the_models_that_did_not_fail(
    start, tmp_path, monkeypatch
):
    """A sink holds up the run that ends; both runs would have the first model under one name."""
    (tmp_path / "waits_for_go.py").write_text(WAITS.format(go=str(tmp_path / "go")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    sink = '[[sink]]\nkind = "callback"\nfunction = "waits_for_go:write"\n'
    worker = start(make_bundle(tmp_path / "one", model="one"), is_idle=True)
    host(worker, labelled(tmp_path / "two", "1.0.0", options={"lose_at": 50}))
    worker.run(pair("p", more=sink), later={"two": "t"})
    worker.first(ModelFailed)
    worker.process.send(Drop(model="t"))
    host(worker, labelled(tmp_path / "again", "1.1.0"))
    worker.run(pair("p"), later={"two": "t"})
    worker.until(lambda: any(isinstance(m, Opened) and m.running.version == "1.1.0" for m in worker.heard))
    worker.heard.clear()
    (tmp_path / "go").touch()
    worker.until(lambda: worker.frames("p") > 20)
    worker.process.send(Swap(model="m", swap=1, purpose="switch", path=str(tmp_path / "one")))
    worker.first(Swapped)
    before = worker.frames("p")
    worker.until(lambda: worker.frames("p") > before + 20)
    assert not any(isinstance(message, Ended) for message in worker.heard)


def test_an_end_by_errors_of_a_later_stage_is_blamed_on_its_model(start, tmp_path):
    worker = start(make_bundle(tmp_path / "one", model="one"), is_idle=True)
    broken = labelled(tmp_path / "two", "1.0.0", options={"fail_at": list(range(20, 2000))})
    host(worker, broken)
    worker.run(pair("p", fps=1000), later={"two": "t"})
    ended = worker.first(Ended)
    assert (ended.blames, ended.is_final) == ("t", False)
    assert sum(m.errors for m in worker.progress("p", "two")) == 300
    assert sum(m.errors for m in worker.progress("p")) == 0


def test_a_version_without_the_label_that_only_a_later_stage_could_hide_is_not_taken(start, tmp_path):
    blob_bundle(tmp_path / "people")
    film(tmp_path / "street.avi", [[(0.5, 0.5)] * 50], colors=(RED,))
    worker = start(tmp_path / "people", is_idle=True)
    host(worker, tint_bundle(tmp_path / "tints"))
    worker.run(STAGES.replace('avi"', 'avi"\nrealtime = true\nloop = true'), later={"tint": "t"})
    worker.until(lambda: worker.frames("street") > 5)
    for number, labels in ((1, ["crimson", "green", "blue"]), (2, ["RED", "green", "blue"])):
        new = tint_bundle(tmp_path / str(number), version="2.0.0", labels=labels)
        worker.process.send(Swap(model="t", swap=number, purpose="trial", path=str(new)))
        worker.first(SwapFailed if number == 1 else Swapped)
    assert "tints 2.0.0 has no label 'red'" in worker.first(SwapFailed).reason
    people = blob_bundle(tmp_path / "people2", version="2.0.0", label="walker")
    worker.process.send(Swap(model="m", swap=1, purpose="trial", path=str(people)))
    worker.until(lambda: worker.frames("street", "2.0.0") > 5)


def test_of_two_models_that_find_what_is_hidden_one_keeps_it_though_both_are_swapped_at_once(start, tmp_path):
    film(tmp_path / "street.avi", [[(0.5, 0.5)] * 50], colors=(RED,))
    worker = start(blob_bundle(tmp_path / "people", label="red"), is_idle=True)
    host(worker, tint_bundle(tmp_path / "tints"))
    worker.run(STAGES.replace('avi"', 'avi"\nrealtime = true\nloop = true'), later={"tint": "t"})
    worker.until(lambda: worker.frames("street") > 5)
    people = blob_bundle(tmp_path / "people2", version="2.0.0", label="walker")
    tints = tint_bundle(tmp_path / "tints2", version="2.0.0", labels=["crimson", "green", "blue"])
    for model, path in (("m", people), ("t", tints)):
        worker.process.send(Swap(model=model, swap=1, purpose="trial", path=str(path)))
    assert "has no label 'red'" in worker.first(SwapFailed).reason
    worker.first(Swapped)


def test_two_stages_cannot_have_one_model_that_keeps_state(start, tmp_path):
    worker = start(make_bundle(tmp_path / "one", model="one"), is_idle=True)
    worker.process.send(
        Host(model="t", path=str(labelled(tmp_path / "two", "1.0.0", options={"keeps_state": True})))
    )
    worker.run(pair("p", more=THIRD), later={"two": "t", "three": "t"})
    ended = worker.first(Ended)
    assert ended.is_final
    assert "stage 'three': the file of its model keeps state" in ended.reason
