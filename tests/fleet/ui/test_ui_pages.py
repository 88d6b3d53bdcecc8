"""What the web UI's pages say, to whom, and what they refuse; over real HTTP."""

import re

import httpx
import pytest
from ui_kit import now_ms

from edgekit.core import wire
from edgekit_fleet.rollout.plan import make_spec
from edgekit_fleet.ui.guard import POLICY
from edgekit_fleet.ui.site import COOKIE

PAGES = ("/", "/devices", "/bundles", "/rollouts", "/rollouts/new")
HOSTILE = "<script>alert(1)</script>\"'"


def get(site, path, **more):
    return httpx.get(f"{site.url}{path}", **more)


def start_rollout(site, **more):
    engine = site.services.rollouts.engine
    return engine, engine.create(make_spec({"model": "motion", "version": "2.0.0", **more}))


# Signing in


def test_nobody_sees_a_page_without_signing_in(site):
    for path in (*PAGES, "/devices/cam-1", "/devices/cam-1/series", "/devices-rows", "/live"):
        answer = get(site, path)
        assert (answer.status_code, answer.headers["location"][:12]) == (303, "/login?next=")
    partial = get(
        site, "/devices", headers={"HX-Request": "true", "HX-Current-URL": f"{site.url}/devices?q=a"}
    )
    assert partial.headers["HX-Redirect"] == "/login?next=/devices%3Fq%3Da"


def test_a_login_link_works_once_and_its_cookie_is_strict(site):
    link = site.link()
    first, second = httpx.get(link), httpx.get(link)
    cookie = first.headers["set-cookie"].lower()
    assert (first.status_code, second.status_code) == (200, 401)
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "set-cookie" not in second.headers
    assert "used already" in second.text


def test_pages_answer_head_as_get_without_a_body(site):
    with site.visitor() as visitor:
        for path in (*PAGES, "/live", "/login"):
            answer = visitor.head(path)
            assert (path, answer.status_code, answer.content) == (path, 200, b"")
        assert visitor.head("/devices").headers["content-type"] == "text/html; charset=utf-8"


def test_a_preview_of_a_login_link_does_not_use_it_up(site):
    link = site.link()
    assert "set-cookie" not in httpx.head(link).headers
    assert "set-cookie" in httpx.get(link).headers


def test_a_login_link_is_too_old_after_a_quarter_of_an_hour(site):
    sessions = site.fleet.services.database
    with sessions.transaction() as sql:
        link = site.link()
        sql.execute("UPDATE login_code SET expires_ms = ?", (now_ms() - 1,))
    assert httpx.get(link).status_code == 401


def test_a_token_signs_in_and_the_browser_goes_where_it_wanted(site):
    headers = {"Origin": site.url}
    token = site.token("viewer")
    answer = httpx.post(f"{site.url}/login", data={"token": token, "next": "/devices?q=a"}, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices?q=a")
    assert httpx.get(f"{site.url}/", cookies=answer.cookies).status_code == 200
    wrong = httpx.post(f"{site.url}/login", data={"token": token + "x"}, headers=headers)
    assert wrong.status_code == 401
    elsewhere = {"token": token, "next": "//elsewhere.example"}
    assert httpx.post(f"{site.url}/login", data=elsewhere, headers=headers).headers["location"] == "/"


def test_a_session_ends_with_signing_out_and_with_its_token(site):
    with site.visitor() as first:
        assert first.get("/").status_code == 200
        kept = first.cookies[COOKIE]
        assert first.post("/logout").headers["location"] == "/login"
        assert get(site, "/", cookies={COOKIE: kept}).status_code == 303
    with site.visitor("viewer") as second:
        number = next(one.id for one in site.services.tokens.all() if one.role == "viewer")
        site.services.tokens.revoke(number)
        assert second.get("/").status_code == 303


def test_the_database_holds_no_session_that_could_be_used(site):
    with site.visitor() as client:
        secret = client.cookies[COOKIE]
    with site.services.database.read() as sql:
        assert secret not in str([tuple(row) for row in sql.execute("SELECT * FROM session")])


def test_the_api_makes_login_links_for_the_token_that_asks(site):
    bearer = {"Authorization": f"Bearer {site.token('operator')}"}
    made = httpx.post(f"{site.url}/api/v1/login-links", headers=bearer)
    assert made.status_code == 201
    with httpx.Client() as client:
        client.get(made.json()["url"])
        assert "operator · sign out" in client.get(f"{site.url}/").text
    assert httpx.post(f"{site.url}/api/v1/login-links").status_code == 401


# Hostile pages and hostile devices


def test_every_answer_has_the_strict_policy_and_no_page_has_inline_script_or_style(site):
    site.publish("1.0.0")
    site.device("cam-1").appears().reports().measures()
    site.publish("2.0.0")
    _, rollout = start_rollout(site)
    with site.visitor() as client:
        paths = (
            "/devices/cam-1",
            "/bundles/motion/1.0.0",
            f"/rollouts/{rollout.id}",
            "/devices/nobody",
            "/login",
        )
        for path in (*PAGES, *paths):
            answer = client.get(path)
            assert answer.headers["content-security-policy"] == POLICY, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! src=\"/static/)", answer.text), path
            assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", answer.text), path
    assert get(site, "/api/v1/health").headers["content-security-policy"] == POLICY


def test_what_a_hostile_device_says_is_shown_as_text(site):
    device = site.device("cam-1").appears(profile=HOSTILE)
    device.reports(rejected={f"motion@{HOSTILE}": HOSTILE}, model={"previous": HOSTILE}, state="failed")
    device.alerts(HOSTILE)
    device.durable(
        wire.EventRecord(
            mono_ns=1, unix_ms=1, pipeline=HOSTILE, model=HOSTILE, version="1", kind=HOSTILE, label=HOSTILE,
            image=b'"><script>alert(1)</script>',
        )
    )  # fmt: skip
    with site.visitor() as client:
        for path in ("/", "/devices", "/devices/cam-1", "/devices-rows?id=cam-1"):
            text = client.get(path).text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text, path
            assert "<script>alert" not in text, path
            assert 'alt="redacted' not in text  # no JPEG, so no picture


def test_a_search_is_shown_as_text(site):
    with site.visitor() as client:
        text = client.get("/devices", params={"q": HOSTILE, "state": HOSTILE}).text
    assert "<script>alert" not in text


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {}],
)
def test_posts_of_other_sites_are_refused(site, headers):
    site.device("cam-1").appears()
    with site.visitor() as client:
        del client.headers["Origin"]
        for path in ("/devices/cam-1/commands", "/rollouts/new", "/login", "/logout"):
            answer = client.post(path, data={"kind": "restart"}, headers=headers)
            assert (answer.status_code, "another site" in answer.text) == (403, True)
    assert site.services.commanding.of_device("cam-1") == []


def test_a_form_that_is_too_long_or_no_text_is_refused(site):
    with site.visitor() as client:
        assert client.post("/rollouts/new", content=b"a=" + b"x" * 70_000).status_code == 413
        assert client.post("/rollouts/new", content=b"\xff\xfe=1").status_code == 400
        assert client.post("/rollouts/new", content=b"a=1&" * 500).status_code == 400


# Roles


def test_a_viewer_looks_and_an_operator_acts(site):
    site.device("cam-1").appears().reports(model={"previous": "0.9.0"})
    with site.visitor("viewer") as client:
        page = client.get("/devices/cam-1").text
        assert "Restart pipelines" not in page
        assert client.post("/devices/cam-1/commands", data={"kind": "restart"}).status_code == 403
        assert client.get("/rollouts/new").status_code == 403
        assert client.post("/rollouts/new", data={}).status_code == 403
        assert client.post("/rollouts/r-1/abort").status_code == 403
    with site.visitor("operator") as client:
        assert "Roll motion back to 0.9.0" in client.get("/devices/cam-1").text
        answer = client.post("/devices/cam-1/commands", data={"kind": "rollback", "model": "motion"})
        assert answer.headers["location"] == "/devices/cam-1"
        assert client.post("/devices/cam-1/commands", data={"kind": "format-disk"}).status_code == 422
        turned = {"pipeline": "gate", "to": "off", "reason": "painting"}
        client.post("/devices/cam-1/commands", data={"kind": "switch", **turned})
    found = [(one.kind, one.args) for one in site.services.commanding.of_device("cam-1")]
    assert sorted(found) == [("rollback", {"model": "motion"}), ("switch", turned)]


# Devices


def test_devices_are_paged_filtered_and_sorted_on_the_server(site):
    for number in range(60):
        device = site.device(f"cam-{number:02d}")
        if number < 3:
            device.appears().measures(infer_ms=3.0 * (number + 1), frames=100 * (number + 1))
    with site.visitor("viewer") as client:

        def ids(**query):
            return re.findall(r'data-device="([^"]+)"', client.get("/devices", params=query).text)

        assert ids() == [f"cam-{n:02d}" for n in range(50)]
        assert ids(page=2) == [f"cam-{n:02d}" for n in range(50, 60)]
        assert ids(page=99) == ids(page=2)
        assert ids(q="CAM-5") == [f"cam-{n}" for n in range(50, 60)]
        assert ids(state="online") == ["cam-00", "cam-01", "cam-02"]
        assert ids(sort="fps", down=True)[:3] == ["cam-02", "cam-01", "cam-00"]
        assert ids(sort="p95", state="online") == ["cam-00", "cam-01", "cam-02"]
        assert ids(sort="state")[:3] == ["cam-00", "cam-01", "cam-02"]
        assert "Page 2 of 2" in client.get("/devices?page=2").text
        assert client.get("/devices?sort=password").status_code == 422


def test_the_overview_counts_by_state_and_sums_the_fleet_up(site):
    site.device("a").appears().reports().measures(frames=300)
    site.device("b").appears().reports(state="failed").measures(frames=100)
    trying = wire.UpdateState(state="TRIAL", model="motion", version="2.0.0")
    site.device("c").appears().reports(updates={"motion": trying})
    site.device("d").appears().appears(online=False)
    with site.visitor("viewer") as client:
        text = client.get("/").text
    tiles = dict(re.findall(r'href="/devices\?state=(\w+)"><strong>(\d+)<', text))
    assert tiles == {"online": "1", "updating": "1", "failed": "1", "offline": "1"}
    assert "<strong>40</strong><span>frames/s" in text


def test_the_numbers_of_the_last_minute_are_there_after_a_restart(site):
    from edgekit_fleet.app.application import ui_parts
    from edgekit_fleet.ui.assets import Assets
    from edgekit_fleet.ui.site import Site

    site.device("a").appears().reports(state="failed").measures(frames=300)
    again = Site(ui_parts(site.services), Assets())
    assert again.recent.pace("a").fps == 30
    assert again.recent.condition("a") == "failed"


def test_a_device_page_says_why_and_what_it_rejects(site):
    device = site.device("cam-1").appears()
    device.reports(rejected={"motion@2.0.0": "golden sample 0 differs"}, sensors={"temperature_c": 51.0})
    with site.visitor() as client:
        text = client.get("/devices/cam-1").text
        assert client.get("/devices/nobody").status_code == 404
    for wanted in (
        "measured 3.1 ms here; edgetpu: no driver is bound",
        "the package is not installed",
        "golden sample 0 differs",
        "51 °C",
        "Raspberry Pi 5 Model B",
    ):
        assert wanted in text


def test_a_device_that_never_spoke_has_a_page(site):
    site.device("cam-1")
    with site.visitor() as client:
        assert "No model reported yet" in client.get("/devices/cam-1").text


def test_events_are_paged_back_to_the_first(site):
    device = site.device("cam-1").appears()
    for number in range(45):
        device.alerts(f"alert number {number};")
    with site.visitor() as client:
        newest = client.get("/devices/cam-1").text
        older = client.get(re.search(r'href="([^"]+)">Older', newest).group(1)).text
    assert "alert number 44;" in newest
    assert "alert number 4;" not in newest
    assert "alert number 4;" in older
    assert "Older" not in older


def test_an_event_shows_its_trace_and_the_api_finds_it_by_that(site):
    device, trace_id = site.device("cam-1").appears(), "ab" * 16
    moment = {"mono_ns": 1, "unix_ms": now_ms(), "pipeline": "door", "model": "m", "version": "1.0.0"}
    for label, trace in (("parcel", trace_id), ("cat", "")):
        device.durable(wire.EventRecord(**moment, kind="appeared", label=label, trace_id=trace))
    with site.visitor() as client:
        assert f"trace {trace_id}" in client.get("/devices/cam-1").text
    bearer = {"Authorization": f"Bearer {site.token('viewer')}"}

    def labels(query):
        answered = get(site, f"/api/v1/events?trace_id={query}", headers=bearer)
        return (
            [row["body"]["label"] for row in answered.json()["items"]]
            if answered.status_code == 200
            else answered.status_code
        )

    assert labels(trace_id) == ["parcel"]
    assert labels("cd" * 16) == []
    assert labels("nonsense") == 422
    assert labels(f"{trace_id}&kind=alert") == 422


def test_charts_have_columns_with_temperature_only_where_there_is_one(site):
    site.device("hot").appears().measures(temperature_c=50.0, power_w=4.0)
    site.device("cold").appears().measures(errors=3)
    with site.visitor("viewer") as client:
        hot, cold = client.get("/devices/hot/series").json(), client.get("/devices/cold/series").json()
    assert (hot["temperature_c"], hot["fps"], cold["errors"]) == ([50.0], [30.0], [3])
    assert not [name for name in cold if name.endswith("_c")]
    assert "power_w" not in hot


# Bundles and rollouts


def test_a_bundle_page_names_its_key_its_variants_and_who_runs_it(site):
    site.publish("1.0.0")
    site.device("cam-1").appears().reports()
    with site.visitor("viewer") as client:
        listing, text = client.get("/bundles").text, client.get("/bundles/motion/1.0.0").text
        assert client.get("/bundles/motion/9.9.9").status_code == 404
        assert "Roll out" not in text
    assert "/bundles/motion/1.0.0" in listing
    keyring = site.services.registry.repository
    targets = keyring.metadata("targets").decode()
    assert re.search(r'"keyid":\s*"([0-9a-f]+)"', targets).group(1) in text
    assert "onnxruntime / cpu" in text
    assert 'href="/devices/cam-1"' in text


def test_bundles_are_paged(site, monkeypatch):
    monkeypatch.setattr("edgekit_fleet.ui.bundles.PAGE", 2)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        site.publish(version)
    with site.visitor() as client:
        first = client.get("/bundles").text
        second = client.get(re.search(r'href="([^"]+)">Older', first).group(1).replace("&amp;", "&")).text
    assert ("1.2.0" in first, "1.0.0<" in first) == (True, False)
    assert ("1.0.0<" in second, "Older" in second) == (True, False)


def test_the_form_begins_a_rollout_and_says_what_is_wrong(site):
    site.publish("2.0.0")
    site.device("cam-1").appears().reports()
    with site.visitor("operator") as client:
        form = client.get("/rollouts/new?model=motion&version=2.0.0").text
        assert '<option value="motion@2.0.0" selected>' in form
        values = {"bundle": "motion@2.0.0", "waves": "1, 100%", "error_ratio": "0.05", "soak_s": "5"}
        wrong = client.post("/rollouts/new", data={**values, "waves": "120%", "max_failures": "-1"})
        assert wrong.status_code == 422
        assert "more than all" in wrong.text
        assert 'value="120%"' in wrong.text
        assert "is not a whole number" in client.post("/rollouts/new", data={**values, "soak_s": "1.5"}).text
        made = client.post("/rollouts/new", data=values)
        assert made.status_code == 303
        page = client.get(made.headers["location"]).text
        assert "Wave 1" in page
        again = client.post("/rollouts/new", data=values)
        assert "is running" in again.text
    spec = site.services.rollouts.engine.store.page()[0].spec
    assert (spec.waves, spec.guards.error_ratio, spec.soak_s) == (("1", "100%"), 0.05, 5)


def test_a_rollout_is_paused_resumed_and_aborted(site):
    site.publish("2.0.0")
    site.device("cam-1").appears().reports()
    _, rollout = start_rollout(site)
    with site.visitor("operator") as client:
        path = f"/rollouts/{rollout.id}"
        for move, state, buttons in (
            ("pause", "paused", {"Resume", "Abort and roll back"}),
            ("resume", "running", {"Pause", "Abort and roll back"}),
            ("abort", "aborted", set()),
        ):
            assert client.post(f"{path}/{move}").headers["location"] == path
            page = client.get(path).text
            assert f">{state}</span>" in page
            assert set(re.findall(r"formaction[^>]+>([^<]+)<", page)) == buttons
        assert client.post(f"{path}/pause").status_code == 422  # it is over
        assert client.post(f"{path}/explode").status_code == 404
        assert client.get("/rollouts/r-none").status_code == 404


def test_a_rollout_page_shows_waves_guards_and_the_reason_of_a_halt(site):
    site.publish("2.0.0")
    devices = {name: site.device(name).appears().reports() for name in ("a", "b", "c")}
    for device in devices.values():
        device.measures(infer_ms=4.0)
    engine, rollout = start_rollout(site, waves=["1", "100%"], soak_s=0)
    engine.tick()
    canary = next(one.device for one in engine.store.participants(rollout) if one.is_directed)
    devices[canary].measures(version="2.0.0", infer_ms=5.0, errors=3)
    with site.visitor("viewer") as client:
        page = client.get(f"/rollouts/{rollout.id}").text
        assert "1.00 %" in page
        assert "3 of 300 frames on 1 updated devices" in page
        devices[canary].updates(rollout.id, "REJECTED", reason="golden sample 3 differs")
        engine.tick()
        page = client.get(f"/rollouts/{rollout.id}").text
        overview = client.get("/").text
    assert ">halted</span>" in page
    assert "golden sample 3 differs" in page
    assert "Every updated device returns" in page
    assert ">halted</span>" in overview


# Without the scripts


def test_without_the_fetched_scripts_pages_work_and_say_what_to_run(site, tmp_path, caplog):
    from edgekit_fleet.ui.assets import FOLDER, OWN, Assets

    bare = tmp_path / "static"
    bare.mkdir()
    for name in OWN:
        (bare / name).write_bytes((FOLDER / name).read_bytes())
    assets = Assets(bare)
    assert assets.missing == ["htmx.min.js", "uPlot.min.css", "uPlot.min.js"]
    assert "python fleet/hatch_build.py" in caplog.text
    assert assets.url("htmx.min.js") == ""


def test_files_are_kept_for_good_under_the_hash_of_their_content(site):
    with site.visitor() as client:
        page = client.get("/devices").text
        urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert len(urls) >= 3
        for url in urls:
            answer = client.get(url)
            assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
        assert client.get("/static/000000000000/edgekit.css").status_code == 404
        assert client.get("/static/x/..%2f..%2fsite.py").status_code == 404
