"""Rollouts over real HTTP and by the command line."""

import contextlib
import json
import threading

import pytest
from registry_parts import serving
from rollout_parts import KEY, MODEL, Bundles, Retained, Site

from edgekit.core import wire
from edgekit.core.errors import ServerError, UsageError
from edgekit.core.spec import BackendFact, Facts, Variant
from edgekit_fleet.cli.main import main
from edgekit_fleet.ingest.ports import Hooks
from edgekit_fleet.registry.remote import FleetClient
from edgekit_fleet.rollout import api
from edgekit_fleet.rollout.machine import State
from edgekit_fleet.rollout.service import RolloutService
from edgekit_fleet.store.tokens import Tokens
from edgekit_fleet.web.bus import Bus


@pytest.fixture
def site(tmp_path):
    with contextlib.closing(Site(tmp_path)) as made:
        made.add("cam-1", "cam-2", "cam-3")
        tokens = Tokens(made.database)
        made.tokens = {role: tokens.create(role, made.now_ms) for role in ("viewer", "operator")}
        with serving(tokens, api.router(made.engine)) as url:
            made.url = url
            made.client = FleetClient(url, made.tokens["operator"])
            yield made


def create(site, **about):
    return site.client.json(
        "POST", "/api/v1/rollouts", {"model": MODEL, "version": "2.0.0", "waves": ["1", "100%"], **about}
    )


def test_a_rollout_is_created_shown_paused_resumed_and_aborted(site):
    made = create(site, soak_s=5)
    path = f"/api/v1/rollouts/{made['id']}"
    assert (made["state"], made["wave"], [wave["devices"] for wave in made["waves"]]) == (
        "running",
        1,
        [1, 2],
    )
    site.tick()
    shown = site.client.json("GET", path)
    assert [wave["directed"] for wave in shown["waves"]] == [1, 0]
    assert shown["spec"]["guards"]["error_ratio"] == 0.02
    assert site.client.json("POST", f"{path}/pause", {"reason": "lunch"})["reason"] == "lunch"
    assert site.client.json("POST", f"{path}/resume")["state"] == "running"
    assert site.client.json("POST", f"{path}/abort")["state"] == "aborted"
    site.tick()
    shown = site.client.json("GET", path)
    assert [wave["restored"] for wave in shown["waves"]] == [1, 0]
    assert [entry["text"] for entry in shown["log"]][1:4] == ["running", "paused: lunch", "running"]


def test_rollouts_are_listed_newest_first_and_in_pages(site):
    first = create(site)
    site.client.json("POST", f"/api/v1/rollouts/{first['id']}/abort")
    second = create(site)
    page = site.client.json("GET", "/api/v1/rollouts", params={"limit": "1"})
    assert [one["id"] for one in page["items"]] == [second["id"]]
    page = site.client.json("GET", "/api/v1/rollouts", params={"limit": "1", "cursor": page["next"]})
    assert ([one["id"] for one in page["items"]], page["next"]) == ([first["id"]], None)
    page = site.client.json("GET", "/api/v1/rollouts", params={"state": "aborted"})
    assert [one["id"] for one in page["items"]] == [first["id"]]


@pytest.mark.parametrize(
    "about",
    [{"version": "9.9.9"}, {"waves": ["0"]}, {"colour": "red"}, {"devices": ["ghost"]}, {"soak_s": "long"}],
)
def test_a_request_that_makes_no_sense_is_refused_as_usage(site, about):
    with pytest.raises(UsageError):
        create(site, **about)


def test_whether_a_version_fits_the_fleet_is_told_before_anybody_rolls_it_out(site):
    variant = Variant(id="fp16", backend="onnxruntime", accelerator="cuda", precision="fp16", files=())
    site.bundles.variants = (variant,)
    path = f"/api/v1/rollouts/fit?model={MODEL}&version="
    assert site.client.json("GET", f"{path}2.0.0") == {"devices": 0, "unfit": 0, "reasons": []}
    proved = (BackendFact(name="onnxruntime", accelerator="cpu", works=True),)
    for device in ("cam-1", "cam-2"):
        birth = wire.Birth(online=True, boot="b1", conn=2, hardware=Facts(arch="aarch64"), backends=proved)
        site.devices.take_birth(device, birth, site.now_ms)
    fit = site.client.json("GET", f"{path}2.0.0")
    assert (fit["devices"], fit["unfit"], len(fit["reasons"])) == (2, 2, 2)
    assert "cam-1: fp16: " in fit["reasons"][0]
    with pytest.raises(UsageError, match="not published"):
        site.client.json("GET", f"{path}9.9.9")


def test_a_viewer_looks_but_does_not_touch(site):
    made = create(site)
    viewer = FleetClient(site.url, site.tokens["viewer"])
    assert viewer.json("GET", f"/api/v1/rollouts/{made['id']}")["id"] == made["id"]
    with pytest.raises(ServerError, match="operator"):
        viewer.json("POST", f"/api/v1/rollouts/{made['id']}/abort")
    with pytest.raises(ServerError):
        FleetClient(site.url).json("GET", "/api/v1/rollouts")


def test_what_a_rollout_cannot_do_is_refused(site):
    made = create(site)
    with pytest.raises(UsageError, match="cannot resume"):
        site.client.json("POST", f"/api/v1/rollouts/{made['id']}/resume")
    with pytest.raises(ServerError):
        site.client.json("GET", "/api/v1/rollouts/r-0")


def run(capsys, *words):
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_line_does_all_of_it(site, capsys):
    where = ("--fleet", site.url, "--token", site.tokens["operator"])
    about = ("--model", MODEL, "--version", "2.0.0", "--waves", "1,100%", "--soak-s", 3, "--p99-ratio", 1.2)
    code, made = run(capsys, "rollout", "create", *about, *where)
    assert (code, made["spec"]["soak_s"], made["spec"]["guards"]["p99_ratio"]) == (0, 3, 1.2)
    assert run(capsys, "rollout", "create", *about, *where)[0] == 2
    assert run(capsys, "rollout", "list", *where)[1]["items"][0]["id"] == made["id"]
    assert run(capsys, "rollout", "show", made["id"], *where)[1]["state"] == "running"
    assert run(capsys, "rollout", "pause", made["id"], "--reason", "why not", *where)[1]["state"] == "paused"
    assert run(capsys, "rollout", "resume", made["id"], *where)[1]["state"] == "running"
    assert run(capsys, "rollout", "abort", made["id"], *where)[1]["state"] == "aborted"
    assert run(capsys, "rollout", "show", made["id"], "--watch", *where)[0] == 8
    assert run(capsys, "rollout", "show", "r-0", *where)[0] == 7
    assert main(["rollout", "show", made["id"], *where]) == 0
    assert "wave 1 (1): 1 devices" in capsys.readouterr().out


def test_a_watched_rollout_that_is_done_ends_the_command_well(site, capsys):
    where = ("--fleet", site.url, "--token", site.tokens["operator"])
    made = create(site, waves=["100%"], soak_s=0)
    site.tick()
    for device in site.devices_by_id.values():
        device.commits()
    site.tick(1)
    code, shown = run(capsys, "rollout", "show", made["id"], "--watch", *where)
    assert (code, shown["state"]) == (0, "done")


def test_the_engine_works_by_itself_and_answers_devices(tmp_path):
    """The thread, the hooks and the bus, as the fleet manager starts them."""
    with contextlib.closing(Site(tmp_path)) as site:
        site.add("cam-1")
        told = threading.Event()

        class Downlink(Retained):
            def publish(self, *args, **more):
                super().publish(*args, **more)
                told.set()

        site.downlink = Downlink()
        hooks = Hooks()
        service = RolloutService(
            site.database,
            KEY,
            Bundles("2.0.0"),
            downlink=site.downlink,
            commanding=None,
            bus=Bus(),
            hooks=hooks,
        )
        engine = service.engine
        try:
            engine.create(api.make_spec({"model": MODEL, "version": "2.0.0"}))
            assert told.wait(10)
            assert site.wishes() == {"cam-1": "2.0.0"}
            version = engine.desired.of_device("cam-1").version
            answer = hooks.requests["desired"]("cam-1", wire.Request(7, "desired"))
            assert answer == wire.Response(7, {"version": version})
            behind = wire.Birth(online=True, boot="b1", conn=2, desired=version - 1)
            site.downlink.sent.clear()
            for hook in hooks.on_state:
                hook("cam-1", behind)
            assert site.downlink.sent == ["cam-1"]
            (rollout,) = engine.store.page()
            assert rollout.state is State.RUNNING
        finally:
            service.stop()
