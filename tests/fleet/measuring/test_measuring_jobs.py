"""Measurement jobs over HTTP: each ends in one clear state, whatever the device does."""

import contextlib
import json
from types import SimpleNamespace

import pytest
from registry_parts import files_of, serving, write_folder

from edgekit.core import wire
from edgekit.core.errors import ServerError
from edgekit_fleet.broker.commanding import Commanding
from edgekit_fleet.ingest.ports import Hooks
from edgekit_fleet.measuring.jobs import GRACE_MS, Jobs, Request, state_of
from edgekit_fleet.measuring.service import MeasuringService
from edgekit_fleet.registry import publisher
from edgekit_fleet.registry.bundle import read_bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.remote import FleetClient
from edgekit_fleet.registry.service import RegistryService
from edgekit_fleet.store.arrivals import Arrived
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.measuring_jobs import KEPT_PER_DEVICE
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.store.tokens import Tokens
from edgekit_fleet.web.bus import Bus


class Sent:
    """A downlink that keeps what was sent."""

    def __init__(self):
        self.sent = []

    def publish(self, device, leaf, body, *, retain=False):
        assert not retain
        self.sent.append((device, leaf, body))


@pytest.fixture
def site(tmp_path):
    with contextlib.closing(Database(tmp_path / "fleet.sqlite")) as database:
        hooks, bus, downlink = Hooks(), Bus(), Sent()
        devices, messages, tokens = Devices(database), Messages(database), Tokens(database)
        commanding = Commanding(database, downlink, bus, unix_ms)
        registry = RegistryService(tmp_path, database, bus)
        repository = registry.repository
        measuring = MeasuringService(
            database, devices, repository, commanding=commanding, bus=bus, hooks=hooks
        )
        keyring = Keyring.make(tmp_path / "keys", repository.online_keys(), unix_ms())
        bundle = read_bundle(write_folder(tmp_path / "bundle", files_of()))
        done = publisher.publish(bundle, keyring, repository, unix_ms(), only_measured=True)
        for name in ("cam-1", "cam-2", "gone"):
            devices.enroll(name, unix_ms(), None)
        devices.revoke("gone")
        roles = ("viewer", "operator", "publisher")
        with serving(tokens, *registry.routers, *measuring.routers) as url:
            yield SimpleNamespace(
                database=database,
                messages=messages,
                repository=repository,
                jobs=measuring.jobs,
                downlink=downlink,
                sha256=done.sha256,
                seq=0,
                clients={role: FleetClient(url, tokens.create(role, unix_ms())) for role in roles},
            )
        measuring.stop()
        registry.stop()


def create(site, device="cam-1", role="operator", **more):
    body = {"device": device, "model": "motion", "version": "1.0.0", **more}
    return site.clients[role].json("POST", "/api/v1/measurements", body)


def show(site, job):
    return site.clients["viewer"].json("GET", f"/api/v1/measurements/{job['id']}")


def device_says(site, record, device="cam-1"):
    """What a device's outbox brings, up to the job's table."""
    site.seq += 1
    found = site.messages.commit([Arrived(device, "b1", site.seq, 1, [(site.seq, record)], [], unix_ms())])
    assert found[0].records
    site.jobs.take_records(unix_ms())


def answer(site, *, ok=True, message=""):
    command = json.loads(site.downlink.sent[-1][2])
    return wire.CommandAnswer(mono_ns=1, unix_ms=1, id=command["id"], ok=ok, message=message)


def said(job, state="done", **more):
    about = {"mono_ns": 1, "unix_ms": 1, "origin": "job", "job": job["id"], "model": "motion"}
    board = wire.Board(profile="rpi5") if state == "done" else None
    return wire.MeasurementRecord(**about, state=state, board=board, threads=1, **more)


def test_a_job_is_commanded_taken_postponed_and_done(site):
    job = create(site, threads=2, seconds=0.5)
    assert (job["state"], job["online"], job["sha256"]) == ("waiting", False, site.sha256)
    device, leaf, body = site.downlink.sent[-1]
    command = wire.decode(body, wire.Command)
    assert (device, leaf, command.kind) == ("cam-1", "cmd", "measure")
    assert command.args == {
        "job": job["id"], "model": "motion", "version": "1.0.0", "sha256": site.sha256, "threads": 2,
        "target": f"measure/motion/{site.sha256}/bundle.json", "seconds": 0.5,
        "bytes": command.args["bytes"], "expires_unix_ms": job["expires_unix_ms"],
    }  # fmt: skip
    device_says(site, answer(site))
    assert show(site, job)["state"] == "running"
    device_says(site, said(job, "postponed", reason="an update is under way"))
    assert [show(site, job)[key] for key in ("state", "reason")] == ["postponed", "an update is under way"]
    device_says(site, said(job))
    found = show(site, job)
    assert (found["state"], found["result"]["board"]["profile"]) == ("done", "rpi5")
    device_says(site, said(job, "failed", reason="told twice"))
    assert show(site, job)["state"] == "done"
    assert create(site)["id"] != job["id"]


def test_a_device_may_refuse_or_fail(site):
    job = create(site)
    device_says(site, answer(site, ok=False, message="another measurement is under way"))
    found = show(site, job)
    assert (found["state"], found["reason"]) == ("failed", "another measurement is under way")
    job = create(site)
    device_says(site, said(job, "failed", code="trust.signature", reason="not signed"))
    found = show(site, job)
    assert (found["state"], found["code"], found["reason"]) == ("failed", "trust.signature", "not signed")


def test_no_device_speaks_for_another(site):
    job = create(site)
    device_says(site, answer(site, ok=False), device="cam-2")
    device_says(site, said(job), device="cam-2")
    assert show(site, job)["state"] == "waiting"


@pytest.mark.parametrize(
    ("state", "after_ms", "wanted"),
    [
        ("waiting", 0, "waiting"),
        ("waiting", 1, "expired"),
        ("running", GRACE_MS, "running"),
        ("running", GRACE_MS + 1, "expired"),
        ("postponed", GRACE_MS + 1, "expired"),
        ("done", 1 << 40, "done"),
        ("failed", 1 << 40, "failed"),
    ],
)
def test_time_ends_what_a_device_does_not(state, after_ms, wanted):
    found, reason = state_of(state, "too hot", 1000, 1000 + after_ms)
    assert found == wanted
    assert (state == "postponed" and "too hot" in reason) or state != "postponed"


def test_a_result_that_comes_late_still_counts(site):
    target = site.repository.measured_bundle("motion", "1.0.0").target
    job = site.jobs.create(Request("cam-1", target, 1, 1.0), 1000, 2000)
    assert site.jobs.get(job.id, unix_ms()).state == "expired"
    device_says(site, said({"id": job.id}))
    assert site.jobs.get(job.id, unix_ms()).state == "done"


def test_the_same_job_again_is_the_one_there_is_and_another_waits_its_turn(site):
    job = create(site, seconds=1.0)
    assert create(site, seconds=1.0)["id"] == job["id"]
    with pytest.raises(ServerError, match=f"has another job, {job['id']}"):
        create(site, seconds=2.0)
    assert create(site, device="cam-2")["id"] != job["id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"device": "nobody"}, "no device 'nobody'"),
        ({"device": "gone"}, "is revoked"),
        ({"version": "9.9.9"}, "is not published"),
        ({"sha256": "0" * 64}, "is not published"),
        ({"sha256": "x"}, "sha256"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"threads": -1}, "threads"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_job(site, body, status):
    with pytest.raises(Exception, match=status):
        create(site, **body)
    assert site.clients["viewer"].json("GET", "/api/v1/measurements")["items"] == []
    assert site.downlink.sent == []


def test_roles_are_kept(site):
    with pytest.raises(ServerError, match="needs the role 'operator'"):
        create(site, role="viewer")
    job = create(site, role="publisher")
    assert show(site, job)["id"] == job["id"]
    with pytest.raises(ServerError, match="no measurement"):
        site.clients["viewer"].json("GET", "/api/v1/measurements/m-none")
    for path in ("measurements", "costs"):
        nobody = FleetClient(site.clients["viewer"].url, "")
        with pytest.raises(ServerError, match="bearer token"):
            nobody.json("GET", f"/api/v1/{path}")


def test_jobs_and_costs_come_in_pages(site):
    jobs = [create(site, device=device) for device in ("cam-1", "cam-2")]
    page = site.clients["viewer"].json("GET", "/api/v1/measurements", params={"limit": "1"})
    assert [one["id"] for one in page["items"]] == [jobs[1]["id"]]
    more = {"limit": "1", "cursor": page["next"]}
    page = site.clients["viewer"].json("GET", "/api/v1/measurements", params=more)
    assert ([one["id"] for one in page["items"]], page["next"]) == ([jobs[0]["id"]], None)
    variants = tuple(
        wire.MeasuredVariant(
            id=f"v{n}", content=f"{n:064x}", backend="null", accelerator="cpu", precision="fp32",
            p50_ms=1.0, p95_ms=1.0, p99_ms=1.0,
        )
        for n in range(3)
    )  # fmt: skip
    device_says(site, said(jobs[0], variants=variants))
    found, cursor = [], None
    while cursor != "":
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = site.clients["viewer"].json("GET", "/api/v1/costs", params=query)
        found += [one["names"][0]["variant"] for one in page["items"]]
        cursor = page["next"] or ""
    assert found == ["v2", "v1", "v0"]


def test_records_are_taken_once_also_by_a_fleet_that_starts_anew(site):
    job = create(site)
    device_says(site, said(job))
    again = Jobs(site.database)
    assert again.take_records(unix_ms()) == []
    assert not again.is_behind


def test_a_record_with_numbers_that_are_none_is_passed_over(site):
    job = create(site)
    device_says(site, said(job, sensors={"temperature_c": float("nan")}))
    device_says(site, answer(site))
    assert show(site, job)["state"] == "running"


def test_a_devices_oldest_jobs_are_forgotten(site):
    target = site.repository.measured_bundle("motion", "1.0.0").target
    for n in range(KEPT_PER_DEVICE + 3):
        site.jobs.create(Request("cam-1", target, 1, 1.0), n, n)
    assert len(site.jobs.page(unix_ms(), limit=500)) == KEPT_PER_DEVICE
