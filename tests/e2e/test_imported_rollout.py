"""A foreign detector becomes a bundle, is signed and published, and comes to a device by a rollout."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from agent_stage import AgentStage, FleetStage

from edgekit.importer.editing import set_fields
from edgekit.importer.importing import import_model

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("_proved_once")]

FOLDER = Path(__file__).parents[2] / "examples" / "detect"
PIPELINE = """[pipeline]
name = "shapes"
model = "shapes"
[source]
kind = "synthetic"
realtime = true
fps = 20
"""


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    """Two versions of our detector, imported from its export."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import net

    first = import_model(net.export(tmp_path / "net.onnx"), tmp_path / "1.0.0", name="shapes").path
    second = tmp_path / "2.0.0"
    shutil.copytree(first, second)
    set_fields(second, {"version": "2.0.0", "score_threshold": 0.4})
    for name in ("net", "scenes"):
        sys.modules.pop(name, None)
    return first, second


def test_an_imported_detector_is_rolled_out_and_runs(tmp_path, bundles):
    fleet = FleetStage(tmp_path)
    (tmp_path / "shapes.toml").write_text(PIPELINE)
    agent = AgentStage(tmp_path / "agent", '[[pipeline]]\nfile = "../shapes.toml"\ninitial = "../1.0.0"\n')
    fleet.start()
    try:
        agent.enroll(fleet, "box")
        agent.start()
        agent.runs("1.0.0", "shapes")
        fleet.publish(bundles[1])
        rollout = ("--model", "shapes", "--version", "2.0.0", "--waves", "100%", "--soak-s", 1)
        fleet.cli("rollout", "create", *rollout)
        agent.until(lambda s: s["models"]["shapes"]["active"] == "2.0.0", "the commit")
        agent.runs("2.0.0", "shapes")
    finally:
        if agent.process is not None:
            agent.stop()
        fleet.stop()
