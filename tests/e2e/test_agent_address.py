"""Local programs and pipelines use the same loaded models, by one address of the agent."""

import contextlib
import os
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
from agent_stage import AgentStage
from bundles import CHANNELS, WINDOW, make_bundle, make_detector, pipeline_toml

from edgekit.cli.agent import status_text

BODY = np.zeros((1, WINDOW, CHANNELS), np.float32).tobytes()
RAW = {"Inference-Header-Content-Length": "0"}

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("_proved_once")]


@pytest.fixture
def agent(tmp_path):
    """Two models, the first with two pipelines, and the address at a socket."""
    entries = []
    for name, model in (("motor", "a"), ("pump", "a"), ("fan", "b")):
        path = tmp_path / model
        if not path.exists():
            make_bundle(path, model=model)
        (tmp_path / f"{name}.toml").write_text(
            pipeline_toml(model=str(path), fps=50).replace('"motor"', f'"{name}"')
        )
        entries.append(f'[[pipeline]]\nfile = "../{name}.toml"\n')
    address = f'uds = "{tmp_path}/api.sock"'
    stage = AgentStage(tmp_path / "agent", "".join(entries), f"progress_s = 0.2\n[serve]\n{address}\n")
    stage.start()
    try:
        yield stage
    finally:
        stage.kill()


@contextlib.contextmanager
def client_of(agent):
    transport = httpx.HTTPTransport(uds=str(agent.folder.parent / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://agent", timeout=30) as client:
        yield client


def infer(agent, model):
    with client_of(agent) as client:
        return client.post(f"/v2/models/{model}/infer", content=BODY, headers=RAW)


def are_running(status):
    return all(row["state"] == "running" and row["fps"] > 0 for row in status["pipelines"].values())


def test_requests_and_pipelines_use_one_loaded_model_and_every_model_answers(agent):
    status = agent.until(are_running, "the pipelines")
    assert len({worker["pid"] for worker in status["workers"]}) == 2
    for model in ("a", "b", "a"):
        answered = infer(agent, model)
        assert (answered.status_code, answered.content[-8:]) == (200, np.float32([0.1, 0.9]).tobytes())
    with client_of(agent) as client:
        index = client.post("/v2/repository/index").json()
        assert {(row["name"], row["state"]) for row in index} == {("a", "READY"), ("b", "READY")}
        rows = {row["name"]: row for row in client.get("/status").json()["models"]}
        assert client.post("/v2/repository/models/a/unload").status_code == 409
        assert client.get("/v2/models/a").json()["versions"] == ["1.0.0"]
    workers = {model["model"]: worker["pid"] for worker in status["workers"] for model in worker["models"]}
    assert {name: row["pid"] for name, row in rows.items()} == workers


def test_a_killed_or_stopped_worker_costs_the_other_model_nothing(agent):
    status = agent.until(are_running, "the pipelines")
    workers = {model["model"]: worker["pid"] for worker in status["workers"] for model in worker["models"]}
    os.kill(workers["a"], signal.SIGKILL)
    assert infer(agent, "b").status_code == 200
    agent.until(lambda _: infer(agent, "a").status_code == 200, "an answer of the restarted worker")
    assert agent.status()["pipelines"]["fan"]["restarts"] == 0


SHARED = """
[serve]
uds = "{folder}/api.sock"
[[serve.model]]
name = "a"
bundles = ["../two", "../three"]
replicas = ["cpu", "null"]
split = {{ pipelines = 75, "2.0.0" = 25 }}
shadow = "3.0.0"
"""


def test_the_pipelines_version_shares_its_requests_with_a_bundle_and_one_in_the_shadow_is_compared(tmp_path):
    make_bundle(tmp_path / "one", model="a")
    make_bundle(tmp_path / "two", model="a", version="2.0.0")
    make_bundle(tmp_path / "three", model="a", version="3.0.0", scores=(0.9, 0.1))
    (tmp_path / "motor.toml").write_text(pipeline_toml(model=str(tmp_path / "one"), fps=50))
    agent = AgentStage(
        tmp_path / "agent", '[[pipeline]]\nfile = "../motor.toml"\n', SHARED.format(folder=tmp_path)
    )
    agent.start()

    def versions(status):
        return {row["version"]: row for row in status["serving"][0]["versions"]}

    def are_ready(status):
        rows = versions(status) if status["serving"] else {}
        every = [*rows.values(), *(each for row in rows.values() for each in row["replicas"])]
        return len(rows) == 3 and len(every) == 7 and all(row["state"] == "READY" for row in every)

    try:
        agent.until(are_ready, "three versions")
        with client_of(agent) as client:
            answers = [client.post("/v2/models/a/infer", content=BODY, headers=RAW) for _ in range(20)]
            assert {answered.status_code for answered in answers} == {200}
            named = client.post("/v2/models/a/versions/3.0.0/infer", content=BODY, headers=RAW)
            assert named.content[-8:] == np.float32([0.9, 0.1]).tobytes()

        def are_counted(status):
            rows = versions(status)
            shadows = [rows[version]["shadow"] for version in ("1.0.0", "2.0.0")]
            return all(
                each and each["pairs"] + each["skipped"] == count
                for each, count in zip(shadows, (15, 5), strict=True)
            )

        status = agent.until(are_counted, "the comparisons")
        (row,) = status["serving"]
        assert (row["split"], row["shadow"], row["missing"]) == ({"1.0.0": 75, "2.0.0": 25}, "3.0.0", [])
        counted = versions(status)
        assert [counted[version]["requests"] for version in ("1.0.0", "2.0.0")] == [15, 5]
        shadow = counted["1.0.0"]["shadow"]
        assert shadow["pairs"] == shadow["disagreed"] >= 1
        assert "1.0.0 75 %, 2.0.0 25 %" in status_text(status)
        pids = {row["pid"] for row in counted.values()}
        assert agent.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        if agent.process is not None:
            agent.kill()


COUNTED = """
[track]
confirm = 1
[[zone]]
name = "all"
polygon = [[0, 0], [1, 0], [1, 1], [0, 1]]
"""


def test_the_metrics_have_what_zones_have_counted(tmp_path):
    make_detector(tmp_path / "faces")
    (tmp_path / "door.toml").write_text(pipeline_toml("door", str(tmp_path / "faces"), fps=50) + COUNTED)
    serve = f'progress_s = 0.2\n[serve]\nuds = "{tmp_path}/api.sock"\n'
    agent = AgentStage(tmp_path / "agent", '[[pipeline]]\nfile = "../door.toml"\n', serve)
    agent.start()
    try:
        agent.until(
            lambda s: s["pipelines"]["door"]["places"].get("zones", {}).get("all", {}).get("inside"), "it"
        )
        with client_of(agent) as client:
            text = client.get("/metrics").text
    finally:
        agent.kill()
    assert 'edgekit_zone_inside{pipeline="door",zone="all"} 1\n' in text
    assert "# TYPE edgekit_zone_inside gauge" in text
