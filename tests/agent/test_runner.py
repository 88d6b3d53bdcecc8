"""How a configuration becomes a loop: its model, its sinks, the agent's own link."""

import pytest
from pipeline_fakes import ListSink, make_predictor

from edgekit.agent.worker.opening import model_path
from edgekit.agent.worker.runner import make_keeper, make_loop
from edgekit.core.errors import ConfigError
from edgekit.pipeline.config import parse_config


def test_a_model_is_looked_for_beside_the_file_and_its_lack_is_told(tmp_path):
    (tmp_path / "tiny").mkdir()
    config = parse_config(
        '[pipeline]\nname = "p"\nmodel = "tiny"\n[source]\nkind = "synthetic"', folder=str(tmp_path)
    )
    assert model_path(config) == tmp_path / "tiny"
    other = parse_config(
        '[pipeline]\nname = "p"\nmodel = "absent"\n[source]\nkind = "synthetic"', folder=str(tmp_path)
    )
    with pytest.raises(ConfigError, match="model 'absent': there is no such bundle"):
        model_path(other)
    with pytest.raises(ConfigError, match="model 'face-embed': there is no such bundle"):
        model_path(other, "face-embed")


def test_sinks_are_closed_where_a_later_one_cannot_be_opened(tmp_path):
    config = parse_config(
        '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\n'
        '[[sink]]\nkind = "jsonl"\npath = "a.jsonl"\n[[sink]]\nkind = "callback"',
        folder=str(tmp_path),
    )
    with pytest.raises(ConfigError, match="callback"):
        make_loop(config, make_predictor())


def test_an_agents_own_link_takes_the_place_of_a_broker_without_a_url(tmp_path):
    config = parse_config(
        '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\nframes = 3\n'
        '[privacy]\negress = ["counts"]\n[[sink]]\nkind = "mqtt"',
        folder=str(tmp_path),
    )
    sink = ListSink()
    make_loop(config, make_predictor(), sinks=(sink,)).run()
    assert sink.seqs == [0, 1, 2]


def budgeted(source, budget, more=""):
    return parse_config(
        '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\n'
        f"{source}\n[budget]\n{budget}\n{more}"
    )


def test_a_resolution_that_cannot_change_is_refused_with_the_reason(tmp_path):
    video = f'[[sink]]\nkind = "video"\npath = "{tmp_path}/a.mp4"'
    config = budgeted("realtime = true", 'p95_ms = 50\norder = ["resolution"]', video)
    with pytest.raises(ConfigError, match="'resolution' is not possible: a video has frames of one size"):
        make_loop(config, make_predictor(), keeper=make_keeper(config, print))


def test_a_source_that_waits_for_its_reader_has_no_budget_to_keep_and_that_is_said(caplog):
    config = budgeted("frames = 3", "p95_ms = 50")
    document = make_loop(config, make_predictor(), keeper=make_keeper(config, print)).run()
    assert "budget" not in document
    assert "the budget is not kept: the source 'synthetic' waits" in caplog.text


def test_without_a_limit_nobody_keeps_a_budget():
    assert make_keeper(budgeted("realtime = true", 'order = ["variant"]'), print) is None


def test_heat_below_a_made_root_lowers_the_rate_of_a_run(tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal")
    (zone / "temp").write_text("91000")
    config = budgeted("realtime = true\nfps = 200", "max_temperature_c = 80\nmax_power_w = 5")
    texts = []

    def changed(text, is_down):
        texts.append((text, is_down))
        loop.stop()

    loop = make_loop(config, make_predictor(), keeper=make_keeper(config, print, changed, tmp_path))
    document = loop.run(seconds=60)
    assert texts == [("full -> rate 1/2: temperature_c 91.0 of 80", True)]
    assert document["budget"] == {"setting": "rate 1/2", "changes": 1}
