"""Metrics with bounded cardinality; dashboard and alert rules name only metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fleet_kit import composed

from edgekit.core import wire
from edgekit_fleet.app.metrics import MAX_SERIES, render
from edgekit_fleet.app.rates import MAX_NAMES, RECENT_MS, SLOT_MS, Rate, Rates
from edgekit_fleet.web.throttle import Throttle

MONITORING = Path(__file__).parents[3] / "fleet" / "deploy" / "monitoring"
RULES, DASHBOARD = MONITORING / "edgekit-fleet.rules.yml", MONITORING / "dashboard.json"
SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="([^"\\]|\\.)*"(,[a-z_]+="([^"\\]|\\.)*")*\})? [-+0-9.e]+')


@pytest.fixture
def metrics(tmp_path):
    with composed(tmp_path) as fleet:
        yield lambda: render(fleet.services, Throttle()), fleet.services


def test_every_metric_has_a_text_a_kind_and_well_formed_samples(metrics):
    lines = metrics[0]().splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in lines if line.startswith("# HELP")}
    for line in lines:
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def test_ten_thousand_models_of_a_hostile_device_make_no_ten_thousand_series(metrics):
    text, services = metrics
    services.devices.enroll("d", 0, None)
    with services.database.transaction() as sql:
        sql.executemany(
            "INSERT INTO device_model VALUES ('d', ?, '1.0.0', 'v')",
            [(f'm"{number}\n\\',) for number in range(10_000)],
        )
    lines = [line for line in text().splitlines() if line.startswith("edgekit_fleet_devices_running")]
    assert len(lines) == MAX_SERIES + 1
    assert all(SAMPLE.fullmatch(line) for line in lines)
    assert f'{{model="other",version="other"}} {10_000 - MAX_SERIES}' in lines[-1]


def test_dashboard_and_rules_name_only_metrics_that_there_are(metrics):
    known = {line.split()[2] for line in metrics[0]().splitlines() if line.startswith("# TYPE")}
    expressions = [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
    ]
    expressions += re.findall(r"expr: (.*)", RULES.read_text())
    assert len(expressions) > 25
    for expression in expressions:
        assert set(re.findall(r"edgekit_fleet_[a-z_]+", expression)) <= known, expression


def test_promtool_accepts_rules_and_metrics(metrics):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    checked = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics[0](), capture_output=True, text=True, check=False
    )
    assert checked.returncode in (0, 3), checked.stdout + checked.stderr  # 3: advice on names


def test_rates_are_of_the_last_two_minutes_and_of_a_bounded_number_of_versions():
    clock = [1_000_000]
    rates = Rates(lambda: clock[0])

    def reports(model, frames):
        return wire.MetricReport(
            mono_ns=1,
            unix_ms=1,
            pipeline="p",
            model=model,
            version="1.0.0",
            variant="v",
            period_s=10.0,
            frames=frames,
            errors=1,
        )

    clock[0] += 60_000
    rates.take("d", [reports("a", 600)])
    assert rates.by_version() == {("a", "1.0.0"): Rate(10.0, 1 / 60, 0.0)}, "of the minute since the start"
    clock[0] += RECENT_MS + SLOT_MS
    assert rates.by_version() == {}
    rates.take("d", [reports(f"m{number}", 1) for number in range(MAX_NAMES + 5)])
    assert len(rates.by_version()) == MAX_NAMES + 1
    assert rates.by_version()["other", "other"].frames == pytest.approx(5 / 120)
