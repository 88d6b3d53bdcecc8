"""A pipeline on a folder may die on any line: each picture is in each file once, at a server once or more."""

import http.server
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

KIT = Path(__file__).parents[1] / "kit"
PICTURES = 5
ONCE = {f"{n}.png": 1 for n in range(PICTURES)}
SEED = 16
KILLED = {"signal": signal.SIGKILL}


class Runs:
    """Runs the pipeline again and again, each time in a process of its own."""

    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(KIT), *sys.path])}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, KIT / "folder_killed.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, folder, kill_at=0, url=""):
        self._process.stdin.write(json.dumps([str(folder), kill_at, url]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0


@pytest.fixture(scope="module")
def runs():
    runs = Runs()
    yield runs
    runs.close()


def filled(folder):
    """Make a folder of pictures of three greys."""
    (folder / "in").mkdir(parents=True)
    for n in range(PICTURES):
        (folder / f"in/{n}.png").write_bytes(
            cv2.imencode(".png", np.full((8, 8, 3), n % 3 * 100, np.uint8))[1].tobytes()
        )
    return folder


def files_in(folder, name):
    lines = [
        line
        for path in (f"{name}.1", name)
        if (folder / path).exists()
        for line in (folder / path).read_text().splitlines()
    ]
    return Counter(json.loads(line)["file"] for line in lines)


def rows_in(folder):
    db = sqlite3.connect(folder / "seen.sqlite")
    try:
        (frames,) = db.execute("SELECT count(*) FROM frames").fetchone()
        events = Counter(json.loads(row[0])["file"] for row in db.execute("SELECT document FROM events"))
    finally:
        db.close()
    return frames, events


def each_once(folder):
    """Check that each picture is in each file once."""
    assert files_in(folder, "results.jsonl") == ONCE
    assert files_in(folder, "events.jsonl") == ONCE
    assert rows_in(folder) == (PICTURES, ONCE)


def killed_on(runs, tmp_path, lines, again=()):
    killed = 0
    for kill_at in lines:
        folder = filled(tmp_path / str(kill_at))
        killed += runs.run(folder, kill_at) == KILLED
        for second in again:
            runs.run(folder, second)
        assert "lines" in runs.run(folder)
        each_once(folder)
    assert killed > 0.8 * len(lines)  # how often it waits for something varies


def lines_of(runs, tmp_path):
    folder = filled(tmp_path / "whole")
    lines = runs.run(folder)["lines"]
    each_once(folder)
    return lines


def test_killed_on_a_line_each_picture_is_in_each_file_once(runs, tmp_path):
    lines = lines_of(runs, tmp_path)
    killed_on(runs, tmp_path, range(lines // 80, lines - lines // 10, lines // 40))


def test_killed_again_while_it_takes_a_picture_again_each_is_in_each_file_once(runs, tmp_path):
    middle = lines_of(runs, tmp_path) // 2
    killed_on(runs, tmp_path, range(middle, middle + 5), again=(300, 350, 400, 450, 500))


@pytest.mark.slow
def test_killed_on_any_line_each_picture_is_in_each_file_once(runs, tmp_path):
    lines = lines_of(runs, tmp_path)
    killed_on(runs, tmp_path, range(1, lines - lines // 10))


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append(document["id"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.got = []
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def posted(runs, tmp_path, server, kills):
    chance = random.Random(SEED)
    for n in range(kills):
        server.got.clear()
        folder = filled(tmp_path / str(n))
        runs.run(folder, chance.randrange(200, 2600), server.url)
        assert "lines" in runs.run(folder, 0, server.url)
        each_once(folder)
        events = json.loads(f"[{','.join((folder / 'events.jsonl').read_text().splitlines())}]")
        assert {event["key"] for event in events} == set(server.got)
        yield len(server.got) - PICTURES


def test_a_server_gets_each_event_at_least_once_and_knows_it_again(runs, tmp_path, server):
    assert all(0 <= more <= PICTURES for more in posted(runs, tmp_path, server, 8))


@pytest.mark.slow
def test_over_two_hundred_kills_a_server_gets_each_event_and_knows_it_again(runs, tmp_path, server):
    assert all(0 <= more <= PICTURES for more in posted(runs, tmp_path, server, 200))
