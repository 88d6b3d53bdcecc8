"""Measuring through a fleet: which figures are taken, and the error for each refusal."""

from __future__ import annotations

import http.server
import json
import stat
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from bundles import make_bundle

from edgekit.core.errors import (
    BackendError,
    ConfigError,
    EnrollError,
    LinkError,
    ProtocolError,
    ServerError,
    SignatureError,
    UsageError,
)
from edgekit.core.spec import Cost, Variant
from edgekit.model.bundle import open_bundle
from edgekit_optimize.run import fleet_measuring as remote
from edgekit_optimize.run.fleet_measuring import FleetApi, costs_of, measure_on, with_costs

A, B = "a" * 64, "b" * 64
DAY_MS = 86_400_000
PYTHON = sys.executable
SCRIPT = """#!{python} -S
import pathlib, sys
folder = pathlib.Path({folder!r})
(folder / "called").write_text(" ".join(sys.argv[1:]))
token = next(word[1:] for word in sys.argv if word.startswith("@"))
(folder / "token").write_text(pathlib.Path(token).read_text())
print({answer!r})
sys.exit({code})
"""


class Server(http.server.ThreadingHTTPServer):
    """Answers by a table of (method, path) to functions of (query, body), or to what they return."""

    daemon_threads = True

    def __init__(self):
        self.table, self.asked = {}, []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self):
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self):
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        key = self.command, parts.path.removeprefix("/api/v1/")
        self.server.asked.append((*key, body))
        found = self.server.table.get(key, (404, {"detail": "nothing here", "code": "link.server"}))
        found = found(parse_qs(parts.query), body) if callable(found) else found
        status, document = found if isinstance(found, tuple) else (200, found)
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815 - the base class's names


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "_POLL_S", (0.01, 0.05))
    made = Server()
    yield made
    made.stop()


# -- costs


def row(content=A, profile="rpi5", **more):
    about = {"backend_version": "2.1.0", "devices": 1, "threads": 4, "p50_ms": 5.0, "p99_ms": 7.0}
    about |= {"rss_mb": 40.0, "measured_unix_ms": 20_000 * DAY_MS, "board": ""}
    return {"content": content, "profile": profile, **about, **more}


def serve_costs(server, rows, page=2):
    def costs(query, _):
        wanted, start = query["content"], int(query.get("cursor", ["0"])[0])
        found = [one for one in rows if one["content"] in wanted]
        more = str(start + page) if start + page < len(found) else None
        return {"items": found[start : start + page], "next": more}

    server.table["GET", "costs"] = costs


def test_each_profile_gives_one_cost_and_all_pages_are_read(server):
    serve_costs(server, [row(profile="rpi5"), row(profile="rpi4", p50_ms=9.0), row(B, p50_ms=1.0)])
    found = costs_of(server.url, "t", [A, B, "c" * 64])
    assert [(cost.profile, cost.p50_ms) for cost in found[A]] == [("rpi4", 9.0), ("rpi5", 5.0)]
    assert found[B] == [Cost(profile="rpi5", p50_ms=1.0, p99_ms=7.0, rss_mb=40.0, measured="2024-10-04")]
    assert found["c" * 64] == []


@pytest.mark.parametrize(
    ("rows", "threads", "p50_ms"),
    [
        ([row(p50_ms=1.0, devices=9), row(p50_ms=2.0, backend_version="2.10.0")], None, 2.0),
        ([row(p50_ms=1.0, devices=2), row(p50_ms=2.0, board="another")], None, 1.0),
        ([row(p50_ms=1.0, threads=1), row(p50_ms=2.0, threads=4)], None, 2.0),
        ([row(p50_ms=1.0, threads=1), row(p50_ms=2.0, threads=4)], 1, 1.0),
        ([row(p50_ms=1.0), row(p50_ms=2.0, measured_unix_ms=20_001 * DAY_MS)], None, 2.0),
    ],
)
def test_the_newest_library_counts_then_the_most_devices(server, rows, threads, p50_ms):
    for given in (rows, rows[::-1]):
        serve_costs(server, given)
        assert [cost.p50_ms for cost in costs_of(server.url, "t", [A], threads=threads)[A]] == [p50_ms]


def test_hashes_are_asked_for_in_bounded_numbers(server):
    serve_costs(server, [])
    costs_of(server.url, "t", [f"{n:064x}" for n in range(250)] * 2)
    assert len(server.asked) == 3


def test_a_variants_own_costs_are_kept():
    own = Cost(profile="rpi5", p50_ms=1.0, p99_ms=1.0)
    others = [Cost(profile=name, p50_ms=2.0, p99_ms=2.0) for name in ("rpi4", "rpi5")]
    found = with_costs(Variant(id="v", backend="null", cost=(own,)), others)
    assert found.cost == (own, others[0])


# -- refusals


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((422, {"code": "usage", "detail": "no", "reasons": ["x"]}), UsageError),
        ((401, {"code": "link.server", "title": "A valid bearer token is needed"}), ServerError),
        ((500, b"<html>"), ServerError),
        ((502, [1]), ServerError),
        ((200, b"<html>"), ProtocolError),
    ],
)
def test_an_error_response_is_raised_as_the_error_that_it_names(server, answer, error):
    server.table["GET", "costs"] = answer
    with pytest.raises(error):
        costs_of(server.url, "t", [A])


def test_an_invalid_or_unreachable_address_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="not the address of a fleet"):
        FleetApi("fleet:8080", "t")
    with pytest.raises(ConfigError, match="cannot be read"):
        FleetApi("http://x", f"@{tmp_path / 'none'}")
    with pytest.raises(LinkError, match="127.0.0.1:1"):
        costs_of("http://127.0.0.1:1", "t", [A])
    (tmp_path / "token").write_text("secret\n")
    assert FleetApi("http://x", f"@{tmp_path / 'token'}").token == "secret"


# -- jobs


def serve_job(server, *states, device="approved", online=True):
    """A device, and a job that shows one state after the other."""
    base = {"id": "m-1", "device": "cam-1", "reason": "", "code": "", "result": None}
    waiting = [{**base, **state} for state in states]
    server.table["GET", "devices/cam-1"] = {"device": {"state": device, "online": online}}
    server.table["POST", "measurements"] = lambda _query, _body: (202, waiting[0])
    server.table["GET", "measurements/m-1"] = lambda _query, _body: (
        waiting.pop(0) if len(waiting) > 1 else waiting[0]
    )


DONE = {
    "state": "done",
    "result": {
        "type": "measurement", "mono_ns": 1, "unix_ms": 1, "origin": "job", "board": {"profile": "rpi5"},
        "variants": [{"id": "a", "content": A, "backend": "null", "accelerator": "cpu", "precision": "fp32"}],
    },
}  # fmt: skip


def ask(server, bundle, reports=None, *, keys=None, timeout_s=20.0, device="cam-1"):
    return measure_on(
        bundle, device, fleet=server.url, token="secret", keys=keys, threads=2, seconds=0.5,
        timeout_s=timeout_s, progress=(reports if reports is not None else []).append,
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def test_the_job_names_the_exact_bundle_and_each_state_is_reported_once(server, bundle):
    reports, running = [], {"state": "running"}
    hot = {"state": "postponed", "reason": "the board is at 90 C"}
    serve_job(server, {"state": "waiting"}, running, running, hot, DONE, online=False)
    rows, profile = ask(server, bundle, reports)
    assert ([row.id for row in rows], profile) == (["a"], "rpi5")
    body = next(body for method, _, body in server.asked if method == "POST")
    assert body == {
        "device": "cam-1", "model": "motion", "version": "1.0.0", "sha256": open_bundle(bundle).digest,
        "threads": 2, "seconds": 0.5, "expires_s": 20,
    }  # fmt: skip
    assert reports == [
        "cam-1 is offline; the job waits for it",
        "cam-1: waiting",
        "cam-1: running",
        "cam-1: postponed: the board is at 90 C",
    ]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ({"state": "failed", "code": "trust.signature", "reason": "not signed"}, SignatureError),
        ({"state": "failed", "code": "backend", "reason": "killed"}, BackendError),
        ({"state": "failed", "reason": "another measurement is under way"}, LinkError),
        ({"state": "expired", "reason": "the device did not take the job in time"}, LinkError),
        ({"state": "done", "result": {"type": "measurement"}}, ProtocolError),
    ],
)
def test_a_job_without_a_result_raises_the_error_that_ended_it(server, bundle, end, error):
    serve_job(server, {"state": "waiting"}, end)
    with pytest.raises(error, match=end.get("reason", "the result is invalid")):
        ask(server, bundle)


def test_a_job_that_never_ends_does_not_block_the_build(server, bundle, monkeypatch):
    monkeypatch.setattr(remote, "_LATE_S", 0.0)
    serve_job(server, {"state": "running"})
    with pytest.raises(LinkError, match=r"did not finish the measurement in time \(running\)"):
        ask(server, bundle, timeout_s=0.3)


def test_an_unknown_device_is_refused_before_anything_is_published(server, bundle, tmp_path):
    server.table["GET", "devices/cam-1"] = (
        404,
        {"code": "link.server", "title": "There is no device 'cam-1'"},
    )
    with pytest.raises(EnrollError, match="no device 'cam-1' is enrolled"):
        ask(server, bundle, keys=tmp_path)
    serve_job(server, DONE, device="revoked")
    with pytest.raises(EnrollError, match="revoked"):
        ask(server, bundle, keys=tmp_path)


# -- the publisher's program


@pytest.fixture
def program(tmp_path, monkeypatch):
    """An ``edgekit-fleet`` beside this Python: notes how it is called, and answers as the test says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python3"))
    monkeypatch.setenv("PATH", str(folder))

    def make(answer, code):
        file = folder / "edgekit-fleet"
        file.write_text(SCRIPT.format(python=PYTHON, folder=str(folder), answer=answer, code=code))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return folder

    return make


def test_the_publishers_program_signs_and_the_token_is_on_no_command_line(server, bundle, program):
    folder = program("{}", 0)
    serve_job(server, DONE)
    ask(server, bundle, keys=Path("/keys"))
    called = (folder / "called").read_text().split()
    assert called[:6] == ["publish", str(bundle), "--measure", "--keys", "/keys", "--json"]
    assert "secret" not in called
    assert (folder / "token").read_text() == "secret"


def test_the_programs_error_is_raised_as_the_same_error(server, bundle, program):
    error = {"code": "trust.signature", "message": "these keys are not", "reasons": [], "hint": ""}
    program(json.dumps({"error": error}), 6)
    serve_job(server, DONE)
    with pytest.raises(SignatureError, match="these keys are not"):
        ask(server, bundle, keys=Path("/keys"))
    program("Traceback", 1)
    with pytest.raises(LinkError, match="exit code 1"):
        ask(server, bundle, keys=Path("/keys"))
    assert not any(method == "POST" for method, *_ in server.asked)


def test_without_the_program_the_error_says_what_to_do(server, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    serve_job(server, DONE)
    with pytest.raises(ConfigError, match="edgekit-fleet, .* is not installed") as error:
        ask(server, bundle, keys=tmp_path)
    assert "pip install edgekit-fleet" in error.value.hint
