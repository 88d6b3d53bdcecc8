# ruff: noqa: E501  scripts read best on one line
"""The page in a real browser, from a file, with nothing beside it."""

import base64
import json

import pytest
from browser import wait_until
from study_made_up import bare, candidate, study

from edgekit_optimize.report.write import write_report

SHOWN = (
    "return [...document.querySelectorAll('.plot.wide .view:not([display])')].map(one => one.dataset.view)"
)
PLACES = """
  const found = [...document.querySelectorAll('.plot.wide a.point:not([display])')];
  await Promise.all(document.getAnimations().map((one) => one.finished));
  return Object.fromEntries(found.map((one) => [one.dataset.words.split('\\n')[0], one.getBoundingClientRect().x]));
"""
COLUMN = "return [...document.querySelectorAll('.sheet tbody tr')].map(one => one.cells[%d].dataset.v ?? one.cells[%d].textContent)"


@pytest.fixture
def shown(browser, tmp_path):
    """Show a study; what the browser asked for or complained of is checked at the end."""

    def show(whole, width=1280):
        path, _ = write_report(whole, tmp_path)
        browser.resize(width, 1000)
        browser.prefer("light")
        browser.open(path.as_uri())
        return browser

    before = len(browser.complaints())
    yield show
    assert browser.requested() == []
    # those of a page that another test showed may come late; each names its page
    late = [one for one in browser.complaints() if "/report.html" in one and tmp_path.name not in one]
    assert [one for one in browser.complaints()[before:] if one not in late] == []


def press(browser, keys):
    browser.type("body", keys)


def test_a_click_on_a_heading_sorts_and_another_turns_the_order(shown):
    browser = shown(study())
    browser.click(".sheet thead th:nth-child(8) button")
    up = browser.run(COLUMN % (7, 7))
    values = [float(one) for one in up if one]
    assert values == sorted(values)
    assert len(set(values)) > 10
    assert up[-1] == ""  # what was not measured stays last
    assert browser.run("return document.querySelector('.sheet th:nth-child(8)').ariaSort") == "ascending"
    browser.click(".sheet thead th:nth-child(8) button")
    down = browser.run(COLUMN % (7, 7))
    assert [float(one) for one in down if one] == values[::-1]
    assert down[-1] == ""
    browser.click(".sheet thead th:nth-child(1) button")
    names = browser.run(
        "return [...document.querySelectorAll('.sheet tbody th code')].map(one => one.textContent)"
    )
    assert names == sorted(names)


def test_the_axis_switches_by_mouse_and_by_keyboard(shown):
    browser = shown(study())
    assert browser.run(SHOWN) == ["latency-0"]
    by_time = browser.run(PLACES)
    assert by_time["litert-int8"] < by_time["litert-fp32"] < by_time["onnxruntime-dynamic"]
    browser.click('input[name="axis"][value="size"]')
    assert browser.run(SHOWN) == ["size"]
    by_size = browser.run(PLACES)
    assert by_size["onnxruntime-per-tensor"] < by_size["litert-int8"] < by_size["litert-fp32"]
    element = browser.call("element", using="css selector", value='input[name="axis"]:checked')
    browser.call(f"element/{next(iter(element.values()))}/value", text="\ue015")  # arrow down
    assert browser.run(SHOWN) == ["memory-0"]
    browser.click('input[name="place"][value="2"]')
    browser.click('input[name="axis"][value="latency"]')
    assert browser.run(SHOWN) == ["latency-2"]
    assert set(browser.run(PLACES)) == {"litert-int8", "litert-fp32"}
    missing = browser.run(
        "return [...document.querySelectorAll('[data-missing]:not([hidden])')].map(one => one.textContent)"
    )
    assert len(missing) == 1
    assert "onnxruntime-int8" in missing[0]


def test_a_point_tells_its_row_on_hover_and_on_focus(shown):
    browser = shown(study())
    index = [one.plan.id for one in study().candidates].index("openvino-qdq")
    browser.run(f"document.querySelector('.plot.wide a.point[data-c=\"{index}\"]').focus()")
    assert browser.text("#row-card code") == "openvino-qdq"
    assert "87.85 %" in browser.text("#row-card")
    assert browser.run(f"return document.getElementById('c-{index}').classList.contains('lit')")
    label = browser.run("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("openvino-qdq, top-1: 87.85 %, lost: ")
    browser.run("document.activeElement.blur()")
    assert not browser.run(f"return document.getElementById('c-{index}').classList.contains('lit')")


def test_the_tab_key_reaches_the_points_and_can_skip_them(shown):
    browser = shown(study())
    browser.run("document.querySelector('#plot .skip').focus()")
    element = browser.run("return document.activeElement.textContent")
    assert element == "Skip the plot"
    active = browser.call("element", using="css selector", value="#plot .skip")
    browser.call(f"element/{next(iter(active.values()))}/value", text="\ue004")  # Tab
    assert browser.run("return document.activeElement.classList.contains('point')")


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("whole", [study(), bare()], ids=["whole", "bare"])
def test_it_fits_every_width(shown, width, whole):
    browser = shown(whole, width)
    widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    plots = browser.run(
        "return [...document.querySelectorAll('.plot')].filter(one => one.checkVisibility()).length"
    )
    assert plots == (1 if whole.candidates else 0)


def test_letters_of_the_plot_can_be_read_on_a_telephone(shown):
    browser = shown(study(), 390)
    sizes = browser.run(
        "return [...document.querySelectorAll('.plot.narrow .tick')].map(one => one.getBoundingClientRect().height).filter(one => one)"
    )
    assert min(sizes) >= 10


def test_dark_is_dark(shown):
    browser = shown(study())
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.prefer("dark")
    assert browser.run(ground) != light


def test_on_paper_all_is_unfolded_and_light(shown):
    browser = shown(study())
    browser.prefer("dark")
    opened = "return document.querySelectorAll('details:not([open])').length"
    assert browser.run(opened) > 3
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run(opened) == 0
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run(opened) > 3
    browser.run("dispatchEvent(new Event('beforeprint'))")
    browser.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"media": "print"})
    browser.resize(690, 1000)  # A4 within its margins, in CSS pixels
    widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    browser.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"media": ""})
    assert base64.b64decode(browser.call("print", background=True)).startswith(b"%PDF")


def test_hostile_names_neither_run_nor_load_anything(shown):
    bad = (
        "<script>window.ran=1</script><img src=//127.0.0.2:9/x onerror=window.ran=1><svg onload=window.ran=1>"
    )
    row = (f"q{bad}", "onnx-static", "onnxruntime", "int8", 0.877, 5.0, 5.0, 60, True, True, 1.0)
    browser = shown(
        study(model=bad, warnings=(bad,), candidates=(*study().candidates, candidate(row)), metric=bad)
    )
    assert browser.run("return window.ran ?? 0") == 0
    assert browser.text("h1").startswith(bad)
    index = len(study().candidates)
    browser.run(f"document.querySelector('.plot.wide a.point[data-c=\"{index}\"]').focus()")
    assert browser.text("#row-card code") == f"q{bad}"
    assert browser.run("return document.images.length") == len(study().worst)


def test_the_policy_stops_what_escaping_would_have_missed(browser, tmp_path):
    """The check of the other tests sees what it is there to see."""
    before = len(browser.complaints())
    path, _ = write_report(study(), tmp_path)
    text = path.read_text().replace("<main>", "<main><script>window.ran=1</script><b style='color:red'>x</b>")
    path.write_text(text)
    browser.open(path.as_uri())
    browser.run("await fetch('http://127.0.0.2:9/').catch(() => 0)")
    assert browser.run("return window.ran ?? 0") == 0
    wait_until(lambda: len(browser.complaints()) >= before + 3, "three complaints")


def test_without_a_script_it_still_shows_all(shown):
    browser = shown(study())
    words = browser.text("main")
    browser.without_scripts()
    try:
        browser.call("refresh")
        assert json.dumps(browser.text("#candidates table")) != "null"
        hidden = browser.run(
            "return [...document.querySelectorAll('.needs-script')].every(one => !one.checkVisibility())"
        )
        assert hidden
        assert browser.run("return document.querySelectorAll('.plot.wide a.point title').length") == 16
        assert "Every time that was measured" in words
    finally:
        browser.call("goog/cdp/execute", cmd="Emulation.setScriptExecutionDisabled", params={"value": False})
