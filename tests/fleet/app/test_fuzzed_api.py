"""Whatever is sent to whichever route by whichever role: no 5xx, and nothing readable without its right."""

import httpx
import pytest
from fleet_kit import LocalFleet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.tokens import ROLES

OPEN = {
    ("get", "/api/v1/ca"),
    ("get", "/api/v1/health"),
    ("post", "/api/v1/enroll"),
    ("get", "/api/v1/registry/keys"),
    ("get", "/metrics"),  # on loopback only
}
ENDLESS = "/api/v1/stream"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with LocalFleet(tmp_path_factory.mktemp("fuzzed")) as running:
        running.fleet.services.devices.enroll("x", unix_ms(), None)
        yield running


def token_of(fleet, role):
    return fleet.fleet.services.tokens.create(role, unix_ms())


def operations(fleet):
    for path, methods in fleet.get("openapi.json")["paths"].items():
        for method in methods:
            yield method, path


def test_without_a_token_nothing_is_readable_but_what_devices_need_before_they_have_one(fleet):
    seen = set(operations(fleet))
    assert seen >= OPEN
    with httpx.Client(base_url=fleet.ready["url"]) as client:
        for method, path in seen:
            answer = client.request(method, path.replace("{", "").replace("}", ""))
            is_open = (method, path) in OPEN or path.startswith("/tuf/")
            assert is_open or answer.status_code == 401, (method, path, answer.text)
    for page in ("/", "/devices", "/devices/x", "/rollouts", "/rollouts/new", "/bundles", "/audit", "/live"):
        answer = httpx.get(fleet.ready["url"] + page)
        assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login"), page


@pytest.mark.parametrize("examples", [2, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("role", ["", *ROLES])
def test_no_request_of_any_role_is_a_server_error(fleet, request, role, examples):
    headers = {"Authorization": f"Bearer {token_of(fleet, role)}"} if role else {}
    requests = pytest.importorskip("requests", reason="packaging/venv.sh installs schemathesis")
    schemathesis = pytest.importorskip("schemathesis", reason="packaging/venv.sh installs it")
    schema = schemathesis.openapi.from_url(f"{fleet.ready['url']}/api/v1/openapi.json")
    session = requests.Session()
    request.addfinalizer(session.close)
    tried = 0

    for result in schema.exclude(path=ENDLESS).get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(case):
            case.call_and_validate(
                headers=headers, checks=[schemathesis.checks.not_a_server_error], session=session
            )

        send()
        tried += 1
    assert tried > 35


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(body=st.binary(max_size=300), role=st.sampled_from(ROLES), number=st.integers(0, 1000))
def test_bytes_that_are_no_json_are_refused(fleet, body, role, number):
    found = [(method, path) for method, path in operations(fleet) if method in {"post", "put", "delete"}]
    method, path = found[number % len(found)]
    answer = httpx.request(
        method,
        fleet.ready["url"] + path.replace("{", "").replace("}", ""),
        content=body,
        headers={"Authorization": f"Bearer {token_of(fleet, role)}", "Content-Type": "application/json"},
    )
    assert answer.status_code < 500, (method, path, answer.text)
