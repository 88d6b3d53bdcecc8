"""A real device of a real fleet measures candidates, and tells what its board takes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from agent_stage import AgentStage, FleetStage, command, wait_for
from brightness import brightness_net, write_pictures
from bundles import make_bundle, pipeline_toml

from edgekit.core.errors import EnrollError, LinkError, UsageError
from edgekit.core.spec import variant_hash
from edgekit.model.bundle import open_bundle
from edgekit.update.slots import Slots
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.report.write import read_study
from edgekit_optimize.run.fleet_measuring import FleetApi, costs_of, measure_on

SLOW = {"id": "slow", "backend": "null", "options": {"latency_ms": 4}}
FOREIGN = {"id": "foreign", "backend": "null", "options": {"seed": 9}, "requires": {"arch": ["riscv64"]}}
WRONG = {"id": "wrong", "backend": "null", "options": {"outputs": {
    "scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.8, 0.2]]}}}}  # fmt: skip


pytestmark = [
    pytest.mark.timeout(900),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, proofs):
    folder = tmp_path_factory.mktemp("measure")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proofs))
        yield from staged(folder)


def staged(folder):
    fleet = FleetStage(folder)
    fleet.start()
    make_bundle(folder / "1.0.0", version="1.0.0")
    make_bundle(folder / "candidates", version="2.0.0", more_variants=(SLOW, FOREIGN, WRONG))
    (folder / "motor.toml").write_text(pipeline_toml(fps=50))
    agent = AgentStage(
        folder / "agent",
        '[[pipeline]]\nfile = "../motor.toml"\ninitial = "../1.0.0"\n',
        "progress_s = 0.2\n",
    )
    try:
        agent.device = agent.enroll(fleet, "board-1")
        agent.start()
        agent.runs("1.0.0")
        agent.until(lambda s: s["link"]["connected"], "the link")
        fleet.publisher, fleet.operator = (
            fleet.cli("token", "create", "--role", role)["token"] for role in ("publisher", "operator")
        )
        yield fleet, agent, folder
    finally:
        if agent.process is not None:
            agent.kill()
        fleet.stop()


def measure(fleet, bundle, device="board-1", *, keys="own", timeout_s=120.0, told=None):
    return measure_on(
        bundle,
        device,
        fleet=fleet.url,
        token=fleet.publisher,
        keys=fleet.keys if keys == "own" else keys,
        threads=1,
        seconds=0.25,
        timeout_s=timeout_s,
        progress=(told if told is not None else []).append,
    )


def test_candidates_are_measured_beside_what_runs_and_never_installed(stage):
    fleet, agent, folder = stage
    told = []
    rows, profile = measure(fleet, folder / "candidates", told=told)
    assert "signing motion 2.0.0 for measuring" in told
    assert profile == agent.status()["profile"]
    found = {row.id: row for row in rows}
    assert set(found) == {"null", "slow", "foreign", "wrong"}
    assert found["slow"].p50_ms > 3.5 > found["null"].p50_ms
    assert (found["null"].golden_ok, found["wrong"].golden_ok) == (True, False)
    assert found["foreign"].p50_ms is None
    assert "riscv64" in found["foreign"].error
    # nothing is left of it, and the pipeline never stopped
    status = agent.status()
    assert status["measuring"] == {}
    assert not (agent.state / "measuring").exists()
    assert Slots(agent.state).load("motion").filled() == Slots(agent.state).load("motion").filled()[:1]
    assert status["pipelines"]["motor"]["restarts"] == 0
    assert status["pipelines"]["motor"]["version"] == "1.0.0"
    # what ran rightly has a cost now
    hashes = {row.id: row.content for row in rows}
    costs = costs_of(fleet.url, fleet.publisher, hashes.values())
    assert [cost.profile for cost in costs[hashes["slow"]]] == [profile]
    assert costs[hashes["slow"]][0].p50_ms == pytest.approx(found["slow"].p50_ms)
    assert costs[hashes["foreign"]] == costs[hashes["wrong"]] == []


def test_optimize_has_the_device_time_its_candidates(stage):
    fleet, _, folder = stage
    (folder / "net.onnx").write_bytes(write_onnx(brightness_net()))
    write_pictures(folder / "pictures")
    out = folder / "optimized" / "net"
    words = ("optimize", folder / "net.onnx", "--data", folder / "pictures", "-o", out)
    words += ("--targets", "coral-dev-board", "--samples", 24, "--calibration-samples", 16)
    words += ("--no-sensitivity", "--seconds", 0.2, "--measure-on", "board-1", "--fleet", fleet.url)
    told = command("edgekit.cli.main", *words, "--token", fleet.publisher, "--keys", fleet.keys)
    assert told["bundle"] == str(out)
    study = read_study(out.parent / "report.json")
    on_device = {c.plan.id: [t for t in c.timings if t.device == "board-1"] for c in study.candidates}
    assert on_device["litert-int8"][0].p50_ms > 0
    assert fleet.publisher not in (out.parent / "report.json").read_text("utf-8")
    costs = {v.id: v.cost for v in open_bundle(out).manifest.variants}
    assert all(costs.values())


def test_what_is_only_measured_cannot_be_rolled_out(stage):
    fleet, _, _ = stage
    listed = FleetApi(fleet.url, fleet.publisher).get("bundles")["items"]
    assert "2.0.0" not in {one["version"] for one in listed}
    with pytest.raises(UsageError, match=r"motion 2\.0\.0 is not published"):
        FleetApi(fleet.url, fleet.operator).post("rollouts", {"model": "motion", "version": "2.0.0"})


def test_a_bench_report_reaches_the_fleet_though_no_agent_runs_when_it_is_made(stage):
    fleet, agent, folder = stage
    bundle = make_bundle(folder / "later", version="3.0.0", options={"latency_ms": 2})
    assert agent.stop() == 0
    words = ("bench", bundle, "--seconds", 0.25, "--threads", 1, "--report", "--state", agent.state)
    told = command("edgekit.cli.main", *words)
    assert told["reported"] == "when the agent starts"
    agent.start()
    content = variant_hash(open_bundle(bundle).manifest.variants[0])

    def costs():
        return costs_of(fleet.url, fleet.publisher, [content])[content]

    cost = wait_for(costs, "the cost")[0]
    assert cost.p50_ms == pytest.approx(told["variants"][0]["p50_ms"])
    rows = FleetApi(fleet.url, fleet.publisher).get("costs", [("model", "motion"), ("version", "3.0.0")])
    assert [(row["threads"], row["devices"]) for row in rows["items"]] == [(1, 1)]
    assert rows["items"][0]["names"] == [{"model": "motion", "version": "3.0.0", "variant": "null"}]
    agent.runs("1.0.0")
    assert command("edgekit.cli.main", *words)["reported"] == "by the agent, as soon as its link is up"


def test_a_job_outlives_the_agent_that_is_killed_at_it(stage):
    fleet, agent, _ = stage
    api = FleetApi(fleet.url, fleet.publisher)
    what = {"device": "board-1", "model": "motion", "version": "2.0.0"}
    job = api.post("measurements", {**what, "threads": 1, "seconds": 1.5})
    agent.until(lambda s: s["measuring"].get("state") == "measuring", "measuring")
    place = str(agent.state / "measuring")  # stands in the command lines of all that measures
    assert processes(place)
    agent.kill()
    wait_for(lambda: not processes(place), "the end of all that measures")
    assert (agent.state / "measuring").exists()
    agent.start()

    def result():
        return (found := api.get(f"measurements/{job['id']}"))["state"] == "done" and found

    found = wait_for(result, "the result")
    assert {row["id"] for row in found["result"]["variants"]} == {"null", "slow", "foreign", "wrong"}
    wait_for(lambda: not (agent.state / "measuring").exists(), "an empty place")
    agent.runs("1.0.0")


def processes(word):
    """Return the processes whose command line has a word in it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (path / "cmdline").read_text():
                found.add(path.name)
    return found


def test_each_way_to_fail_is_told_as_what_it_is(stage, tmp_path):
    fleet, agent, folder = stage
    with pytest.raises(EnrollError, match="no device 'nobody'"):
        measure(fleet, folder / "candidates", "nobody")
    unsigned = make_bundle(tmp_path / "unsigned", version="7.0.0")
    with pytest.raises(LinkError, match="7.0.0 .* is not published"):
        measure(fleet, unsigned, keys=None)
    strange = tmp_path / "strange"
    command("edgekit_fleet.cli.main", "keys", "init", "--keys", strange, "--fleet", fleet.url)
    with pytest.raises(UsageError, match="trusts another root"):
        measure(fleet, unsigned, keys=strange)
    assert agent.stop() == 0
    api = FleetApi(fleet.url, fleet.publisher)
    wait_for(lambda: not api.get("devices/board-1")["device"]["online"], "the fleet hears that it left")
    told = []
    with pytest.raises(LinkError, match="did not take the job in time"):
        measure(fleet, folder / "candidates", keys=None, timeout_s=1.0, told=told)
    assert "board-1 is offline; the job waits for it" in told
