"""Every change leaves an entry in the audit log, and every wrong secret is counted and slowed down."""

import contextlib
import json

import httpx
import pytest
from fastapi.routing import APIRoute
from fleet_kit import LocalFleet, composed

from edgekit.core.errors import ConfigError
from edgekit_fleet.app.application import create_app
from edgekit_fleet.cli.main import main
from edgekit_fleet.store.audit import LOCAL
from edgekit_fleet.web.throttle import FREE_REFUSALS

# No change of the fleet, or (enrolment, sign-in) recorded with another actor than a token.
NO_TOKEN = {"/enroll", "/login", "/logout", "/login-links"}
NO_CHANGE = {"/cameras/fetch", "/registry/missing", "/registry/blobs/{sha256}"}


@pytest.fixture
def fleet(tmp_path):
    with LocalFleet(tmp_path) as running:
        yield running


def calls_of(dependant):
    yield dependant.call
    for below in dependant.dependencies:
        yield from calls_of(below)


def all_routes(app):
    def below(routes):
        for route in routes:
            if isinstance(route, APIRoute):
                yield route
            elif hasattr(route, "original_router"):  # an included router, in newer versions of FastAPI
                yield from below(route.original_router.routes)

    return list(below(app.routes))


def test_every_route_that_changes_something_knows_who_asks(tmp_path):
    with composed(tmp_path) as fleet:
        found = all_routes(create_app(fleet.services))
    assert len(found) > 40
    unrecorded = {
        route.path.removeprefix("/api/v1")
        for route in found
        if route.methods - {"GET", "HEAD"}
        and not any("acting." in getattr(call, "__qualname__", "") for call in calls_of(route.dependant))
    }
    assert unrecorded == NO_TOKEN | NO_CHANGE


def test_the_log_says_who_did_what_from_where(fleet):
    made = fleet.post("tokens", role="viewer", label="for Bob")
    fleet.post("claims", uses=3)
    number = made["token"].split(".")[1]
    assert fleet.client.delete(f"/api/v1/tokens/{number}").status_code == 204
    fleet.fleet.services.devices.enroll("cam-1", 0, None)
    fleet.post("devices/cam-1/commands", kind="restart", args={"pipeline": "gate"})
    fleet.post("devices/cam-1/revoke")
    entries = fleet.get("audit")["items"]
    assert [entry["action"] for entry in reversed(entries)] == [
        "token.create",
        "registry.publish",
        "token.create",
        "claim.create",
        "token.revoke",
        "device.restart",
        "device.revoke",
    ]
    assert (entries[0]["after"], entries[0]["origin"]) == ("revoked", "127.0.0.1")
    assert entries[0]["who"].startswith("admin ")
    assert fleet.get("audit", subject=number)["items"][-1]["after"]["label"] == "for Bob"
    assert made["token"].split(".")[2] not in json.dumps(entries)


def test_an_exported_log_is_checked_without_the_fleet(fleet, tmp_path, capsys):
    for _ in range(3):
        fleet.post("claims")
    file = tmp_path / "audit.jsonl"
    token = (tmp_path / "admin.token").read_text().strip()
    where = ("--fleet", fleet.ready["url"], "--token", token)
    assert main(["audit", "export", "-o", str(file), *where, "--json"]) == 0
    last = json.loads(capsys.readouterr().out)["last"]
    assert main(["audit", "check", str(file), "--last", last, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 5
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert main(["audit", "check", str(file)]) == 6
    file.write_bytes(b"".join(lines[:3]))
    assert main(["audit", "check", str(file)]) == 0
    assert main(["audit", "check", str(file), "--last", last]) == 6
    file.write_bytes(b"nonsense")
    assert main(["audit", "check", str(file)]) == 3


@pytest.mark.parametrize("kind", ["token", "login", "enrolment"])
def test_wrong_secrets_are_counted_and_their_address_has_to_wait(fleet, kind):
    url = fleet.ready["url"]

    def guess():
        if kind == "token":
            return httpx.get(f"{url}/api/v1/devices", headers={"Authorization": "Bearer ekt.no.token"})
        if kind == "login":
            return httpx.post(f"{url}/login", data={"token": "ekt.no.token"}, headers={"Origin": url})
        return httpx.post(f"{url}/api/v1/enroll", json={"token": "ek1.no.claim", "csr": "nonsense"})

    assert fleet.get("devices")["items"] == []
    answers = [guess() for _ in range(FREE_REFUSALS + 2)]
    assert answers[FREE_REFUSALS].status_code in (401, 403)
    assert answers[-1].status_code == 429
    assert fleet.get("devices")["items"] == [], "a token that was good before goes on"
    assert int(httpx.get(f"{url}/health-not-there").status_code) == 404
    metrics = fleet.client.get("/metrics").text
    assert f'edgekit_fleet_refused_secrets_total{{kind="{kind}"}} {FREE_REFUSALS + 1}' in metrics
    assert "edgekit_fleet_delayed_attempts_total 1" in metrics


def test_what_a_command_changes_on_the_folder_is_recorded_too(tmp_path):
    with contextlib.suppress(ConfigError), composed(tmp_path) as fleet:
        fleet.services.audit.record(LOCAL, "registry.publish", "targets", after={"targets_version": 2})
        (entry, _) = fleet.services.audit.page()
        assert (entry.who, entry.origin) == ("a command on the fleet's data folder", "this machine")
