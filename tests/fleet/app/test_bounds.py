"""Every body and every query is bounded before anything reads it: 413 and 422, never 500."""

import resource
from pathlib import Path

import httpx
import pytest

from edgekit_fleet.web.bodies import MAX_BODY_BYTES

HUGE = 10**29


def resident_mb(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def megabytes(count):
    for _ in range(count):
        yield b" " * 1_000_000


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in chunks"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/claims", 413),
        ("/api/v1/enroll", 413),
        ("/login", 413),
        ("/api/v1/bundles", 401),
        ("/api/v1/rollouts", 401),
        ("/api/v1/registry/missing", 401),
    ],
)
def test_a_body_of_300_megabytes_without_a_token_costs_no_memory(fleet, path, status, declared):
    before_mb = resident_mb(fleet.process.pid)
    headers = {"Origin": fleet.ready["url"], **({"Content-Length": "300000000"} if declared else {})}
    try:
        answer = httpx.post(f"{fleet.ready['url']}{path}", content=megabytes(300), headers=headers)
    except httpx.TransportError:
        pass  # it closed the connection in the middle of the body
    else:
        assert answer.status_code == status
    assert resident_mb(fleet.process.pid) - before_mb < 50


def test_a_long_body_of_a_publisher_is_bounded_too(fleet):
    answer = fleet.client.post("/api/v1/registry/missing", content=b" " * (3 << 20))
    assert answer.status_code == 413
    answer = fleet.client.post("/api/v1/claims", content=b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        f"events?before={HUGE}",
        "events?before=-1",
        f"devices/d/events?before={HUGE}",
        f"devices/d/series?since_ms={HUGE}",
        f"devices/d/series?until_ms={HUGE}",
        f"devices?search={'x' * 300}",
        f"rollouts?cursor={HUGE}",
        f"bundles?cursor={HUGE}",
        f"measurements?cursor={HUGE}",
        f"costs?cursor={HUGE}",
        f"registry/metadata/root?version={HUGE}",
    ],
)
def test_a_query_beyond_its_bound_is_refused(fleet, path):
    answer = fleet.client.get(f"/api/v1/{path}")
    assert (answer.status_code, answer.json()["code"]) == (422, "usage")


def test_a_name_that_is_not_unicode_is_refused(fleet):
    body = b'{"kind": "retry", "args": {"model": "\\ud800"}}'
    answer = fleet.client.post("/api/v1/devices/nobody/commands", content=body)
    assert answer.status_code == 422, answer.text
