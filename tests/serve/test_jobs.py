"""A request that may be answered later is on disk before its client is told, and answered once."""

import errno
import threading
import time

import numpy as np
import pytest
from scripted import doubling, served

from edgekit.base.files import write_durably
from edgekit.core.errors import InferenceError
from edgekit.serve import jobs as kept_jobs

X = np.float32([1, 2, 3, 4])
LATER = {"prefer": "respond-async, wait=10", "inference-header-content-length": "0"}


def send(server, values=X, model="double"):
    return server.client.post(f"/v2/models/{model}/infer", content=values.tobytes(), headers=LATER)


def fetch(server, href):
    """Ask until the answer is there."""
    deadline_s = time.monotonic() + 60
    while (answered := server.client.get(href)).status_code == 202:
        assert time.monotonic() < deadline_s
    return answered


def test_the_answer_is_fetched_as_it_would_have_come_at_once(tmp_path):
    with served(doubling()[0], jobs=tmp_path) as server:
        accepted = send(server)
        job = accepted.json()
        assert (accepted.status_code, job["state"]) == (202, "waiting")
        assert accepted.headers["location"] == job["href"]
        assert accepted.headers["preference-applied"] == "respond-async"
        answered, at_once = (
            fetch(server, job["href"]),
            server.client.post(
                "/v2/models/double/infer",
                content=X.tobytes(),
                headers={"inference-header-content-length": "0"},
            ),
        )
        assert answered.content == at_once.content
        assert answered.headers["inference-header-content-length"]
        assert server.client.delete(job["href"]).status_code == 200
        assert server.client.get(job["href"]).status_code == 404
        assert server.client.delete(job["href"]).status_code == 404
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_jobs_outlive_the_process_and_run_in_their_order(tmp_path):
    with served(doubling()[0], jobs=tmp_path) as server:
        server.client.post("/v2/repository/models/double/unload")
        hrefs = [send(server, X + number).json()["href"] for number in range(3)]
        assert server.client.get(hrefs[2]).json()["ahead"] == 2
    offer, opener = doubling()
    with served(offer, jobs=tmp_path) as server:
        assert [fetch(server, href).status_code for href in hrefs] == [200] * 3
        assert [run["x"][0, 0] for run in opener.opened[0].runs] == [1, 2, 3]


def test_an_error_is_an_answer_and_a_busy_model_is_tried_again(tmp_path):
    offer, opener = doubling()
    with served(offer, jobs=tmp_path) as server:
        opener.opened[0].errors.append(InferenceError("once"))
        failed = fetch(server, send(server).json()["href"])
        assert (failed.status_code, failed.json()["error"]) == (500, "once")
        assert fetch(server, send(server, X[:3]).json()["href"]).status_code == 400
        server.client.post("/v2/repository/models/double/unload")
        waiting = send(server).json()["href"]
        assert server.client.get(waiting).status_code == 202
        server.client.post("/v2/repository/models/double/load")
        assert fetch(server, waiting).status_code == 200


def test_a_job_that_ends_its_process_twice_is_not_begun_again(tmp_path):
    with served(doubling()[0], jobs=tmp_path) as server:
        server.client.post("/v2/repository/models/double/unload")
        hrefs = [send(server, X + number).json()["href"] for number in range(2)]
    first, second = sorted(tmp_path.rglob("*.job"))
    first.rename(first.with_suffix(".twice"))  # as a process leaves them that is killed while it runs one
    second.rename(second.with_suffix(".once"))
    offer, opener = doubling()
    with served(offer, jobs=tmp_path) as server:
        answers = [fetch(server, href) for href in hrefs]
        assert [answered.status_code for answered in answers] == [500, 200]
        assert "ended twice" in answers[0].json()["error"]
        assert len(opener.opened[0].runs) == 1


def test_a_disk_that_is_full_for_long_loses_no_job(tmp_path, monkeypatch):
    """After the second try its answer was that the model's process had ended twice."""
    room = threading.Semaphore(0)

    def write(path, data, **more):
        if path.suffix == ".answer" and not room.acquire(blocking=False):
            tried.release()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_durably(path, data, **more)

    tried = threading.Semaphore(0)
    monkeypatch.setattr(kept_jobs, "write_durably", write)
    monkeypatch.setattr(kept_jobs, "_AGAIN_S", 0.01)
    with served(doubling()[0], jobs=tmp_path) as server:
        href = send(server).json()["href"]
        for _ in range(4):
            assert tried.acquire(timeout=60)
        room.release()
        answered = fetch(server, href)
        assert (answered.status_code, answered.content.endswith((2 * X).tobytes())) == (200, True)


def test_a_job_that_ends_in_a_bug_is_answered_and_the_next_one_runs(tmp_path, caplog):
    offer, opener = doubling()
    with served(offer, jobs=tmp_path) as server:
        opener.opened[0].errors.append(ZeroDivisionError("planted"))
        first, second = (fetch(server, send(server).json()["href"]) for _ in range(2))
    assert (first.status_code, second.status_code) == (500, 200)
    assert "log has it" in first.json()["error"]
    assert "planted" in caplog.text


def test_a_disk_that_fails_for_a_moment_ends_nothing(tmp_path, monkeypatch):
    failed, find = threading.Event(), kept_jobs._oldest

    def oldest(folder):
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EIO, "Input/output error")
        return find(folder)

    monkeypatch.setattr(kept_jobs, "_oldest", oldest)
    monkeypatch.setattr(kept_jobs, "_AGAIN_S", 0.01)
    with served(doubling()[0], jobs=tmp_path) as server:
        assert fetch(server, send(server).json()["href"]).status_code == 200
    assert failed.is_set()


def test_the_newest_version_answers_for_one_that_is_gone(tmp_path):
    with served(doubling()[0], jobs=tmp_path) as server:
        server.client.post("/v2/repository/models/double/unload")
        href = send(server).json()["href"]
    with served(doubling(version="2.0.0")[0], jobs=tmp_path) as server:
        answered = fetch(server, href)
        assert (answered.status_code, b'"model_version":"2.0.0"' in answered.content) == (200, True)


@pytest.mark.parametrize("name", ["nobody", "..%2f..%2fetc", "%00", "a" * 300])
def test_a_job_that_is_not_there_is_a_404(tmp_path, name):
    with served(doubling()[0], jobs=tmp_path) as server:
        assert server.client.get(f"/v2/models/double/versions/1.0.0/jobs/{name}").status_code == 404


def test_without_a_folder_everything_is_answered_at_once():
    with served(doubling()[0]) as server:
        assert send(server).status_code == 200
        assert server.client.get("/v2/models/double/versions/1.0.0/jobs/x").status_code == 404


def test_there_is_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_jobs, "MOST", 2)
    with served(doubling()[0], jobs=tmp_path) as server:
        for href in [send(server).json()["href"] for _ in range(2)]:
            assert fetch(server, href).status_code == 200  # an answer that is kept counts as well
        full = send(server)
        assert (full.status_code, full.headers["retry-after"]) == (429, "60")
