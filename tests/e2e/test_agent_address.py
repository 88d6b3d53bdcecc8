"""Local programs and pipelines use the same loaded models, by one address of the agent."""

import contextlib
import os
import signal

import httpx
import numpy as np
import pytest
from agent_stage import AgentStage
from bundles import CHANNELS, WINDOW, make_bundle, make_detector, pipeline_toml

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
