"""The REST API: roles, problems, pages, live changes."""

import json
import threading

import httpx
import pytest
from fleet_kit import Connection, Identity, RunningFleet, alert, wait_until

from edgekit.core import wire
from edgekit.core.errors import EnrollError
from edgekit.core.sketch import Histogram
from edgekit_fleet.app import access, devices, enrolment, identities, moving, watching
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.tokens import ROLES

# which roles include a role
HOLDERS = {
    "viewer": set(ROLES),
    "operator": {"operator", "admin"},
    "publisher": {"publisher", "admin"},
    "admin": {"admin"},
}

# method, path below /api/v1, body, least role
ROUTES = [
    ("GET", "devices", None, "viewer"),
    ("GET", "devices/nobody", None, "viewer"),
    ("GET", "devices/nobody/desired", None, "viewer"),
    ("GET", "devices/nobody/series", None, "viewer"),
    ("GET", "devices/nobody/events", None, "viewer"),
    ("GET", "devices/nobody/commands", None, "viewer"),
    ("GET", "events", None, "viewer"),
    ("GET", "metrics", None, "viewer"),
    ("GET", "refused", None, "operator"),
    ("POST", "devices/nobody/commands", {"kind": "report"}, "operator"),
    ("POST", "devices/nobody/revoke", None, "admin"),
    ("POST", "devices/nobody/restore", None, "admin"),
    ("DELETE", "devices/nobody", None, "admin"),
    ("GET", "strangers", None, "viewer"),
    ("GET", "crl", None, "viewer"),
    ("GET", "move", None, "viewer"),
    ("POST", "move", {"url": "http://x", "broker_url": "mqtts://x"}, "admin"),
    ("POST", "strangers/nobody/adopt", None, "admin"),
    ("GET", "tokens", None, "admin"),
    ("POST", "tokens", {"role": "viewer"}, "admin"),
    ("DELETE", "tokens/nothing", None, "admin"),
    ("GET", "claims", None, "admin"),
    ("POST", "claims", {}, "admin"),
]


def is_problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    return body


@pytest.fixture(scope="module")
def tokens(fleet):
    return {role: fleet.post("tokens", role=role, label=f"for {role}")["token"] for role in ROLES}


@pytest.mark.parametrize(("method", "path", "body", "least"), ROUTES, ids=lambda one: str(one)[:30])
def test_each_route_asks_for_its_role(fleet, tokens, method, path, body, least):
    def ask(token):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, f"{fleet.ready['url']}/api/v1/{path}", json=body, headers=headers)

    is_problem(ask(None), 401)
    for role in ROLES:
        if role not in HOLDERS[least]:
            assert least in is_problem(ask(tokens[role]), 403)["title"]
        else:
            assert ask(tokens[role]).status_code in (200, 201, 404)


def test_a_wrong_token_is_refused(fleet):
    headers = {"Authorization": "Bearer ekt.no.token"}
    is_problem(httpx.get(f"{fleet.ready['url']}/api/v1/devices", headers=headers), 401)


def test_every_route_is_checked_for_its_role():
    """A new route must be added to the table above, or to those that are open or told elsewhere."""
    modules = (enrolment, devices, identities, moving, access, watching)
    found = {
        (method, route.path) for one in modules for route in one.router.routes for method in route.methods
    }
    tested = {
        (method, f"/{path}".replace("nobody", "{device}").replace("nothing", "{number}"))
        for method, path, _, _ in ROUTES
    }
    assert tested <= found
    assert found - tested == {("GET", "/health"), ("GET", "/ca"), ("POST", "/enroll"), ("GET", "/stream")}


def test_what_does_not_exist_or_is_not_valid_is_a_problem(fleet):
    is_problem(fleet.client.get("/api/v1/nowhere"), 404)
    is_problem(fleet.client.get("/api/v1/devices/nobody"), 404)
    is_problem(fleet.client.delete("/api/v1/health"), 405)
    found = is_problem(fleet.client.get("/api/v1/devices", params={"limit": 0}), 422)
    assert found["errors"][0]["where"] == "query.limit"
    found = is_problem(fleet.client.post("/api/v1/tokens", json={"role": "king"}), 422)
    assert found["code"] == "usage"
    is_problem(fleet.client.post("/api/v1/tokens", content=b"{nonsense"), 422)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "link.protocol"),
        (b"\xff\x00", 422, "link.protocol"),
        (b'{"token": 5, "csr": ""}', 422, "link.protocol"),
        (b"x" * 70_000, 413, "link.server"),
        (json.dumps({"token": "ek1.no.claim", "csr": Identity().csr()}).encode(), 403, "link.enroll"),
        (json.dumps({"token": "ek1.no.claim", "csr": "nonsense"}).encode(), 403, "link.enroll"),
    ],
)
def test_an_enrolment_that_is_refused_is_a_problem(fleet, body, status, code):
    assert is_problem(httpx.post(f"{fleet.ready['url']}/api/v1/enroll", content=body), status)["code"] == code


def test_a_fleet_without_a_publisher_enrols_nobody_and_leaves_the_token_unused(services):
    """The device could never trust an update; it would have stayed on the list as a dead name."""
    claim = services.tokens.create_claim(unix_ms(), unix_ms() + 1000_000)
    with pytest.raises(EnrollError, match="no publisher"):
        enrolment._enroll(services, wire.EnrollRequest(claim, Identity().csr(), "early"))
    assert not services.devices.exists("early")
    assert services.tokens.claims()[0].uses == 0


def test_enrolment_gives_all_that_a_device_needs_and_the_same_again(fleet):
    claim, identity = fleet.claim(), Identity()
    body = wire.encode(wire.EnrollRequest(claim, identity.csr(), "needs"))
    answers = [fleet.client.post("/api/v1/enroll", content=body).content for _ in range(2)]
    assert answers[0] == answers[1]
    given = wire.decode(answers[0], wire.EnrollResponse)
    assert given.device == "needs"
    assert given.broker_url == fleet.ready["broker_url"]
    assert given.metadata_url.startswith(fleet.ready["url"])
    assert given.ca == fleet.client.get("/api/v1/ca").text


def test_devices_come_in_pages(fleet):
    claim = fleet.claim(uses=5)
    for number in range(5):
        fleet.enroll(f"page-{number}", claim)
    first = fleet.get("devices", search="page-", limit=3)
    second = fleet.get("devices", search="page-", limit=3, after=first["next"])
    assert [one["id"] for one in [*first["items"], *second["items"]]] == [
        f"page-{number}" for number in range(5)
    ]
    assert second["next"] is None


def report(number):
    histogram = Histogram()
    for value in (1.0, 2.0, 3.0 + number):
        histogram.add(value)
    return wire.MetricReport(
        mono_ns=0,
        unix_ms=0,
        pipeline="door",
        model="m",
        version="1.0.0",
        variant="v",
        period_s=10.0,
        frames=300,
        infer_ms=histogram.to_wire(),
        latency_ms=histogram.to_wire(),
        sensors={"temperature_c": 50.0 + number},
    )


def test_a_devices_page_shows_what_it_said(fleet):
    with Connection(fleet.enroll("shown")) as device:
        device.publish("state", wire.Birth(online=True, boot="b", conn=1, profile="rpi5"))
        device.publish("reported", wire.Reported("b", 1, 0, models={"m": wire.ModelState(active="1.0.0")}))
        items = [report(0), report(1), alert(3)]
        device.publish("m", wire.Batch(boot="b", seq0=1, items=items, sent_mono_ns=1))
        # births, reported states and messages come by consumers of their own, in no order
        wait_until(lambda: fleet.get("devices/shown")["reported"])
        wait_until(lambda: fleet.get("devices/shown/events")["items"])
        found = fleet.get("devices/shown")
        assert found["device"]["online"]
        assert found["device"]["models"] == {"m": "1.0.0"}
        assert found["birth"]["profile"] == "rpi5"
        assert found["reported"]["models"]["m"]["active"] == "1.0.0"
        assert found["pipelines"] == ["door"]
        (point,) = fleet.get("devices/shown/series", step_s=3600)["points"]
        assert point["fps"] == pytest.approx(30.0)
        assert 1 <= point["infer_p50_ms"] <= point["infer_p95_ms"] <= point["infer_p99_ms"] <= 4
        assert point["sensors"] == {"temperature_c": 51.0}
        assert fleet.get("devices/shown/events", kind="update")["items"] == []


def test_a_command_is_sent_again_until_it_is_answered(fleet):
    identity = fleet.enroll("commanded")
    wanted = {"pipeline": "door", "to": "night", "reason": "fair"}
    row = fleet.post("devices/commanded/commands", kind="switch", args=wanted)
    assert fleet.get("devices/commanded/commands")[0]["state"] == "waiting"
    with Connection(identity) as device:
        device.subscribe(wire.down("commanded", "#"))
        device.publish("state", wire.Birth(online=True, boot="b", conn=1))
        heard = wait_until(lambda: device.answers("cmd"))
        command = wire.decode(heard[0], wire.Command)
        assert (command.kind, command.args) == ("switch", wanted)
        answer = wire.CommandAnswer(mono_ns=0, unix_ms=0, id=row["id"], ok=True, message="switched")
        device.publish("ev", wire.Batch(boot="b", seq0=1, items=[answer]))
        done = wait_until(
            lambda: next((r for r in fleet.get("devices/commanded/commands") if r["state"] == "done"), None)
        )
        assert done["message"] == "switched"


def test_changes_are_told_as_they_come(fleet):
    identity = fleet.enroll("live")
    seen, ready = [], threading.Event()

    def follow():
        with fleet.client.stream("GET", "/api/v1/stream") as stream:
            for line in stream.iter_lines():
                ready.set()
                seen.append(line)
                if len([each for each in seen if '"device":"live"' in each]) == 2:
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    assert ready.wait(90)
    with Connection(identity) as device:
        device.publish("state", wire.Birth(online=True, boot="b", conn=1))
        device.publish("ev", wire.Batch(boot="b", seq0=1, items=[alert(1)]))
        follower.join(90)
    assert not follower.is_alive()
    assert 'data: {"device":"live","online":true}' in seen


def test_an_open_stream_does_not_hold_a_stop_up(tmp_path):
    with RunningFleet(tmp_path) as fleet, fleet.client.stream("GET", "/api/v1/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        fleet.process.terminate()
        assert list(lines) is not None
        assert fleet.process.wait(90) == 0


def test_malformed_messages_are_counted_and_shown(fleet):
    with Connection(fleet.enroll("mumbler")) as device:
        device.publish("ev", b"\xc1 not a batch")
        found = wait_until(lambda: [one for one in fleet.get("refused") if one["device"] == "mumbler"])
    assert found[0]["bytes"] == 13
    assert fleet.get("metrics")["ingest"]["refused"] >= 1


def test_prometheus_metrics_are_well_formed(fleet):
    answer = httpx.get(f"{fleet.ready['url']}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    assert samples["edgekit_fleet_broker_up"] == 1
    assert samples['edgekit_fleet_devices{state="total"}'] >= 0


def test_a_fleet_with_tls_is_trusted_by_the_pin_in_its_claims(tmp_path):
    import hashlib
    import ssl

    with RunningFleet(tmp_path, "--tls", "on") as fleet:
        assert fleet.ready["url"].startswith("https://")
        pin = fleet.claim().split(".")[3]
        pem = httpx.get(f"{fleet.ready['url']}/api/v1/ca", verify=False).text
        assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() == pin
        assert fleet.enroll("trusting").device == "trusting"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{fleet.ready['url']}/api/v1/ca")
