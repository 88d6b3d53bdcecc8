"""One page shows the pipelines of every worker of an agent."""

import base64
import json
import os
import signal

import cv2
import httpx
import numpy as np
import pytest
from agent_stage import AgentStage
from browser import Browser, missing_browser
from bundles import make_detector, pipeline_toml

TOKEN = "a-token-of-sixteen-and-more"

PICTURE = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
TRY = """
const bytes = Uint8Array.from(atob("PICTURE"), (letter) => letter.charCodeAt(0));
const chosen = new DataTransfer();
chosen.items.add(new File([bytes], "a.png", { type: "image/png" }));
const input = document.getElementById("tried");
input.files = chosen.files;
input.dispatchEvent(new Event("change"));
"""

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("_proved_once")]


@pytest.fixture(scope="module")
def agent(tmp_path_factory, proofs):
    """Two face detectors in two processes, and a page."""
    folder, entries = tmp_path_factory.mktemp("agent"), []
    (folder / "token").write_text(TOKEN)
    for name in ("door", "yard"):
        make_detector(folder / name)
        text = pipeline_toml(name=name, model=str(folder / name), fps=20)
        (folder / f"{name}.toml").write_text(text.replace('name = "', f'worker = "{name}"\nname = "', 1))
        entries.append(f'[[pipeline]]\nfile = "../{name}.toml"\n')
    serving = f'port = 0\npage = true\ntoken_file = "{folder}/token"'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proofs))
        stage = AgentStage(folder / "agent", "".join(entries), f"progress_s = 0.2\n[serve]\n{serving}\n")
        stage.start()
    try:
        [stage.url] = stage.until(lambda status: status["api"], "the address")["api"]
        yield stage
    finally:
        stage.kill()


@pytest.fixture
def client(agent):
    agent.until(
        lambda status: all(row["state"] == "running" for row in status["pipelines"].values()), "the pipelines"
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=agent.url, headers=headers, timeout=30) as one:
        agent.until(lambda _: len(names(one)) == 2, "both pipelines on the page")
        yield one


def names(client):
    return client.get("/page/pipelines").json()["pipelines"]


def frame(client, name, after=0):
    body = client.get(f"/page/pipelines/{name}/frame?after={after}").content
    length = int.from_bytes(body[:4], "big")
    return json.loads(body[4 : 4 + length]), body[4 + length :]


def is_shown(client, name):
    try:
        answer = client.get(f"/page/pipelines/{name}/frame")
    except httpx.TransportError:  # the connection was kept by a process that is killed
        return False
    return answer.status_code == 200 and b"\xff\xd8" in answer.content


def test_every_connection_shows_the_pipelines_of_every_process(agent, client):
    assert names(client) == ["door", "yard"]
    for name in ("door", "yard", "door"):
        head, picture = frame(client, name)
        assert picture.startswith(b"\xff\xd8")
        assert [item["label"] for item in head["frame"]["items"]] == ["face"]
        assert frame(client, name, head["number"])[0]["number"] > head["number"]
    assert client.get("/page/pipelines/none/frame").status_code == 404


def test_events_of_every_pipeline_come_over_one_connection(client):
    for name in ("door", "yard"):
        with client.stream("GET", f"/page/pipelines/{name}/events") as stream:
            lines = stream.iter_lines()
            kinds = {line for line, _ in zip(lines, range(12), strict=False) if line.startswith("event: ")}
        assert kinds == {"event: happened", "event: figures"}


def test_a_threshold_of_a_running_pipeline_moves_and_the_other_stays(client):
    for value, count in ((0.95, 0), (0.5, 1)):
        answered = client.post("/page/pipelines/yard/settings", json={"score_threshold": value})
        assert answered.json()["settings"] == {"score_threshold": value}
        number = 0
        for _ in range(3):  # the first ones may be of before
            head, _ = frame(client, "yard", number)
            number = head["number"]
        assert head["frame"]["total"] == count
        assert frame(client, "door")[0]["frame"]["total"] == 1
    assert client.post("/page/pipelines/yard/settings", json={"score_threshold": 7}).status_code == 400


def test_a_pipeline_is_stopped_and_started_over_http_and_the_agent_says_why(agent, client):
    def switch(**wanted):
        return client.post("/page/pipelines/yard/switch", json=wanted)

    answered = switch(to="off", reason="the yard is being painted").json()["switch"]
    assert (answered["is_on"], answered["words"]) == (False, ["on", "off"])
    kept = agent.until(
        lambda status: status["pipelines"]["yard"]["switch"].get("is_on") is False and status, "the switch"
    )["pipelines"]["yard"]["switch"]
    assert kept["why"] == "the yard is being painted"
    assert frame(client, "door")[0]["frame"]["total"] == 1
    for wrong in (
        {"to": "night"},
        {"to": 1},
        {},
        {"to": "on", "reason": "x" * 201},
        {"to": "on", "by": "me"},
    ):
        assert switch(**wrong).status_code == 400
    assert switch(to="on").json()["switch"]["why"] == "the page"


def test_a_model_answers_the_pages_visitors_and_no_other_site(agent, client):
    with httpx.Client(base_url=agent.url, timeout=30) as visitor:
        visitor.get("/", params={"token": TOKEN})
        kind, own = {"Content-Type": "image/png"}, {"Origin": agent.url}

        def ask(**more):
            return visitor.post("/v2/models/motion/infer", content=PICTURE, headers={**kind, **more})

        assert [item["label"] for item in ask(**own).json()["items"]] == ["face"]
        assert ask(Origin="http://elsewhere.example").status_code in (401, 403)
        assert visitor.get("/status").status_code == 401, "for programs, with the token"
        visitor.cookies.clear()
        assert ask(**own).status_code == 401


def test_nobody_sees_anything_without_the_token(agent, client):
    assert httpx.get(f"{agent.url}/").status_code == 401
    for path in ("pipelines", "pipelines/door/frame", "pipelines/yard/events"):
        assert httpx.get(f"{agent.url}/page/{path}").status_code == 401
    assert httpx.get(f"{agent.url}/v2").status_code == 401


def test_a_killed_process_takes_only_its_pipelines_from_the_page(agent, client):
    status = agent.status()
    pid = next(row["pid"] for row in status["workers"] if row["pipelines"][0]["name"] == "door")
    os.kill(pid, signal.SIGKILL)
    for name in ("yard", "door"):  # a connection that the dying process was handed is answered with 503
        agent.until(lambda _, name=name: is_shown(client, name), f"{name} on the page")
    assert names(client) == ["door", "yard"]
    assert agent.status()["pipelines"]["yard"]["restarts"] == 0


def test_a_browser_signs_in_and_changes_the_pipeline(agent, client, tmp_path):
    if reason := missing_browser():
        pytest.skip(reason)
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"{agent.url}/")
        browser.type("#token", TOKEN)
        browser.click("button")
        browser.until("#items", "face 0.90")
        assert browser.run("return document.title") == "door · edgekit"
        browser.run(
            "const select = document.getElementById('pipeline'); select.value = 'yard';"
            "select.dispatchEvent(new Event('change'))"
        )
        browser.holds("document.title === 'yard · edgekit'")
        browser.until("#link", "live")
        browser.until("#events", "face appeared")
        browser.until("#turn", "Stop")
        browser.click("#turn")
        browser.until("#turned", "off: the page")
        assert client.get("/page/pipelines/yard/figures").json()["switch"]["is_on"] is False
        browser.click("#turn")
        browser.until("#turn", "Stop")
        browser.run(TRY.replace("PICTURE", base64.b64encode(PICTURE).decode()))
        browser.until("#answers", "face 0.90")
        assert [line for line in browser.complaints() if "401" not in line] == []  # of the form itself
    finally:
        browser.close()
