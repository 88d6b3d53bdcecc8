"""The web UI in a real browser: live rows, charts, a rollout that moves, nothing from elsewhere."""

from urllib.parse import urlsplit

from browser import wait_until

from edgekit_fleet.rollout.plan import make_spec


def assert_clean(browser, site):
    """Nothing was asked of another origin, no policy was violated, no script failed."""
    hosts = {urlsplit(url).netloc for url in browser.requested()}
    assert hosts <= {urlsplit(site.url).netloc}
    assert browser.complaints() == []


def state_of_row(device):
    return f'tr[data-device="{device}"] .pill'


def test_a_link_signs_in_and_the_devices_table_is_live(site, browser):
    device = site.device("cam-1").appears().reports().measures(frames=300)
    other = site.device("cam-2").appears()
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.open(f"{site.url}/devices")
    browser.until(".link", "live")
    assert browser.text(state_of_row("cam-1")) == "online"
    assert browser.text('tr[data-device="cam-1"] td[data-label="Frames/s"]') == "30"
    browser.run("document.querySelector('tr[data-device=\"cam-2\"]').firstElementChild.mark = 'untouched'")
    browser.holds("document.getElementById('link').dataset.state === 'on'")

    device.reports(state="failed")
    browser.until(state_of_row("cam-1"), "failed")
    device.appears(online=False)
    browser.until(state_of_row("cam-1"), "offline")
    mark = "return document.querySelector('tr[data-device=\"cam-2\"]').firstElementChild.mark"
    assert browser.run(mark) == "untouched"  # only rows that changed were replaced
    other.appears(online=False)
    browser.until(state_of_row("cam-2"), "offline")
    site.device("cam-3").appears()
    browser.until('tr[data-device="cam-3"]', "online")  # a new device joins the list
    assert_clean(browser, site)


def test_what_changed_before_the_page_listens_is_shown_too(site, browser):
    device = site.device("cam-1").appears().reports()
    browser.open(site.link())
    browser.until("h1", "Overview")
    site.live.is_open = False
    browser.open(f"{site.url}/devices/cam-1")
    browser.until(".log", "Nothing happened yet")
    device.alerts("the camera vanished")
    site.live.is_open = True
    browser.until(".log", "the camera vanished")
    assert_clean(browser, site)


def test_the_filter_asks_the_server_and_the_keyboard_reaches_it(site, browser):
    for number in range(3):
        site.device(f"cam-{number}").appears()
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.open(f"{site.url}/devices")
    browser.until(".pages", "3 devices")
    browser.type("body", "/")
    assert browser.run("return document.activeElement.id") == "filter"
    browser.type("#filter", "cam-2")
    browser.until(".pages", "1 device")
    assert browser.run("return document.querySelectorAll('tr[data-device]').length") == 1
    browser.holds("location.search.startsWith('?q=cam-2')")
    assert_clean(browser, site)


def test_charts_draw_in_both_colour_schemes(site, browser):
    device = site.device("cam-1").appears().reports()
    for number in range(30):
        device.measures(infer_ms=3 + number % 5, age_s=20 * number, temperature_c=50.0)
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.prefer("light")
    browser.open(f"{site.url}/devices/cam-1")
    browser.until("figure .u-legend", "p99")
    inked = """
      return [...document.querySelectorAll('figure:not([hidden]) canvas')].map((canvas) => {
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((value, index) => index % 4 === 3 && value > 0).length;
      });
    """
    light = browser.run(inked)
    assert len(light) == 4
    assert min(light) > 1000
    axis = "return getComputedStyle(document.documentElement).getPropertyValue('--line-1').trim()"
    before = browser.run(axis)
    browser.prefer("dark")
    assert browser.run(axis) != before
    browser.until("figure .u-legend", "p99")
    device.measures(infer_ms=90.0)
    browser.until("figure .u-legend", "ms")
    browser.holds("document.querySelectorAll('canvas').length === 4")
    assert min(browser.run(inked)) > 1000
    assert_clean(browser, site)


def test_an_event_shows_up_while_one_watches_and_a_command_is_sent(site, browser):
    device = site.device("cam-1").appears().reports(model={"previous": "0.9.0"})
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.open(f"{site.url}/devices/cam-1")
    browser.until(".log", "Nothing happened yet")
    device.alerts("the camera vanished")
    browser.until(".log", "the camera vanished")
    browser.click("button.danger")
    browser.until(".log .kind", "rollback")
    (sent,) = site.services.commanding.of_device("cam-1")
    assert (sent.kind, sent.args) == ("rollback", {"model": "motion"})
    browser.type("#switch [name=to]", "night")
    device.alerts("the camera is back")
    browser.until(".log", "the camera is back")  # the page was replaced round what is being typed
    browser.click("#switch button")
    browser.until("#h-commands + .log", "switch")
    turned = [one.args for one in site.services.commanding.of_device("cam-1") if one.kind == "switch"]
    assert turned == [{"pipeline": "gate", "to": "night"}]
    assert_clean(browser, site)


def test_a_rollout_moves_before_ones_eyes_and_can_be_paused(site, browser):
    site.publish("2.0.0")
    devices = {name: site.device(name).appears().reports() for name in ("a", "b", "c", "d")}
    engine = site.services.rollouts.engine
    rollout = engine.create(
        make_spec({"model": "motion", "version": "2.0.0", "waves": ["1", "100%"], "soak_s": 0})
    )
    engine.tick()
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.until(".rollout", "0 of 4 done")
    browser.open(f"{site.url}/rollouts/{rollout.id}")
    browser.until(".heading", "0 of 4 devices done")
    (canary,) = (one.device for one in engine.store.participants(rollout) if one.is_directed)
    devices[canary].updates(rollout.id, "COMMITTED")
    devices[canary].reports(active="2.0.0")
    browser.until(".heading", "1 of 4 devices done")
    browser.until(".waves .current", "Wave 2")
    browser.click('button[formaction$="/pause"]')
    browser.until("h1 .pill", "paused")
    assert engine.store.get(rollout.id).state.value == "paused"
    browser.click('button[formaction$="/resume"]')
    browser.until("h1 .pill", "running")
    next_one = next(name for name in devices if name != canary)
    devices[next_one].updates(rollout.id, "REJECTED", reason="golden sample 3 differs")
    browser.until("h1 .pill", "halted")
    browser.until(".problem", "Every updated device returns")
    assert_clean(browser, site)


def test_a_policy_violation_would_be_noticed(site, browser):
    """The check of the other tests sees what it is there to see."""
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.run("document.body.setAttribute('style', 'color: red')")
    browser.run("await fetch('http://127.0.0.2:9/').catch(() => 0)")
    wait_until(lambda: len(browser.complaints()) >= 2, "two complaints")


def test_pages_work_without_scripts_and_fit_a_telephone(site, browser):
    site.publish("1.0.0")
    site.device("cam-1").appears().reports(rejected={"motion@2.0.0": "x" * 300}).measures()
    site.device("d" * 64).appears().alerts("y" * 400)
    browser.open(site.link())
    browser.until("h1", "Overview")
    browser.resize(400, 800)
    for path in (
        "/",
        "/devices",
        "/devices/cam-1",
        "/bundles",
        "/bundles/motion/1.0.0",
        "/rollouts",
        "/rollouts/new",
    ):
        browser.open(f"{site.url}{path}")
        widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1], path
    browser.without_scripts()
    browser.open(f"{site.url}/devices/cam-1")
    browser.click(".actions button")
    (sent,) = wait_until(lambda: site.services.commanding.of_device("cam-1"), "the command")
    assert sent.kind == "report"
